"""`trainer export`: from a training run to a bundle that a device can trust, measured before it is written."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edge.contract import EmotionModel, Framing, Manifest, UserError, calibrated
from edge.contract.intensity import mean_and_deviation, normalized
from edge.contract.manifest import (
    MANIFEST_FILE,
    SCHEMA,
    Calibration,
    FileEntry,
    Golden,
    Input,
    Intensity,
    Metrics,
    Output,
    Preprocessing,
    Provenance,
)
from trainer.calibration import fit_temperature, threshold_for_gain
from trainer.card import model_card
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.duplicates import leaked
from trainer.errors import QualityError
from trainer.evaluate import Evaluation, evaluate
from trainer.labels import LabelKind, class_names, with_labels
from trainer.layouts import SIZE_PX
from trainer.model import PIXEL_CENTRE, PIXEL_SCALE
from trainer.provenance import Provenance as Origin
from trainer.provenance import require_data
from trainer.quantize import calibration_images, to_float, to_int8
from trainer.robustness import measure_robustness
from trainer.run import read_config
from trainer.targets import Predictor, tflite_predictor
from trainer.weights import load_network, predict

FRAMING: Final = Framing(eyes_x=0.5, eye_y=0.395, eye_distance=0.358, box_scale=1.137, box_shift_y=-0.034)
"""Medians over 2,004 faces that BlazeFace finds in 2,500 FER-2013 training images: `python -m tests.bench.framing`."""

_USUAL_LIGHT: Final = (10, 90)
"""Percentiles of the training images' means and standard deviations between which crops are left as they are: chosen on
PublicTest and what corruptions leave of it (docs/experiments.md, *Light*)."""

_GOLDEN_FILE: Final = "golden.npz"
_REPORT_FILE: Final = "report.json"
_CARD_FILE: Final = "MODEL_CARD.md"
_GOLDEN_COUNT: Final = 4
_GOLDEN_TOLERANCE_STEPS: Final = 16
"""Steps of the int8 logits. tflite-runtime 2.14 was seen to differ from newer runtimes by up to 13."""

_FLOAT_TOLERANCE: Final = 0.05

_LICENCE: Final = "Apache-2.0"
_INTENDED_USE: Final = (
    "Showing which expression a face displays, for art, robots, games, research and accessibility, with the "
    "consent of those in view. Not for judging people, and not at work or in education, where the EU AI Act forbids it."
)


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
    """Quantizes, calibrates, measures and writes a bundle. Either all of it appears at `out`, or nothing changes.

    Args:
        run: Folder of `trainer fit`.
        out: Folder of the bundle; one that is there is replaced.
        dataset: With the splits train (calibration), validation (temperature, checks) and test (reported).
        options: What is asked for.

    Raises:
        UserError: The name or version is none, or `out` holds something else than a bundle.
        CheckpointError: The run cannot be read, or was trained on other data.
        DataError: A split is missing.
        QualityError: Quantization cost more accuracy than `options.max_drop`.
    """
    require_place(out)
    config, origin = read_config(run)
    labels = options.labels or config.labels
    light = _usual_light(dataset.split("train"))
    try:
        draft = _draft_manifest(labels, config, origin, light, options)
    except ValidationError as error:
        raise _misnamed(error) from error
    require_data(run, origin, dataset)
    network = load_network(run, labels)
    train, validation, test = (with_labels(dataset.split(name), labels) for name in ("train", "validation", "test"))
    content = _convert(network, train, light, config, options)

    def exact(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return predict(network, _in_light(images, light))

    outputs = tflite_predictor(content, draft).outputs(validation.images)
    _require_small_drop(outputs, exact(validation.images), validation, options)
    manifest = draft.model_copy(update={"calibration": _calibrate(outputs, validation, draft.calibration)})

    model = tflite_predictor(content, manifest)
    # All of the training images, whatever the labels: the network has seen them all.
    splits = {"validation": validation, "test": test}
    evaluations = _evaluate(model, exact, manifest, dataset.split("train"), splits)
    files = {
        manifest.model: content,
        _GOLDEN_FILE: _golden_vectors(model, config.seed),
        _REPORT_FILE: _report(evaluations),
    }
    manifest = _complete(manifest, labels, files, model, evaluations)
    files[_CARD_FILE] = model_card(manifest, evaluations).encode()
    files[MANIFEST_FILE] = manifest.to_json().encode()
    _write(out, files)
    return manifest


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


def _draft_manifest(
    labels: LabelKind, config: FitConfig, origin: Origin, light: Intensity, options: ExportOptions
) -> Manifest:
    """The manifest before anything is measured: temperature 1, no metrics, no files yet."""
    dtype: Any = "int8" if options.quantize else "float32"
    model = f"classifier.{'int8' if options.quantize else 'float'}.tflite"
    # The crowd's votes are soft by themselves: the head that learns them sees no smoothing.
    smoothing = config.label_smoothing if labels == "fer2013" else 0.0
    unmeasured = FileEntry(sha256="0" * 64, size=0)
    return Manifest(
        schema_version=SCHEMA,
        name=options.name,
        version=options.version,
        release=options.release,
        model=model,
        files={model: unmeasured, _GOLDEN_FILE: unmeasured},
        labels=class_names(labels),
        input=Input(width_px=SIZE_PX, height_px=SIZE_PX, colour="gray", dtype=dtype),
        output=Output(kind="logits", dtype=dtype),
        preprocessing=Preprocessing(
            id="gray-affine/1", intensity=light, offset=PIXEL_CENTRE, scale=PIXEL_SCALE, framing=FRAMING
        ),
        calibration=Calibration(label_smoothing=smoothing, temperature=1.0, fitted_on="nothing", unknown_below=0.0),
        metrics=(),
        training=Provenance(
            data=origin.data,
            data_sha256=origin.data_sha256,
            seed=config.seed,
            git_revision=origin.git_revision,
            libraries=origin.libraries,
            config=config.to_dict(),
            initial_data=origin.initial_data,
        ),
        golden=Golden(file=_GOLDEN_FILE, tolerance=1.0),
        minimum_agent_version="0.1.0",
        licence=_LICENCE,
        intended_use=_INTENDED_USE,
    )


def _misnamed(error: ValidationError) -> UserError:
    """What of the options a manifest does not take."""
    first = error.errors()[0]
    return UserError(
        f"{first['input']!r} is no {first['loc'][0]} of a bundle ({first['msg']})",
        remedy="The name is that of the folder, in a-z, 0-9, - and _; a version is like 1.2.0, a release at least 1",
    )


def _require_small_drop(
    int8: NDArray[np.float32], exact: NDArray[np.float32], validation: FaceSet, options: ExportOptions
) -> None:
    reached, possible = (float((logits.argmax(axis=1) == validation.labels).mean()) for logits in (int8, exact))
    if options.max_drop is not None and possible - reached > options.max_drop:
        raise QualityError(
            f"int8 reaches {reached:.2%} on PublicTest where the float model has {possible:.2%}", where=options.name,
            remedy="Calibrate on more images (--calibration-per-class), train longer, or allow it with --max-drop",
        )  # fmt: skip


def _calibrate(outputs: NDArray[np.float32], validation: FaceSet, draft: Calibration) -> Calibration:
    temperature = fit_temperature(calibrated(outputs, draft), validation.labels)
    fitted = draft.model_copy(update={"temperature": round(temperature, 4), "fitted_on": "PublicTest"})
    threshold = threshold_for_gain(calibrated(outputs, fitted), validation.labels)
    return fitted.model_copy(update={"unknown_below": round(threshold, 2)})


def _golden_vectors(model: EmotionModel, seed: int) -> bytes:
    """Inputs of soft random blobs, since no image of the data set may leave it, and the outputs that belong to them.

    The last is dark: what leaves a crop in its light gives other outputs.
    """
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (_GOLDEN_COUNT, 6, 6))
    coarse[-1] /= 32
    inputs = np.kron(coarse, np.ones((SIZE_PX // 6, SIZE_PX // 6))).astype(np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, inputs=inputs, logits=model.outputs(inputs))
    return buffer.getvalue()


def _report(evaluations: Mapping[str, Evaluation]) -> bytes:
    return (
        json.dumps({name: evaluation.to_dict() for name, evaluation in evaluations.items()}, indent=1) + "\n"
    ).encode()


def _complete(
    manifest: Manifest,
    labels: LabelKind,
    files: Mapping[str, bytes],
    model: EmotionModel,
    evaluations: Mapping[str, Evaluation],
) -> Manifest:
    """The manifest with everything that was measured."""
    entries = {name: FileEntry(sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for name, data in files.items()}
    tolerance = _GOLDEN_TOLERANCE_STEPS * model.output_step or _FLOAT_TOLERANCE
    return manifest.model_copy(
        update={
            "files": entries,
            "golden": Golden(file=_GOLDEN_FILE, tolerance=round(tolerance, 4)),
            "metrics": tuple(_metrics(name, evaluation, manifest, labels) for name, evaluation in evaluations.items()),
        }
    )


def _metrics(split: str, evaluation: Evaluation, manifest: Manifest, labels: LabelKind) -> Metrics:
    result = evaluation.models[manifest.arithmetic]
    accuracy = result.classification.accuracy
    return Metrics(
        split=split,
        labels=labels,
        images=evaluation.images,
        accuracy=accuracy.value,
        interval_95=(accuracy.low, accuracy.high),
        macro_f1=result.classification.macro_f1,
        calibration_error=result.calibration.ece,
    )


def require_place(out: Path) -> None:
    """Nothing but a bundle is ever replaced by one.

    Raises:
        UserError: `out` holds something else.
    """
    holds_something = out.is_dir() and any(out.iterdir())
    if (out.exists() and not out.is_dir()) or (holds_something and not (out / MANIFEST_FILE).exists()):
        raise UserError("is there already and no bundle", where=out, remedy="Name a new folder, or a bundle to replace")


def _write(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes the folder beside its place and renames it, so that no reader ever sees half a bundle."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        fresh, stale = Path(scratch) / "fresh", Path(scratch) / "stale"
        fresh.mkdir()
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        if out.exists():
            out.rename(stale)
        try:
            fresh.rename(out)
        except BaseException:
            if stale.exists():
                stale.rename(out)
            raise
