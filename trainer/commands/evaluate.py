"""`trainer evaluate`: evaluates bundles and training runs on one split of a data set."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from edge.contract import EMOTIONS, UserError
from trainer.commands.output import require_writable, show, show_json, to_json, write
from trainer.data import FaceSet, load_dataset, load_folder
from trainer.duplicates import leaked
from trainer.errors import DataError
from trainer.evaluate import FOLDER, Evaluation, Subject, document, evaluate
from trainer.labels import FERPLUS_EMOTIONS, with_labels
from trainer.report import html_report
from trainer.robustness import Step, measure_robustness
from trainer.targets import Predictor, Target, open_target
from trainer.text import evaluation_text


def run(arguments: argparse.Namespace) -> int:
    """Evaluates the targets, prints the results and returns 0."""
    ignored = [name for name in ("votes", "split") if getattr(arguments, name) is not None]
    if arguments.folder and ignored:
        raise UserError(f"--folder has neither splits nor votes and cannot be combined with --{', --'.join(ignored)}",
                        remedy="Remove one of them")  # fmt: skip
    if arguments.report:
        require_writable(arguments.report)
    return evaluate_targets(_open_targets(arguments.targets), arguments)


def _open_targets(paths: Sequence[Path]) -> list[Target]:
    """Opens the targets; those with the same name are named by their paths."""
    resolved = [path.resolve() for path in paths]
    for path, target_path in zip(paths, resolved, strict=True):
        if resolved.count(target_path) > 1:
            raise UserError("is given twice", where=path, remedy="Give each bundle or run once")
    targets = [open_target(path) for path in paths]
    names = [target.name for target in targets]
    return [
        replace(target, name=str(path)) if names.count(target.name) > 1 else target
        for target, path in zip(targets, paths, strict=True)
    ]


def evaluate_targets(targets: Sequence[Target], arguments: argparse.Namespace) -> int:
    """Evaluates open targets, as `run` does."""
    labels = _common_labels(targets)
    faces, leaked_indices = _read_faces(arguments, labels)
    predictors = _predictors(targets)
    robustness = measure_robustness(faces, predictors, _with_progress) if arguments.robustness else None
    evaluation = evaluate(faces, predictors, labels=labels, leaked=leaked_indices, robustness=robustness)
    split = FOLDER if arguments.folder else _split(arguments)
    subject = Subject(", ".join(target.name for target in targets), str(arguments.data), split)
    try:
        if arguments.format == "json":
            show_json(document(subject, evaluation))
        else:
            show(evaluation_text(subject, evaluation))
    finally:  # write the report even if standard output is closed
        if arguments.report:
            _write_report(arguments.report, subject, evaluation, faces)
    return 0


def _split(arguments: argparse.Namespace) -> str:
    return arguments.split or "test"


def _common_labels(targets: Sequence[Target]) -> tuple[str, ...]:
    first, *others = targets
    for other in others:
        if other.labels != first.labels:
            raise UserError(
                f"has {len(other.labels)} classes, {first.name} has {len(first.labels)}", where=other.name,
                remedy="Evaluate them separately",
            )  # fmt: skip
    return first.labels


def _predictors(targets: Sequence[Target]) -> Mapping[str, Predictor]:
    """Returns the models of all targets by arithmetic, and by target name too if that is ambiguous."""
    models = [
        (_kind(kind, target), target.name, _require_finite(target, predict))
        for target in targets
        for kind, predict in target.predictors.items()
    ]
    kinds = [kind for kind, *_ in models]
    return {kind if kinds.count(kind) == 1 else f"{kind} of {name}": predict for kind, name, predict in models}


def _require_finite(target: Target, predict: Predictor) -> Predictor:
    """Wraps a model to raise an error if its logits are not finite."""

    def checked(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = predict(images)
        if not np.isfinite(logits).all():
            raise UserError("returns logits that are not finite; its weights have diverged or are damaged",
                            where=target.name, remedy="Train it again, or export it from another run")  # fmt: skip
        return logits

    return checked


def _kind(arithmetic: str, target: Target) -> str:
    """Returns the arithmetic, marking runs, whose results differ from a bundle's not only by quantization."""
    return f"{arithmetic} (as trained)" if target.as_trained else arithmetic


def _read_faces(arguments: argparse.Namespace, labels: tuple[str, ...]) -> tuple[FaceSet, NDArray[np.int64] | None]:
    """Returns the images, and the indices of those leaked from the training split, or None without one."""
    if arguments.folder:
        # FER+ only adds a class, so a folder's labels fit models of either label set.
        return load_folder(arguments.data, labels).split("test"), None
    if labels not in (EMOTIONS, FERPLUS_EMOTIONS):
        raise DataError(f"has FER-2013's labels, but the classes of the model are {', '.join(labels)}",
                        where=arguments.data,
                        remedy="Evaluate it on a folder with its own labels, with --folder")  # fmt: skip
    dataset, split = load_dataset(arguments.data, arguments.votes), _split(arguments)
    faces = with_labels(dataset.split(split), "ferplus" if labels == FERPLUS_EMOTIONS else "fer2013")
    train = dataset.splits.get("train")
    return faces, None if train is None or split == "train" else leaked(faces, into=train)


def _with_progress(steps: Sequence[Step]) -> Iterable[Step]:
    """Iterates over the steps with a transient progress bar on standard error, if that is a terminal."""
    console = Console(stderr=True)
    return track(steps, "Evaluating robustness", console=console, transient=True, disable=not sys.stderr.isatty())


def _write_report(folder: Path, subject: Subject, evaluation: Evaluation, faces: FaceSet) -> None:
    write(folder / "evaluation.json", to_json(document(subject, evaluation)))
    write(folder / "report.html", html_report(subject, evaluation, faces))
