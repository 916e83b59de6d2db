"""Checks of everything a run needs before it starts or resumes: data, teachers and initial weights."""

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
    """Checks, before anything is written, that a run has everything it needs.

    Raises:
        CheckpointError: A teacher or the initial weights cannot be used.
        DataError: A split or the votes are missing, or there are fewer images than a batch.
        UserError: The configuration has copies or teachers without what they need, or a teacher was trained with
            another label smoothing.
    """
    train = with_labels(dataset.split("train"), config.labels)
    with_labels(dataset.split("validation"), config.labels)
    steps_per_epoch(config, train)
    if config.votes_weight:
        require_votes(train)
    _require_no_idle_options(config)
    if config.copies:
        _require_copies_usable(config)
    ferplus_head = (config.live_teachers or config.copies > 0) and config.votes_weight > 0
    images = data_sha256(dataset) if config.teachers else None
    for teacher in config.teachers:
        require_teacher(Path(teacher), config.labels, images, ferplus_head=ferplus_head)
        _require_same_smoothing(teacher, config)
    if config.initial_weights:
        initial_network(Path(config.initial_weights), config)  # only checks that it can be loaded


def steps_per_epoch(config: FitConfig, train: FaceSet) -> int:
    """Returns the number of full batches in the training images, at least 1.

    Raises:
        DataError: There are fewer images than a batch.
    """
    steps = len(train) // config.batch_size
    if not steps:
        raise DataError(f"{len(train)} training images are fewer than a batch of {config.batch_size}",
                        remedy="Add images, or set a smaller batch_size in --config")  # fmt: skip
    return steps


def require_teacher(teacher: Path, labels: str, data_sha256: str | None = None, *, ferplus_head: bool = False) -> None:
    """Checks that a run has weights and was trained on the right labels and data to be a teacher.

    Args:
        teacher: Run folder.
        labels: Labels that it must have been trained on.
        data_sha256: Hash of the data that it must have been trained on, as other data may contain validation or test
            images of the student; None if that was checked before.
        ferplus_head: Whether it must have an FER+ head beside the main one.

    Raises:
        CheckpointError: It cannot be used as a teacher; the message says why.
    """
    its_config, origin = read_config(teacher)
    if its_config.labels != labels:
        raise CheckpointError(f"was trained on the labels {its_config.labels}, not {labels}", where=teacher,
                              remedy="Name a teacher with the same labels")  # fmt: skip
    if data_sha256 is not None and (other := origin.other_data(data_sha256)):
        raise CheckpointError(
            f"was trained on other data ({other}), which may contain validation or test images of this run",
            where=teacher, remedy="Name a teacher that was trained on the same data",
        )  # fmt: skip
    if ferplus_head and not its_config.votes_weight:
        raise CheckpointError("has no FER+ head, whose predictions this run needs", where=teacher,
                              remedy="Name a teacher that was trained with --votes, or train without them")  # fmt: skip
    if not (teacher / BEST_WEIGHTS).exists():
        raise CheckpointError(f"has no {BEST_WEIGHTS} yet", where=teacher,
                              remedy="Wait until trainer fit has finished an epoch")  # fmt: skip


def _require_no_idle_options(config: FitConfig) -> None:
    if config.live_teachers and not config.teachers:
        raise UserError("live_teachers has no effect without teachers",
                        remedy="Name one with --teacher, or remove live_teachers from --config")  # fmt: skip
    if config.recompose_share and not config.copies:
        raise UserError("recompose_share has no effect without copies",
                        remedy="Set copies in --config, or remove recompose_share")  # fmt: skip


def _require_copies_usable(config: FitConfig) -> None:
    if not config.teachers:
        raise UserError("copies need a teacher, whose predictions are their targets",
                        remedy="Name one with --teacher, or remove copies from --config")  # fmt: skip
    if config.live_teachers:
        raise UserError("copies are predicted before training, and live_teachers predict during training",
                        remedy="Remove one of them from --config")  # fmt: skip
    if any(side != SIZE_PX for side, _ in config.stages):
        raise UserError(f"copies are {SIZE_PX} px in size, and stages has smaller images",
                        remedy=f"Set all stages to {SIZE_PX} px")  # fmt: skip


def _require_same_smoothing(teacher: str, config: FitConfig) -> None:
    """An export corrects for a single label smoothing, so labels and soft targets must have the same."""
    its_smoothing = read_config(Path(teacher))[0].label_smoothing
    if config.labels == "fer2013" and its_smoothing != config.label_smoothing:
        raise UserError(f"was trained with a label_smoothing of {its_smoothing}, but this run has "
                        f"{config.label_smoothing}, and an export corrects for one value only", where=teacher,
                        remedy=f'Set "label_smoothing": {its_smoothing} in --config, or name another')  # fmt: skip


def initial_network(initial: Path, config: FitConfig) -> keras.Model:
    """Loads the network whose weights a run starts with, without its FER+ head if the run has none.

    It may be narrower than the network of the run. With `mirror`, only the last layer may be, as a wider network
    has the channel pairs of the other layers at other positions.

    Raises:
        CheckpointError: The run cannot be read, or its network has other labels or layers, is wider, or lacks the FER+
            head.
    """
    its_config, _ = read_config(initial)
    wider = its_config.width > config.width or its_config.top_channels > config.top_channels
    without_votes = config.votes_weight and not its_config.votes_weight
    other_layers = its_config.mirror != config.mirror or (config.mirror and its_config.width != config.width)
    other_blocks, other_labels = its_config.blocks != config.blocks, its_config.labels != config.labels
    if wider or other_layers or other_blocks or other_labels or without_votes:
        raise CheckpointError(
            f"does not fit as initial weights: its network has {_description(its_config)}, this run's "
            f"{_description(config)}", where=initial, remedy="Name a run with the same network or a narrower one",
        )  # fmt: skip
    return load_full_network(initial) if config.votes_weight else load_network(initial)


def _description(config: FitConfig) -> str:
    blocks = "-".join(map(str, config.blocks))
    ferplus_head = f"{'with' if config.votes_weight else 'without'} FER+ head"
    kind = "paired" if config.mirror else "ordinary"
    size = f"width {config.width:g}, {config.top_channels} top channels, blocks {blocks}, {kind} channels"
    return f"labels {config.labels}, {size}, {ferplus_head}"


def initial_data(initial: Path, data_sha256: str) -> str:
    """Returns the file name of other data that the initial weights were trained on, with a warning; empty if none."""
    other = read_config(initial)[1].other_data(data_sha256)
    if other:
        log.warning("%s was trained on other data (%s): if that contains validation or test images of this run, the "
                    "measured accuracy is too high", initial, other)  # fmt: skip
    return other


def input_weights_sha256(config: FitConfig) -> dict[str, str]:
    """Returns the hash of the weights of each teacher and of the initial weights, by run folder."""
    folders = [*config.teachers, *([config.initial_weights] if config.initial_weights else [])]
    return {folder: weights_sha256(Path(folder)) for folder in folders}


def require_unchanged_weights(run: Path, folder: str) -> None:
    """Checks that a teacher, or the run with the initial weights, still has the weights that the run started with.

    One that is gone passes, as it may not be needed anymore.

    Raises:
        CheckpointError: It has other weights than when the run was started.
    """
    original = read_config(run)[1].weights_sha256.get(folder, "")
    if original and weights_sha256(Path(folder)) not in {"", original}:
        raise CheckpointError(f"has other weights than when {run} was started", where=folder,
                              remedy="Restore its former weights, or start another run")  # fmt: skip
