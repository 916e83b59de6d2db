"""The bundle that `trainer export` writes: its manifest, its files, and its folder."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from edge.contract import BundleError, EmotionModel, Framing, Manifest, UserError
from edge.contract.manifest import (
    MANIFEST_FILE,
    SCHEMA,
    Calibration,
    FileEntry,
    Golden,
    Input,
    Metrics,
    Output,
    Preprocessing,
    Provenance,
    read_manifest,
)
from edge.contract.signature import SIGNATURE_FILE
from trainer.card import model_card
from trainer.config import FitConfig
from trainer.disk import fsync
from trainer.evaluate import Evaluation
from trainer.labels import LabelKind, class_names
from trainer.layouts import SIZE_PX
from trainer.model import PIXEL_CENTER, PIXEL_SCALE
from trainer.provenance import Provenance as Origin

FRAMING: Final = Framing(eyes_x=0.5, eye_y=0.395, eye_distance=0.358, box_scale=1.137, box_shift_y=-0.034)
"""Medians over 2,004 faces that BlazeFace finds in 2,500 FER-2013 training images: `python -m tests.bench.framing`."""

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


def draft_manifest(
    config: FitConfig, origin: Origin, labels: LabelKind, *, name: str, version: str, release: int, quantize: bool
) -> Manifest:
    """The manifest before anything is measured: temperature 1, and no light, no metrics and no files yet.

    Raises:
        ValidationError: It cannot say one of these.
    """
    dtype: Any = "int8" if quantize else "float32"
    model = f"classifier.{'int8' if quantize else 'float'}.tflite"
    # The crowd's votes are soft by themselves: the head that learns them sees no smoothing.
    smoothing = config.label_smoothing if labels == "fer2013" else 0.0
    unmeasured = FileEntry(sha256="0" * 64, size=0)
    return Manifest(
        schema_version=SCHEMA,
        name=name,
        version=version,
        release=release,
        model=model,
        files={model: unmeasured, _GOLDEN_FILE: unmeasured},
        labels=class_names(labels),
        input=Input(width_px=SIZE_PX, height_px=SIZE_PX, colour="gray", dtype=dtype),
        output=Output(kind="logits", dtype=dtype),
        preprocessing=Preprocessing(
            id="gray-affine/1", intensity=None, offset=PIXEL_CENTER, scale=PIXEL_SCALE, framing=FRAMING
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


def finish(
    draft: Manifest,
    labels: LabelKind,
    content: bytes,
    model: EmotionModel,
    evaluations: Mapping[str, Evaluation],
) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest with everything that was measured, and all files of the bundle by their names.

    Args:
        draft: The manifest so far, with light and calibration.
        labels: Whose labels the model speaks.
        content: Its .tflite file.
        model: The same, running.
        evaluations: What was measured, by split.
    """
    files = {
        draft.model: content,
        _GOLDEN_FILE: _golden_vectors(model, draft.training.seed),
        _REPORT_FILE: _report(evaluations),
    }
    manifest = _complete(draft, labels, files, model, evaluations)
    files[_CARD_FILE] = model_card(manifest, evaluations).encode()
    files[MANIFEST_FILE] = manifest.to_json().encode()
    return manifest, files


def _golden_vectors(model: EmotionModel, seed: int) -> bytes:
    """Inputs of random gray squares, since no image of the data set may leave it, and the outputs that belong to them.

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
    """Nothing but a bundle is ever replaced by one. One that a killed export left aside is put back first.

    Raises:
        UserError: `out` holds something else, or something more.
    """
    _take_up(out.resolve())
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = read_manifest(out)
    except BundleError as error:
        raise UserError("is there already and no bundle that can be read", where=out,
                        remedy="Name a new folder, or a bundle to replace") from error  # fmt: skip
    of_a_bundle = {*manifest.files, MANIFEST_FILE, SIGNATURE_FILE, _REPORT_FILE, _CARD_FILE}
    strangers = sorted(entry.name for entry in out.iterdir() if entry.name not in of_a_bundle or entry.is_dir())
    if strangers:
        raise UserError(f"holds {strangers[0]}, which belongs to no bundle and would be lost", where=out,
                        remedy="Move it elsewhere, or name a new folder")  # fmt: skip


def write_bundle(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes the folder beside its place and renames it, so that no reader ever sees half a bundle.

    Where `out` is a link, the folder behind it is replaced. Killed in the moment when the one before has gone and the
    new one has not come, it leaves both beside `out`, and `require_place` puts the one before back.

    Raises:
        OSError: It cannot be written; what was there stays.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    _take_up(out)
    fresh, former = _beside(out) / "fresh", _beside(out) / "former"
    try:
        fresh.mkdir(parents=True)
        for name, data in files.items():
            (fresh / name).write_bytes(data)
            fsync(fresh / name)
        fsync(fresh)
        if out.exists():
            out.rename(former)
        fresh.rename(out)
        fsync(out.parent)
    finally:
        _take_up(out)


def _take_up(out: Path) -> None:
    """Ends what an export began: one bundle is at `out`, the new or the former, and nothing beside it."""
    former = _beside(out) / "former"
    if former.exists() and not out.exists():
        former.rename(out)
        fsync(out.parent)
    shutil.rmtree(_beside(out), ignore_errors=True)


def _beside(out: Path) -> Path:
    return out.with_name(f".{out.name}.export")
