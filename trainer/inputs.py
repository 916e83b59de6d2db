"""What a run needs before it begins, and refuses to begin or to go on without."""

from __future__ import annotations

import logging
from pathlib import Path

import keras

from edge.contract import UserError
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.errors import CheckpointError, DataError
from trainer.labels import require_votes, with_labels
from trainer.layouts import SIZE_PX
from trainer.provenance import data_sha256
from trainer.run import BEST_WEIGHTS, read_config
from trainer.weights import load_full_network, load_network, weights_sha256

log = logging.getLogger(__name__)


def require_inputs(dataset: Dataset, config: FitConfig) -> None:
    """Refuses a run of which something is missing, before anything is made.

    Raises:
        CheckpointError: A teacher or the initial weights cannot be used.
        DataError: A split or the votes are missing, or there are too few images for a batch.
        UserError: Copies or teachers are asked for without what they need, or a teacher learned with another label
            smoothing.
    """
    train = with_labels(dataset.split("train"), config.labels)
    with_labels(dataset.split("validation"), config.labels)
    steps_per_epoch(config, train)
    if config.votes_weight:
        require_votes(train)
    _require_what_is_asked_for(config)
    if config.copies:
        _require_what_copies_need(config)
    votes_head = (config.live_teachers or config.copies > 0) and config.votes_weight > 0
    images = data_sha256(dataset) if config.teachers else None
    for teacher in config.teachers:
        require_teacher(Path(teacher), config.labels, images, votes_head=votes_head)
        _require_same_smoothing(teacher, config)
    if config.initial_weights:
        initial_network(Path(config.initial_weights), config)  # only to refuse what cannot be loaded


def steps_per_epoch(config: FitConfig, train: FaceSet) -> int:
    """How many whole batches the training images make, at least 1.

    Raises:
        DataError: There are fewer images than a batch takes.
    """
    steps = len(train) // config.batch_size
    if not steps:
        raise DataError(f"{len(train)} training images do not make a batch of {config.batch_size}",
                        remedy="Add images, or train with a smaller batch_size in --config")  # fmt: skip
    return steps


def require_teacher(teacher: Path, labels: str, data_sha256: str | None = None, *, votes_head: bool = False) -> None:
    """Refuses a folder that is no run, one without weights, and one that learned other labels or from other images.

    Args:
        teacher: Folder of a run.
        labels: What it must have learned.
        data_sha256: Of the training images that it must have learned from, since among others may be those that judge
            its pupil; None where that was seen to before.
        votes_head: Whether it must have learned FER+'s votes beside the labels.

    Raises:
        CheckpointError: It cannot teach; the error says why.
    """
    theirs, origin = read_config(teacher)
    if theirs.labels != labels:
        raise CheckpointError(
            f"learned the labels {theirs.labels}, not {labels}",
            where=teacher,
            remedy="Name a teacher with the same labels",
        )
    if data_sha256 is not None and (other := origin.other_data(data_sha256)):
        raise CheckpointError(
            f"learned from other data ({other}), among which may be what judges this run", where=teacher,
            remedy="Name a teacher of the same data",
        )  # fmt: skip
    if votes_head and not theirs.votes_weight:
        raise CheckpointError("has no votes head, which this run would learn from", where=teacher,
                              remedy="Name a teacher that learned --votes, or leave them out here")  # fmt: skip
    if not (teacher / BEST_WEIGHTS).exists():
        raise CheckpointError(
            f"has no {BEST_WEIGHTS} to teach with", where=teacher, remedy="Let trainer fit finish an epoch"
        )


def _require_what_is_asked_for(config: FitConfig) -> None:
    if config.live_teachers and not config.teachers:
        raise UserError("live_teachers are asked in each step, and there is no teacher",
                        remedy="Name one with --teacher, or leave live_teachers out of --config")  # fmt: skip
    if config.recompose_share and not config.copies:
        raise UserError("recompose_share is a share of the copies, and there are none",
                        remedy="Ask for copies in --config, or leave recompose_share out")  # fmt: skip


def _require_what_copies_need(config: FitConfig) -> None:
    if not config.teachers:
        raise UserError("copies are learned from what teachers say of them, and there is no teacher",
                        remedy="Name one with --teacher, or leave copies out of --config")  # fmt: skip
    if config.live_teachers:
        raise UserError("copies are for teachers that are asked beforehand, and live_teachers are asked in each step",
                        remedy="Leave one of them out of --config")  # fmt: skip
    if any(side != SIZE_PX for side, _ in config.stages):
        raise UserError(f"copies are {SIZE_PX} px large, and stages asks for smaller images",
                        remedy=f"Let all epochs be at {SIZE_PX} px")  # fmt: skip


def _require_same_smoothing(teacher: str, config: FitConfig) -> None:
    """An export takes one share out of the answers: both what the labels and what the teachers taught must have it."""
    theirs = read_config(Path(teacher))[0].label_smoothing
    if config.labels == "fer2013" and theirs != config.label_smoothing:
        raise UserError(f"learned with a label_smoothing of {theirs}, and this run has {config.label_smoothing}, "
                        "which an export takes out of all answers", where=teacher,
                        remedy=f'Write "label_smoothing": {theirs} into --config, or name others')  # fmt: skip


def initial_network(initial: Path, config: FitConfig) -> keras.Model:
    """The network to begin with, without its votes head where this run has none.

    Where channels come in pairs, a wider network would have them in other places: only the last layer may grow.

    Raises:
        CheckpointError: The run cannot be read, or its network has other labels, is wider, or lacks the votes head.
    """
    theirs, _ = read_config(initial)
    wider = theirs.width > config.width or theirs.top_channels > config.top_channels
    without_votes = config.votes_weight and not theirs.votes_weight
    other_layers = theirs.mirror != config.mirror or (config.mirror and theirs.width != config.width)
    if wider or other_layers or theirs.blocks != config.blocks or theirs.labels != config.labels or without_votes:
        raise CheckpointError(
            f"cannot give the initial weights: its network has {_layers(theirs)}, this run's {_layers(config)}",
            where=initial, remedy="Name a run of the same network or a narrower one",
        )  # fmt: skip
    return load_full_network(initial) if config.votes_weight else load_network(initial)


def _layers(config: FitConfig) -> str:
    blocks = "-".join(map(str, config.blocks))
    votes_head = f"{'a' if config.votes_weight else 'no'} votes head"
    kind = "paired" if config.mirror else "ordinary"
    size = f"width {config.width:g}, {config.top_channels} top channels, blocks {blocks}, {kind} channels"
    return f"labels {config.labels}, {size}, {votes_head}"


def data_before(initial: Path, data_sha256: str) -> str:
    """File name of other data that the initial weights were fitted to, of which a warning tells; empty without any."""
    other = read_config(initial)[1].other_data(data_sha256)
    if other:
        log.warning("%s learned from other data (%s): where images of it are among those that judge this run, "
                    "its figures flatter it", initial, other)  # fmt: skip
    return other


def weights_behind(config: FitConfig) -> dict[str, str]:
    """Hash of the weights of each teacher, and of those that a run begins with, by folder."""
    behind = [*config.teachers, *([config.initial_weights] if config.initial_weights else [])]
    return {folder: weights_sha256(Path(folder)) for folder in behind}


def require_same_weights(run: Path, behind: str) -> None:
    """Refuses a teacher, or what a run begins with, that has changed since. One that is gone may be needed no more.

    Raises:
        CheckpointError: It has other weights than when the run began.
    """
    begun = read_config(run)[1].weights_sha256.get(behind, "")
    if begun and weights_sha256(Path(behind)) not in {"", begun}:
        raise CheckpointError(f"has other weights than when {run} began", where=behind,
                              remedy="Give it the former weights, or begin another run")  # fmt: skip
