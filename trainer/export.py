"""`trainer export`: from a training run to a bundle that a device can trust, measured before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import keras
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge.contract import EmotionModel, Manifest, UserError, calibrated
from edge.contract.intensity import mean_and_deviation, normalized
from edge.contract.manifest import Calibration, Intensity
from trainer.bundle import draft_manifest, finish, require_place, write_bundle
from trainer.calibration import fit_temperature, threshold_for_gain
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.duplicates import leaked
from trainer.errors import CheckpointError, QualityError
from trainer.evaluate import Evaluation, evaluate
from trainer.labels import LabelKind, with_labels
from trainer.provenance import require_data, require_same_votes
from trainer.quantize import calibration_images, to_float, to_int8
from trainer.robustness import measure_robustness
from trainer.run import CONFIG, read_config
from trainer.targets import Predictor, tflite_predictor
from trainer.weights import load_network, predict

_USUAL_LIGHT: Final = (10, 90)
"""Percentiles of the training images' means and standard deviations between which crops are left as they are: chosen on
PublicTest and what corruptions leave of it (docs/experiments.md, *Light*)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What `trainer export` is asked for.

    Attributes:
        name: Of the bundle.
        version: Semantic version.
        release: Rises with each release.
        quantize: int8 instead of float32.
        max_drop: Largest loss of PublicTest accuracy to int8, as a share; None for any.
        calibration_per_class: Training images of each class from which the ranges of the activations are read.
        labels: Whose labels the bundle speaks; None for those of the run's main head.
    """

    name: str
    version: str = "1.0.0"
    release: int = 1
    quantize: bool = True
    max_drop: float | None = 0.005
    calibration_per_class: int = 60
    labels: LabelKind | None = None


def export(run: Path, out: Path, dataset: Dataset, options: ExportOptions) -> Manifest:
    """Quantizes, calibrates, measures and writes a bundle, of which all appears at `out` or nothing (`write_bundle`).

    Args:
        run: Folder of `trainer fit`.
        out: Folder of the bundle; one that is there is replaced.
        dataset: With the splits train (calibration), validation (temperature, checks) and test (reported).
        options: What is asked for.

    Raises:
        UserError: The name or version is none, or `out` holds something else than a bundle.
        CheckpointError: The run cannot be read, or was trained on other data or votes.
        DataError: A split or the votes are missing.
        QualityError: Quantization cost more accuracy than `options.max_drop`.
    """
    draft = require_exportable(run, out, options)
    config, origin = read_config(run)
    labels = options.labels or config.labels
    require_data(run, origin, dataset)
    network = load_network(run, labels)
    train, validation, test = (with_labels(dataset.split(name), labels) for name in ("train", "validation", "test"))
    if labels == "ferplus":
        require_same_votes(run, config, origin, dataset)
    # All of the training images, whatever the labels: the network has seen them all.
    seen = dataset.split("train")
    light = _usual_light(seen)
    draft = draft.model_copy(update={"preprocessing": draft.preprocessing.model_copy(update={"intensity": light})})
    content = _convert(network, train, light, config, options)

    def exact(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict(network, _in_light(images, light))

    outputs = tflite_predictor(content, draft).outputs(validation.images)
    _require_small_drop(outputs, exact(validation.images), validation, options.max_drop, run)
    manifest = draft.model_copy(update={"calibration": _calibrate(outputs, validation, draft.calibration)})

    model = tflite_predictor(content, manifest)
    evaluations = _evaluate(model, exact, manifest, seen, {"validation": validation, "test": test})
    manifest, files = finish(manifest, labels, content, model, evaluations)
    write_bundle(out, files)
    return manifest


def require_exportable(run: Path, out: Path, options: ExportOptions) -> Manifest:
    """Refuses what can be told before the data are read.

    Returns:
        The manifest before anything is measured.

    Raises:
        UserError: The name or version is none, or `out` holds something else than a bundle.
        CheckpointError: The run cannot be read.
    """
    require_place(out)
    config, origin = read_config(run)
    try:
        return draft_manifest(
            config, origin, options.labels or config.labels, name=options.name, version=options.version,
            release=options.release, quantize=options.quantize,
        )  # fmt: skip
    except ValidationError as error:
        raise _unfit(error, run) from error


def _unfit(error: ValidationError, run: Path) -> UserError:
    """What a manifest does not take: of the options, or of what the run says of itself."""
    first = error.errors()[0]
    field, told = first["loc"][0], f"({first['msg']})"
    if field not in ("name", "version", "release"):
        return CheckpointError(
            f"{first['input']!r} is no {field} of a run {told}", where=run / CONFIG,
            remedy="Copy the run again from where it came, or train again",
        )  # fmt: skip
    return UserError(
        f"{first['input']!r} is no {field} of a bundle {told}",
        remedy="The name is that of the folder, in a-z, 0-9, - and _; a version is like 1.2.0, a release at least 1",
    )


def _evaluate(
    model: EmotionModel, exact: Predictor, manifest: Manifest, train: FaceSet, splits: Mapping[str, FaceSet]
) -> dict[str, Evaluation]:
    """The bundle's model first, then, where it is quantized, the float model that it came from.

    Only the former is measured under corruption too, and only on the test split: that is 55 times the work.
    """
    predictors: dict[str, Predictor] = {manifest.arithmetic: model.logits}
    if manifest.arithmetic == "int8":
        predictors["float"] = lambda images: calibrated(exact(images), manifest.calibration)
    robustness = {"test": measure_robustness(splits["test"], {manifest.arithmetic: model.logits})}
    return {
        name: evaluate(
            faces, predictors, labels=manifest.labels, leaked=leaked(faces, train), robustness=robustness.get(name)
        )
        for name, faces in splits.items()
    }


def _convert(
    network: keras.Model, train: FaceSet, light: Intensity, config: FitConfig, options: ExportOptions
) -> bytes:
    if not options.quantize:
        return to_float(network)
    images = calibration_images(train, options.calibration_per_class, config.seed)
    return to_int8(network, _in_light(images, light))


def _usual_light(train: FaceSet) -> Intensity:
    """That of most of the images from which the network has learned."""
    measured = [mean_and_deviation(image) for image in train.images]
    low, high = np.percentile(measured, _USUAL_LIGHT, axis=0).round(1).tolist()
    return Intensity(mean_low=low[0], mean_high=high[0], deviation_low=low[1], deviation_high=high[1])


def _in_light(images: NDArray[np.uint8], light: Intensity) -> NDArray[np.uint8]:
    """uint8 (N, 48, 48), each as the bundle's model sees it."""
    return np.stack([normalized(image, light) for image in images])


def _require_small_drop(
    int8: NDArray[np.float32], exact: NDArray[np.float32], validation: FaceSet, max_drop: float | None, run: Path
) -> None:
    reached, possible = (float((logits.argmax(axis=1) == validation.labels).mean()) for logits in (int8, exact))
    # Rounded, as the difference of two shares may lie above the very share that it is.
    if max_drop is not None and round(possible - reached - max_drop, 9) > 0:
        raise QualityError(
            f"int8 reaches {reached:.2%} on PublicTest where the float model has {possible:.2%}", where=run,
            remedy="Calibrate on more images (--calibration-per-class), train longer, or allow it with --max-drop",
        )  # fmt: skip


def _calibrate(outputs: NDArray[np.float32], validation: FaceSet, draft: Calibration) -> Calibration:
    temperature = fit_temperature(calibrated(outputs, draft), validation.labels)
    fitted = draft.model_copy(update={"temperature": round(temperature, 4), "fitted_on": "PublicTest"})
    threshold = threshold_for_gain(calibrated(outputs, fitted), validation.labels)
    return fitted.model_copy(update={"unknown_below": round(threshold, 2)})
