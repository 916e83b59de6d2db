"""Evaluation targets: a bundle, run by the TFLite runtime, or a training run, run by TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.contract import Bundle, EmotionModel, Interpreter, Manifest, load_bundle
from edge.contract.manifest import MANIFEST_FILE
from trainer.errors import CheckpointError

Predictor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Maps uint8 (N, 48, 48) gray to logits float32 (N, labels)."""


@dataclass(frozen=True, slots=True)
class Target:
    """A bundle or training run to evaluate.

    Attributes:
        name: Display name.
        labels: Classes of the logits.
        predictors: Models by arithmetic, `int8` or `float`.
        as_trained: Whether it is a training run, which is evaluated without intensity normalization and whose logits
            are not calibrated.
    """

    name: str
    labels: tuple[str, ...]
    predictors: Mapping[str, Predictor]
    as_trained: bool = False


def open_target(path: Path) -> Target:
    """Opens a bundle folder or a run folder.

    Raises:
        BundleError: The bundle is unusable.
        CheckpointError: It is neither a bundle nor a usable run.
    """
    if (path / MANIFEST_FILE).exists():
        return _bundle_target(load_bundle(path))
    if not path.is_dir():
        raise CheckpointError("no such folder", where=path, remedy="Give a bundle or a run of trainer fit")
    return _run_target(path)


def tflite_predictor(model: bytes, manifest: Manifest) -> EmotionModel:
    """Loads a .tflite file in the interpreter used on devices, with one thread."""
    return EmotionModel(_interpreter(model), manifest)


def _interpreter(model: bytes) -> Interpreter:
    from ai_edge_litert.interpreter import Interpreter as LiteRt

    interpreter: Interpreter = LiteRt(model_content=model, num_threads=1)
    interpreter.allocate_tensors()  # type: ignore[attr-defined]  # EmotionModel expects allocated tensors
    return interpreter


def _bundle_target(bundle: Bundle) -> Target:
    manifest = bundle.manifest
    model = tflite_predictor(bundle.model, manifest)
    bundle.self_test(model)
    return Target(f"{manifest.name} {manifest.version}", manifest.labels, {manifest.arithmetic: model.logits})


def _run_target(path: Path) -> Target:
    from trainer.labels import class_names
    from trainer.run import read_config
    from trainer.weights import load_network, predict

    config, _ = read_config(path)
    network = load_network(path)
    predictors = {"float": lambda images: predict(network, images)}
    return Target(path.name, class_names(config.labels), predictors, as_trained=True)
