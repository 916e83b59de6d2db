"""Exports a training run as a bundle: converts, calibrates and evaluates the model, then writes it."""

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
from trainer.bundle import assemble, draft_manifest, require_replaceable, write_bundle
from trainer.calibration import fit_temperature, rejection_threshold
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.duplicates import leaked
from trainer.errors import CheckpointError, QualityError
from trainer.evaluate import Evaluation, evaluate
from trainer.labels import LabelKind, with_labels
from trainer.provenance import require_data, require_same_votes
from trainer.quantize import representative_images, to_float, to_int8
from trainer.robustness import measure_robustness
from trainer.run import CONFIG, read_config
from trainer.targets import Predictor, tflite_predictor
from trainer.weights import load_network, predict

_INTENSITY_PERCENTILES: Final = (10, 90)
"""Percentiles of the training images' means and standard deviations that bound the intensity normalization, chosen by
PublicTest accuracy with and without corruptions (docs/experiments.md, *Light*)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options of `trainer export`.

    Attributes:
        name: Name of the bundle.
        version: Semantic version.
        release: Release number, increasing with each release.
        quantize: Quantize to int8 instead of float32.
        max_drop: Maximum loss of PublicTest accuracy due to quantization, as a share; None for no limit.
        calibration_per_class: Images per class in the representative data set that calibrates the activation ranges.
        labels: Label set of the bundle; None for that of the run's main head.
    """

    name: str
    version: str = "1.0.0"
    release: int = 1
    quantize: bool = True
    max_drop: float | None = 0.005
    calibration_per_class: int = 60
    labels: LabelKind | None = None


def export(run: Path, out: Path, dataset: Dataset, options: ExportOptions) -> Manifest:
    """Converts, calibrates and evaluates a trained network, and writes the bundle atomically (`write_bundle`).

    Args:
        run: Run folder of `trainer fit`.
        out: Folder of the bundle; an existing bundle is replaced.
        dataset: Needs the splits train (representative data), validation (temperature, threshold) and test (reporting).
        options: Export options.

    Raises:
        UserError: The name or version is invalid, or `out` contains something other than a bundle.
        CheckpointError: The run cannot be read, or was trained on other data or votes.
        DataError: A split or the votes are missing.
        QualityError: Quantization reduces accuracy by more than `options.max_drop`.
    """
    draft = require_exportable(run, out, options)
    config, origin = read_config(run)
    labels = options.labels or config.labels
    require_data(run, origin, dataset)
    network = load_network(run, labels)
    train, validation, test = (with_labels(dataset.split(name), labels) for name in ("train", "validation", "test"))
    if labels == "ferplus":
        require_same_votes(run, config, origin, dataset)
    # All training images, not only those with such a label: the network was trained on all of them.
    all_train = dataset.split("train")
    intensity = _intensity_range(all_train)
    draft = draft.model_copy(update={"preprocessing": draft.preprocessing.model_copy(update={"intensity": intensity})})
    content = _convert(network, train, intensity, config, options)

    def predict_float(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict(network, _normalize_intensity(images, intensity))

    outputs = tflite_predictor(content, draft).outputs(validation.images)
    _require_accuracy(outputs, predict_float(validation.images), validation, options.max_drop, run)
    manifest = draft.model_copy(update={"calibration": _fit_calibration(outputs, validation, draft.calibration)})

    model = tflite_predictor(content, manifest)
    evaluations = _evaluate(model, predict_float, manifest, all_train, {"validation": validation, "test": test})
    manifest, files = assemble(manifest, labels, content, model, evaluations)
    write_bundle(out, files)
    return manifest


def require_exportable(run: Path, out: Path, options: ExportOptions) -> Manifest:
    """Checks everything that can be checked before the data is read.

    Returns:
        The manifest without evaluation results.

    Raises:
        UserError: The name or version is invalid, or `out` contains something other than a bundle.
        CheckpointError: The run cannot be read.
    """
    require_replaceable(out)
    config, origin = read_config(run)
    try:
        return draft_manifest(
            config, origin, options.labels or config.labels, name=options.name, version=options.version,
            release=options.release, quantize=options.quantize,
        )  # fmt: skip
    except ValidationError as error:
        raise _manifest_error(error, run) from error


def _manifest_error(error: ValidationError, run: Path) -> UserError:
    """Returns the error for a manifest field that is invalid, either an option or read from the run."""
    first = error.errors()[0]
    field, reason = first["loc"][0], f"({first['msg']})"
    if field not in ("name", "version", "release"):
        return CheckpointError(
            f"{first['input']!r} is not a valid {field} {reason}", where=run / CONFIG,
            remedy="Restore the run from its original, or train again",
        )  # fmt: skip
    return UserError(
        f"{first['input']!r} is not a valid {field} of a bundle {reason}",
        remedy="The name is the name of the folder and consists of a-z, 0-9, - and _; the version must be like 1.2.0, "
        "the release at least 1",
    )


def _evaluate(
    model: EmotionModel, predict_float: Predictor, manifest: Manifest, train: FaceSet, splits: Mapping[str, FaceSet]
) -> dict[str, Evaluation]:
    """Evaluates the bundle's model and, if it is quantized, the float model it was converted from.

    Robustness is measured only for the former and only on the test split, as it takes 55 times as long.
    """
    predictors: dict[str, Predictor] = {manifest.arithmetic: model.logits}
    if manifest.arithmetic == "int8":
        predictors["float"] = lambda images: calibrated(predict_float(images), manifest.calibration)
    robustness = {"test": measure_robustness(splits["test"], {manifest.arithmetic: model.logits})}
    return {
        name: evaluate(
            faces, predictors, labels=manifest.labels, leaked=leaked(faces, train), robustness=robustness.get(name)
        )
        for name, faces in splits.items()
    }


def _convert(
    network: keras.Model, train: FaceSet, intensity: Intensity, config: FitConfig, options: ExportOptions
) -> bytes:
    if not options.quantize:
        return to_float(network)
    images = representative_images(train, options.calibration_per_class, config.seed)
    return to_int8(network, _normalize_intensity(images, intensity))


def _intensity_range(train: FaceSet) -> Intensity:
    """Returns the range of mean and standard deviation that most training images are in."""
    measured = [mean_and_deviation(image) for image in train.images]
    low, high = np.percentile(measured, _INTENSITY_PERCENTILES, axis=0).round(1).tolist()
    return Intensity(mean_low=low[0], mean_high=high[0], deviation_low=low[1], deviation_high=high[1])


def _normalize_intensity(images: NDArray[np.uint8], intensity: Intensity) -> NDArray[np.uint8]:
    """Normalizes uint8 (N, 48, 48) as `EmotionModel` does before inference."""
    return np.stack([normalized(image, intensity) for image in images])


def _require_accuracy(
    int8: NDArray[np.float32], float32: NDArray[np.float32], validation: FaceSet, max_drop: float | None, run: Path
) -> None:
    quantized, original = (float((logits.argmax(axis=1) == validation.labels).mean()) for logits in (int8, float32))
    # Rounded, so that floating-point error does not reject a drop of exactly max_drop.
    if max_drop is not None and round(original - quantized - max_drop, 9) > 0:
        raise QualityError(
            f"quantization to int8 reduces PublicTest accuracy from {original:.2%} to {quantized:.2%}", where=run,
            remedy="Use more images for calibration (--calibration-per-class), train longer, or raise --max-drop",
        )  # fmt: skip


def _fit_calibration(outputs: NDArray[np.float32], validation: FaceSet, draft: Calibration) -> Calibration:
    temperature = fit_temperature(calibrated(outputs, draft), validation.labels)
    fitted = draft.model_copy(update={"temperature": round(temperature, 4), "fitted_on": "PublicTest"})
    threshold = rejection_threshold(calibrated(outputs, fitted), validation.labels)
    return fitted.model_copy(update={"unknown_below": round(threshold, 2)})
