"""`trainer fit`: epochs with a checkpoint after each, and the best weights chosen on PublicTest."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.distill import require_teacher, teaching
from trainer.errors import CheckpointError
from trainer.labels import require_votes, with_labels
from trainer.run import (
    BEST_WEIGHTS,
    CHECKPOINTS,
    CONFIG,
    HISTORY,
    TEACHING,
    TENSORBOARD,
    load_full_network,
    load_network,
    predict,
    provenance,
    read_config,
    write_config,
)
from trainer.training import Training

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What an epoch came to.

    Attributes:
        epoch: Counted from 1.
        side_px: Side of its training images.
        loss: Mean training loss.
        accuracy: Of the averaged weights on PublicTest, 0 to 1.
        best: Whether no epoch before was better.
        seconds: Its wall time.
    """

    epoch: int
    side_px: int
    loss: float
    accuracy: float
    best: bool
    seconds: float


class Listener:
    """Follows a run; the command line's draws a progress bar. Does nothing by itself."""

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Called after each step."""

    def on_epoch(self, result: EpochResult) -> None:
        """Called after each epoch, when it is safely on disk."""


def fit(
    dataset: Dataset,
    run: Path,
    config: FitConfig,
    *,
    resume: bool = False,
    answers: Path | None = None,
    listener: Listener | None = None,
) -> float:
    """Trains, and returns the best PublicTest accuracy. PrivateTest is not touched.

    Args:
        dataset: With the splits `train` and `validation`.
        run: Folder to write; new, or with `resume` that of a run that was stopped.
        config: What the run is made of. A resumed run goes on with its own.
        resume: Whether to go on after the last finished epoch.
        answers: File that keeps what the teachers say of the training images; without it, one in `run`.
        listener: Told of each step and epoch.

    Raises:
        CheckpointError: `run` holds a run already, or none to resume; a teacher or the initial weights cannot be used.
        DataError: A split or the votes are missing.
    """
    config = _resumed(run, dataset) if resume else config
    # A rewrite of what is compiled from here on: weights, sums, losses and what is evaluated stay float32.
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": config.bfloat16})
    train = with_labels(dataset.split("train"), config.labels)
    validation = with_labels(dataset.split("validation"), config.labels)
    if not resume:
        _open_run(run, dataset, config)
    answers = answers or run / TEACHING
    taught = teaching(answers, config.teachers, train.images, config.labels) if config.teachers else None
    training = Training(config, train, _strategy(), taught)
    manager = tf.train.CheckpointManager(training.checkpoint, str(run / CHECKPOINTS), max_to_keep=2)
    if resume and manager.latest_checkpoint:
        training.checkpoint.restore(manager.latest_checkpoint).assert_consumed()
        log.info("resuming %s after epoch %d", run, training.epoch.numpy())
    elif config.initial_weights:
        training.begin_with(_initial_network(Path(config.initial_weights), config))
    listener = listener or Listener()
    with tf.summary.create_file_writer(str(run / TENSORBOARD)).as_default():
        while training.epoch < config.epochs:
            result = _epoch(training, validation, run, listener.on_step)
            manager.save()
            _record(run, result)
            listener.on_epoch(result)
    return float(training.best_accuracy.numpy())


def _resumed(run: Path, dataset: Dataset) -> FitConfig:
    config, origin = read_config(run)
    if provenance(dataset).data_sha256 != origin.data_sha256:
        raise CheckpointError(f"was begun with other data ({origin.data})", where=run,
                              remedy="Resume with that data, or name another folder")  # fmt: skip
    return config


def _open_run(run: Path, dataset: Dataset, config: FitConfig) -> None:
    """Makes the folder, once all that the run needs is there: a folder with a configuration can only be resumed."""
    for teacher in config.teachers:
        require_teacher(Path(teacher), config.labels)
    if config.initial_weights:
        _initial_network(Path(config.initial_weights), config)  # only to refuse what cannot be loaded
    if config.votes_weight:
        require_votes(dataset.split("train"))
    if (run / CONFIG).exists():
        raise CheckpointError(
            "holds a run already", where=run, remedy="Add --resume to go on with it, or name another folder"
        )
    run.mkdir(parents=True, exist_ok=True)
    write_config(run, config, provenance(dataset))


def _initial_network(initial: Path, config: FitConfig) -> keras.Model:
    """The network to begin with, without its votes head where this run has none.

    Raises:
        CheckpointError: The run cannot be read, or its network has other labels, is wider, or lacks the votes head.
    """
    theirs, _ = read_config(initial)
    wider = theirs.width > config.width or theirs.top_channels > config.top_channels
    if wider or theirs.labels != config.labels or (config.votes_weight and not theirs.votes_weight):
        raise CheckpointError(
            f"cannot give the initial weights: its network has {_layers(theirs)}, this run's {_layers(config)}",
            where=initial, remedy="Name a run of the same network or a narrower one",
        )  # fmt: skip
    return load_full_network(initial) if config.votes_weight else load_network(initial)


def _layers(config: FitConfig) -> str:
    votes_head = f"{'a' if config.votes_weight else 'no'} votes head"
    return f"labels {config.labels}, width {config.width:g}, {config.top_channels} top channels, {votes_head}"


def _strategy() -> tf.distribute.Strategy:
    """All GPUs when there are several; otherwise the one GPU or the CPU."""
    several = len(tf.config.list_logical_devices("GPU")) > 1
    return tf.distribute.MirroredStrategy() if several else tf.distribute.get_strategy()


def _epoch(
    training: Training, validation: FaceSet, run: Path, on_step: Callable[[int, int, int, float], None]
) -> EpochResult:
    started = time.monotonic()
    epoch = int(training.epoch.numpy())
    loss = training.run_epoch(lambda step, loss: on_step(epoch + 1, step, training.steps_per_epoch, loss))
    accuracy = float(np.mean(predict(training.averaged, validation.images).argmax(axis=1) == validation.labels))
    best = accuracy > float(training.best_accuracy.numpy())
    if best:
        training.best_accuracy.assign(accuracy)
        _save_weights(training, run)
    return EpochResult(epoch + 1, training.config.side_px(epoch), loss, accuracy, best, time.monotonic() - started)


def _save_weights(training: Training, run: Path) -> None:
    # Renamed into place, so that a run stopped at any moment leaves whole weights.
    partial = run / f"partial.{BEST_WEIGHTS}"
    training.averaged.save_weights(partial)
    partial.replace(run / BEST_WEIGHTS)


def _record(run: Path, result: EpochResult) -> None:
    with (run / HISTORY).open("a") as history:
        history.write(json.dumps(asdict(result)) + "\n")
    tf.summary.scalar("loss", result.loss, step=result.epoch)
    tf.summary.scalar("accuracy/PublicTest", result.accuracy, step=result.epoch)
