"""Bundles written by `trainer export`: manifest, files and folder."""

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
"""Medians of 2,004 faces that BlazeFace detects in 2,500 FER-2013 training images: `python -m tests.bench.framing`."""

_GOLDEN_FILE: Final = "golden.npz"
_REPORT_FILE: Final = "report.json"
_CARD_FILE: Final = "MODEL_CARD.md"
_GOLDEN_COUNT: Final = 4
_GOLDEN_TOLERANCE_STEPS: Final = 16
"""In quantization steps of the int8 logits. tflite-runtime 2.14 was observed to differ from newer ones by up to 13."""

_FLOAT_TOLERANCE: Final = 0.05

_LICENSE: Final = "Apache-2.0"
_INTENDED_USE: Final = (
    "Recognizing displayed facial expressions, for art, robotics, games, research and accessibility, with the consent "
    "of the people in view. Not for judging people, nor in the workplace or in education, where the EU AI Act "
    "prohibits it."
)


def draft_manifest(
    config: FitConfig, origin: Origin, labels: LabelKind, *, name: str, version: str, release: int, quantize: bool
) -> Manifest:
    """Returns a manifest without intensity range, metrics and file entries, and with temperature 1.

    Raises:
        ValidationError: One of the values is invalid.
    """
    dtype: Any = "int8" if quantize else "float32"
    model = f"classifier.{'int8' if quantize else 'float'}.tflite"
    # Votes are soft targets already and are trained without label smoothing.
    smoothing = config.label_smoothing if labels == "fer2013" else 0.0
    placeholder = FileEntry(sha256="0" * 64, size=0)
    return Manifest(
        schema_version=SCHEMA,
        name=name,
        version=version,
        release=release,
        model=model,
        files={model: placeholder, _GOLDEN_FILE: placeholder},
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
        licence=_LICENSE,
        intended_use=_INTENDED_USE,
    )


def assemble(
    draft: Manifest,
    labels: LabelKind,
    content: bytes,
    model: EmotionModel,
    evaluations: Mapping[str, Evaluation],
) -> tuple[Manifest, dict[str, bytes]]:
    """Returns the complete manifest and the contents of all files of the bundle by name.

    Args:
        draft: Manifest with intensity range and calibration.
        labels: Label set of the model.
        content: Content of the .tflite file.
        model: The same model, loaded in an interpreter.
        evaluations: Evaluation results by split.
    """
    files = {
        draft.model: content,
        _GOLDEN_FILE: _golden_vectors(model, draft.training.seed),
        _REPORT_FILE: _report(evaluations),
    }
    manifest = _complete_manifest(draft, labels, files, model, evaluations)
    files[_CARD_FILE] = model_card(manifest, evaluations).encode()
    files[MANIFEST_FILE] = manifest.to_json().encode()
    return manifest, files


def _golden_vectors(model: EmotionModel, seed: int) -> bytes:
    """Returns random gray patterns and the model's outputs for them, as .npz.

    Images of the data set must not be redistributed. The last input is dark, so that an agent that does
    not normalize intensity fails the self-test.
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


def _complete_manifest(
    manifest: Manifest,
    labels: LabelKind,
    files: Mapping[str, bytes],
    model: EmotionModel,
    evaluations: Mapping[str, Evaluation],
) -> Manifest:
    """Adds file entries, golden vectors and metrics."""
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


def require_replaceable(out: Path) -> None:
    """Checks that `out` is a bundle, empty or absent, after recovering from an export that was killed.

    Raises:
        UserError: `out` contains something other than the files of a bundle.
    """
    _recover(out.resolve())
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = read_manifest(out)
    except BundleError as error:
        raise UserError("already exists and is not a readable bundle", where=out,
                        remedy="Choose a new folder, or a bundle to replace") from error  # fmt: skip
    bundle_files = {*manifest.files, MANIFEST_FILE, SIGNATURE_FILE, _REPORT_FILE, _CARD_FILE}
    unknown = sorted(entry.name for entry in out.iterdir() if entry.name not in bundle_files or entry.is_dir())
    if unknown:
        raise UserError(f"contains {unknown[0]}, which is not part of a bundle and would be lost", where=out,
                        remedy="Move it elsewhere, or choose a new folder")  # fmt: skip


def write_bundle(out: Path, files: Mapping[str, bytes]) -> None:
    """Writes a bundle to a staging folder and renames it, so that readers never see a partial bundle.

    If `out` is a symbolic link, its target is replaced. If the process is killed between the two renames, both bundles
    remain in the staging folder, and `require_replaceable` restores the previous one.

    Raises:
        OSError: The bundle cannot be written; an existing one is kept.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    _recover(out)
    fresh, former = _staging_folder(out) / "fresh", _staging_folder(out) / "former"
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
        _recover(out)


def _recover(out: Path) -> None:
    """Restores the former bundle if `out` is missing, and removes the staging folder."""
    former = _staging_folder(out) / "former"
    if former.exists() and not out.exists():
        former.rename(out)
        fsync(out.parent)
    shutil.rmtree(_staging_folder(out), ignore_errors=True)


def _staging_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.export")
