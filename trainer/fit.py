"""`trainer fit`: trains with a checkpoint after each epoch, and keeps the weights with the best PublicTest accuracy."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import keras
import numpy as np

from edge.contract import UserError
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.disk import atomic_replace, reporting_write_errors
from trainer.distill import soft_targets
from trainer.errors import CheckpointError
from trainer.inputs import (
    initial_data,
    initial_network,
    input_weights_sha256,
    require_inputs,
    require_unchanged_weights,
)
from trainer.labels import with_labels
from trainer.provenance import provenance, require_data, require_same_votes
from trainer.run import (
    CHECKPOINTS,
    HISTORY,
    SOFT_TARGETS,
    TENSORBOARD,
    locked,
    read_config,
    require_new,
    write_config,
)
from trainer.tensorboard_writer import TensorBoardWriter
from trainer.training import Training
from trainer.weights import save_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EpochResult:
    """The result of an epoch.

    Attributes:
        epoch: Number of the epoch, counted from 1.
        side_px: Side of its training images.
        loss: Mean training loss.
        accuracy: PublicTest accuracy of the averaged weights, 0 to 1.
        best: Whether the accuracy is higher than in every epoch before.
        seconds: Wall time of the epoch.
    """

    epoch: int
    side_px: int
    loss: float
    accuracy: float
    best: bool
    seconds: float


class Listener:
    """Callbacks for the progress of a run, such as a progress bar; these do nothing."""

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Called after each step, or, with JAX, which compiles whole epochs, after the last one of each epoch."""

    def on_epoch(self, result: EpochResult) -> None:
        """Called after each epoch, once it is saved."""


def fit(
    dataset: Dataset,
    run: Path,
    config: FitConfig,
    *,
    resume: bool = False,
    soft_targets_cache: Path | None = None,
    listener: Listener | None = None,
) -> float:
    """Trains, and returns the best PublicTest accuracy. PrivateTest is not used.

    Args:
        dataset: Data set with the splits `train` and `validation`.
        run: Run folder to write; new, or with `resume` that of a run that was stopped.
        config: Configuration of the run; ignored with `resume`, which uses the one in `run`.
        resume: Whether to resume after the last finished epoch.
        soft_targets_cache: File that caches the teachers' predictions for several runs; by default, and with copies,
            one in `run` is used.
        listener: Notified of each step and epoch.

    Raises:
        CheckpointError: `run` already holds a run, holds none to resume, or is being trained by another process; or a
            teacher or the initial weights cannot be used.
        DataError: A split or the votes are missing, or there are fewer images than a batch.
        UserError: The configuration has copies or teachers without what they need, or a teacher was trained with
            another label smoothing; or the disk is full or the run diverged, and that epoch is not kept.
    """
    config = _config_to_resume(run, dataset) if resume else config
    if not resume:
        _create_run(run, dataset, config)
    train = with_labels(dataset.split("train"), config.labels)
    validation = with_labels(dataset.split("validation"), config.labels)
    with locked(run):
        for teacher in config.teachers:
            require_unchanged_weights(run, teacher)
        shared = None if config.copies else soft_targets_cache  # copies depend on the configuration of the run
        training = _new_training(config, train, shared or run / SOFT_TARGETS)
        if resume and _restore(training, run):
            log.info("resuming %s after epoch %d", run, training.epoch)
        elif config.initial_weights:
            require_unchanged_weights(run, config.initial_weights)
            training.set_initial_weights(initial_network(Path(config.initial_weights), config))
        _train(training, validation, run, listener or Listener())
    return training.best_accuracy


def _train(training: Training, validation: FaceSet, run: Path, listener: Listener) -> None:
    """Trains the remaining epochs."""
    with _tensorboard(run) as tensorboard:
        while training.epoch < training.config.epochs:
            result = _epoch(training, validation, run, listener.on_step)
            with reporting_write_errors(run):
                _append_to_history(run, result)  # first: without a checkpoint, `_restore` removes the line again
                training.save(run / CHECKPOINTS)
                tensorboard.add(result.epoch, result.loss, result.accuracy)  # last: it cannot be removed
            listener.on_epoch(result)


@contextmanager
def _tensorboard(run: Path) -> Iterator[TensorBoardWriter]:
    with reporting_write_errors(run):
        writer = TensorBoardWriter(run / TENSORBOARD)
    try:
        yield writer
    finally:
        with reporting_write_errors(run):
            writer.close()


def _restore(training: Training, run: Path) -> bool:
    """Restores the last checkpoint and truncates the history to it; returns False if there is none yet."""
    restored, history = training.restore(run / CHECKPOINTS), run / HISTORY
    lines = history.read_text().splitlines(keepends=True) if history.exists() else []
    if not restored and len(lines) > 1:
        raise CheckpointError(
            f"has no {CHECKPOINTS} to resume from", where=run,
            remedy="Start another run; --initial-weights can load the best weights of this one",
        )  # fmt: skip
    if len(lines) > training.epoch:
        with atomic_replace(history) as temporary:
            temporary.write_text("".join(lines[: training.epoch]))
    return restored


def _new_training(config: FitConfig, train: FaceSet, cache: Path) -> Training:
    """Returns the state of the run before its first step; `cache` is the file of the soft targets."""
    training_class = _training_class(config)
    if config.teachers and not config.live_teachers:
        return training_class(config, train, soft_targets(cache, config, train.images))
    training = training_class(config, train)
    if config.live_teachers:
        training.use_live_teachers([Path(teacher) for teacher in config.teachers])
    return training


def _training_class(config: FitConfig) -> type[Training]:
    """Returns the class for the backend of Keras; only that module is imported, as each needs its own library."""
    if keras.backend.backend() == "jax":
        from trainer.training_jax import JaxTraining

        return JaxTraining
    from trainer.training_tensorflow import TensorFlowTraining, compute_in_bfloat16

    compute_in_bfloat16(config.bfloat16)  # for the teachers' predictions too
    return TensorFlowTraining


def _config_to_resume(run: Path, dataset: Dataset) -> FitConfig:
    config, origin = read_config(run)
    if keras.backend.backend() not in origin.libraries:
        raise CheckpointError("was started with another --backend, whose checkpoints this one cannot read", where=run,
                              remedy="Resume with the --backend that it was started with")  # fmt: skip
    require_data(run, origin, dataset)
    require_same_votes(run, config, origin, dataset)
    return config


def _create_run(run: Path, dataset: Dataset, config: FitConfig) -> None:
    """Creates the run folder, after all checks: once it has a configuration, it can only be resumed."""
    require_new(run)
    require_inputs(dataset, config)
    origin = replace(provenance(dataset, config), weights_sha256=input_weights_sha256(config))
    if config.initial_weights:
        origin = replace(origin, initial_data=initial_data(Path(config.initial_weights), origin.data_sha256))
    with reporting_write_errors(run):
        run.mkdir(parents=True, exist_ok=True)
        write_config(run, config, origin)


def _epoch(
    training: Training, validation: FaceSet, run: Path, on_step: Callable[[int, int, int, float], None]
) -> EpochResult:
    started = time.monotonic()
    epoch = training.epoch
    loss = training.run_epoch(lambda step, loss: on_step(epoch + 1, step, training.steps_per_epoch, loss))
    if not math.isfinite(loss):
        raise _diverged(training, run, f"its loss is {loss}")
    logits = training.logits(validation.images)
    if not np.isfinite(logits).all():
        raise _diverged(training, run, "its network's logits are not finite")
    accuracy = float(np.mean(logits.argmax(axis=1) == validation.labels))
    best = training.record_accuracy(accuracy)
    if best:
        with reporting_write_errors(run):
            save_weights(training.averaged, run)
    return EpochResult(epoch + 1, training.config.side_px(epoch), loss, accuracy, best, time.monotonic() - started)


def _diverged(training: Training, run: Path, symptom: str) -> UserError:
    rates = "peak_lr or muon_lr" if training.config.muon_lr else "peak_lr"
    return UserError(f"diverged in epoch {training.epoch}: {symptom}", where=run,
                     remedy=f"Start another run with a lower {rates} in --config")  # fmt: skip


def _append_to_history(run: Path, result: EpochResult) -> None:
    with (run / HISTORY).open("a") as history:
        history.write(json.dumps(asdict(result)) + "\n")
