"""The emotion model on the device: a checked bundle behind whichever TFLite runtime is installed."""

from __future__ import annotations

import threading
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.contract import EMOTIONS, Bundle, BundleIncompatible, EmotionModel, load_bundle
from edge.runtime import RuntimeChoice, load_interpreter


class BundleClassifier:
    """A bundle's model, ready to classify. Several cameras may share one: a lock serves them in turn.

    Args:
        path: The bundle's folder.
        runtime: Which TFLite runtime shall run it.
        threads: Threads for one inference.

    Raises:
        BundleError: The bundle is missing, corrupt, of another version, or fails its self-test.
        RuntimeMissing: No runtime is installed.
    """

    def __init__(self, path: Path, *, runtime: RuntimeChoice = "auto", threads: int = 1) -> None:
        self.bundle: Bundle = load_bundle(path, agent_version=metadata.version("edge-emotion"))
        labels = self.bundle.manifest.labels
        if not set(EMOTIONS) <= set(labels):
            raise BundleIncompatible(
                f"has the labels {', '.join(labels)}", where=path, remedy=f"The agent needs {', '.join(EMOTIONS)}"
            )
        # Without the others, such as FER+'s contempt, the probabilities are those among the seven.
        self._columns = [labels.index(emotion) for emotion in EMOTIONS]
        self._model = EmotionModel(
            load_interpreter(self.bundle.model, runtime=runtime, threads=threads), self.bundle.manifest
        )
        self._lock = threading.Lock()
        self.bundle.self_test(self._model)

    def classify(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Calibrated logits float32 (N, 7) in label order for uint8 (N, 48, 48) gray crops; N may be 0."""
        with self._lock:
            return self._model.logits(crops)[:, self._columns]
