"""`trainer evaluate`: how good bundles and training runs are on one split of a data set."""

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
    """Measures the targets, prints the result and returns 0."""
    ignored = [name for name in ("votes", "split") if getattr(arguments, name) is not None]
    if arguments.folder and ignored:
        raise UserError(f"--folder has neither splits nor votes, and cannot take --{', --'.join(ignored)}",
                        remedy="Leave one or the other out")  # fmt: skip
    if arguments.report:
        require_writable(arguments.report)
    return evaluate_targets(_told_apart(arguments.targets), arguments)


def _told_apart(paths: Sequence[Path]) -> list[Target]:
    """The targets at these paths, named by them where two have the same name."""
    places = [path.resolve() for path in paths]
    for path, place in zip(paths, places, strict=True):
        if places.count(place) > 1:
            raise UserError("is named twice", where=path, remedy="Name each bundle or run once")
    targets = [open_target(path) for path in paths]
    names = [target.name for target in targets]
    return [
        replace(target, name=str(path)) if names.count(target.name) > 1 else target
        for target, path in zip(targets, paths, strict=True)
    ]


def evaluate_targets(targets: Sequence[Target], arguments: argparse.Namespace) -> int:
    """Measures opened targets as `run` does."""
    labels = _common_labels(targets)
    faces, known = _read_faces(arguments, labels)
    predictors = _predictors(targets)
    robustness = measure_robustness(faces, predictors, _shown) if arguments.robustness else None
    evaluation = evaluate(faces, predictors, labels=labels, leaked=known, robustness=robustness)
    split = FOLDER if arguments.folder else _split(arguments)
    subject = Subject(", ".join(target.name for target in targets), str(arguments.data), split)
    try:
        if arguments.format == "json":
            show_json(document(subject, evaluation))
        else:
            show(evaluation_text(subject, evaluation))
    finally:  # a reader who has seen enough takes no file away, and a full disk nothing that is read
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
                f"tells {len(other.labels)} emotions apart, {first.name} {len(first.labels)}", where=other.name,
                remedy="Evaluate them one by one",
            )  # fmt: skip
    return first.labels


def _predictors(targets: Sequence[Target]) -> Mapping[str, Predictor]:
    """The models of all targets, named by their kind, and by their target too where two would have the same name."""
    models = [
        (_kind(kind, target), target.name, _of_numbers(target, one))
        for target in targets
        for kind, one in target.predictors.items()
    ]
    kinds = [kind for kind, *_ in models]
    return {kind if kinds.count(kind) == 1 else f"{kind} of {name}": one for kind, name, one in models}


def _of_numbers(target: Target, predict: Predictor) -> Predictor:
    """The model, which is refused where it answers with what is no number."""

    def checked(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = predict(images)
        if not np.isfinite(logits).all():
            raise UserError("answers with what is no number, as weights do that diverged or are damaged",
                            where=target.name, remedy="Train it anew, or export it from another run")  # fmt: skip
        return logits

    return checked


def _kind(arithmetic: str, target: Target) -> str:
    """The arithmetic, and that a run's crops and confidence are not as on a device, lest int8 is blamed for that."""
    return f"{arithmetic} (as trained)" if target.as_trained else arithmetic


def _read_faces(arguments: argparse.Namespace, labels: tuple[str, ...]) -> tuple[FaceSet, NDArray[np.int64] | None]:
    """The images to measure on, and which of them have a near-duplicate in the training split, where there is one."""
    if arguments.folder:
        # FER+ only adds a class, so a folder's labels stand for both kinds of model.
        return load_folder(arguments.data, labels).split("test"), None
    if labels not in (EMOTIONS, FERPLUS_EMOTIONS):
        raise DataError(f"has FER-2013's labels, and the model says {', '.join(labels)}", where=arguments.data,
                        remedy="Measure it on a folder of its own labels, with --folder")  # fmt: skip
    dataset, split = load_dataset(arguments.data, arguments.votes), _split(arguments)
    faces = with_labels(dataset.split(split), "ferplus" if labels == FERPLUS_EMOTIONS else "fer2013")
    train = dataset.splits.get("train")
    return faces, None if train is None or split == "train" else leaked(faces, into=train)


def _shown(steps: Sequence[Step]) -> Iterable[Step]:
    """The steps with a bar on standard error, which a terminal shows until they are done."""
    console = Console(stderr=True)
    return track(steps, "Corrupting and measuring", console=console, transient=True, disable=not sys.stderr.isatty())


def _write_report(folder: Path, subject: Subject, evaluation: Evaluation, faces: FaceSet) -> None:
    write(folder / "evaluation.json", to_json(document(subject, evaluation)))
    write(folder / "report.html", html_report(subject, evaluation, faces))
