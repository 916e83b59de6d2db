"""The emotion classifier: a verified model bundle run by the installed TFLite runtime."""

from __future__ import annotations

import threading
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.contract import EMOTIONS, Bundle, BundleIncompatible, EmotionModel, load_bundle
from edge.runtime import RuntimeChoice, load_interpreter


class BundleClassifier:
    """Classifies face crops with the model of a bundle. Thread-safe, so that several cameras can share one.

    Args:
        path: The bundle's folder.
        runtime: The TFLite runtime to use.
        threads: Threads for one inference.

    Raises:
        BundleError: The bundle is missing, corrupt or incompatible, or its self-test failed.
        RuntimeMissing: No runtime is installed.
    """

    def __init__(self, path: Path, *, runtime: RuntimeChoice = "auto", threads: int = 1) -> None:
        self.bundle: Bundle = load_bundle(path, agent_version=metadata.version("edge-emotion"))
        labels = self.bundle.manifest.labels
        if not set(EMOTIONS) <= set(labels):
            raise BundleIncompatible(
                f"has the labels {', '.join(labels)}", where=path, remedy=f"The agent needs {', '.join(EMOTIONS)}"
            )
        # Other labels, such as contempt of FER+, are left out, so the probabilities are relative to these seven.
        self._columns = [labels.index(emotion) for emotion in EMOTIONS]
        self._model = EmotionModel(
            load_interpreter(self.bundle.model, runtime=runtime, threads=threads), self.bundle.manifest
        )
        self._lock = threading.Lock()
        self.bundle.self_test(self._model)

    def classify(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Returns calibrated logits, float32 (N, 7) in label order, for gray crops, uint8 (N, 48, 48); N may be 0."""
        with self._lock:
            return self._model.logits(crops)[:, self._columns]
