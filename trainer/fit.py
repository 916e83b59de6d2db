"""`trainer fit`: epochs with a checkpoint after each, and the best weights chosen on PublicTest."""

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
from trainer.board import Board
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.disk import replaced, writing
from trainer.distill import teaching
from trainer.errors import CheckpointError
from trainer.inputs import (
    data_before,
    initial_network,
    require_inputs,
    require_same_weights,
    weights_behind,
)
from trainer.labels import with_labels
from trainer.provenance import provenance, require_data, require_same_votes
from trainer.run import (
    CHECKPOINTS,
    HISTORY,
    TEACHING,
    TENSORBOARD,
    held,
    read_config,
    require_new,
    write_config,
)
from trainer.training import Training
from trainer.weights import save_weights

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What an epoch came to.

    Attributes:
        epoch: Counted from 1.
        side_px: Side of its training images.
        loss: Mean training loss.
        accuracy: Of the averaged weights on PublicTest, 0 to 1.
        best: Whether every epoch before was worse.
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
        """Called after each step, or, where a whole epoch is compiled (JAX), after its last."""

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
        CheckpointError: `run` holds a run already, none to resume, or one that another process trains; a teacher or the
            initial weights cannot be used.
        DataError: A split or the votes are missing, or there are too few images for a batch.
        UserError: Copies or teachers are asked for without what they need, or a teacher learned with another label
            smoothing; or the disk is full, or the run diverged, and nothing is kept of that epoch.
    """
    config = _resumed(run, dataset) if resume else config
    if not resume:
        _open_run(run, dataset, config)
    train = with_labels(dataset.split("train"), config.labels)
    validation = with_labels(dataset.split("validation"), config.labels)
    with held(run):
        for teacher in config.teachers:
            require_same_weights(run, teacher)
        kept = run / TEACHING if config.copies or not answers else answers  # copies are of this run alone
        training = _begin(config, train, kept)
        if resume and _take_up(training, run):
            log.info("resuming %s after epoch %d", run, training.epoch)
        elif config.initial_weights:
            require_same_weights(run, config.initial_weights)
            training.begin_with(initial_network(Path(config.initial_weights), config))
        _train(training, validation, run, listener or Listener())
    return training.best_accuracy


def _train(training: Training, validation: FaceSet, run: Path, listener: Listener) -> None:
    """All epochs that are left."""
    with _board(run) as board:
        while training.epoch < training.config.epochs:
            result = _epoch(training, validation, run, listener.on_step)
            with writing(run):
                _record(run, result)  # first: the line of an epoch without a checkpoint is dropped again
                training.save(run / CHECKPOINTS)
                board.add(result.epoch, result.loss, result.accuracy)  # last: nothing can be dropped there
            listener.on_epoch(result)


@contextmanager
def _board(run: Path) -> Iterator[Board]:
    with writing(run):
        board = Board(run / TENSORBOARD)
    try:
        yield board
    finally:
        with writing(run):
            board.close()


def _take_up(training: Training, run: Path) -> bool:
    """Goes back to the last checkpoint, and the history with it; False where there is none yet."""
    restored, history = training.restore(run / CHECKPOINTS), run / HISTORY
    lines = history.read_text().splitlines(keepends=True) if history.exists() else []
    if not restored and len(lines) > 1:
        raise CheckpointError(
            f"has no {CHECKPOINTS} to go on from", where=run,
            remedy="Begin another run; --initial-weights takes the best weights of this one",
        )  # fmt: skip
    if len(lines) > training.epoch:
        with replaced(history) as fresh:
            fresh.write_text("".join(lines[: training.epoch]))
    return restored


def _begin(config: FitConfig, train: FaceSet, answers: Path) -> Training:
    """The run before its first step, on the backend of Keras."""
    backend = _backend(config)
    if config.teachers and not config.live_teachers:
        return backend(config, train, teaching(answers, config, train.images))
    training = backend(config, train)
    if config.live_teachers:
        training.ask_live([Path(teacher) for teacher in config.teachers])
    return training


def _backend(config: FitConfig) -> type[Training]:
    """The way to train that goes with Keras's backend, imported only now: either brings its library."""
    if keras.backend.backend() == "jax":
        from trainer.training_jax import JaxTraining

        return JaxTraining
    from trainer.training_tensorflow import TensorFlowTraining, compute_in_bfloat16

    compute_in_bfloat16(config.bfloat16)  # the teachers' answers too
    return TensorFlowTraining


def _resumed(run: Path, dataset: Dataset) -> FitConfig:
    config, origin = read_config(run)
    if keras.backend.backend() not in origin.libraries:
        raise CheckpointError("was begun with another --backend, whose checkpoints this one cannot read", where=run,
                              remedy="Resume with the --backend that it was begun with")  # fmt: skip
    require_data(run, origin, dataset)
    require_same_votes(run, config, origin, dataset)
    return config


def _open_run(run: Path, dataset: Dataset, config: FitConfig) -> None:
    """Makes the folder, once all that the run needs is there: a folder with a configuration can only be resumed."""
    require_new(run)
    require_inputs(dataset, config)
    origin = replace(provenance(dataset, config), weights_sha256=weights_behind(config))
    if config.initial_weights:
        origin = replace(origin, initial_data=data_before(Path(config.initial_weights), origin.data_sha256))
    with writing(run):
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
        raise _diverged(training, run, "its network's answers are no numbers")
    accuracy = float(np.mean(logits.argmax(axis=1) == validation.labels))
    best = training.judge(accuracy)
    if best:
        with writing(run):
            save_weights(training.averaged, run)
    return EpochResult(epoch + 1, training.config.side_px(epoch), loss, accuracy, best, time.monotonic() - started)


def _diverged(training: Training, run: Path, sign: str) -> UserError:
    rates = "peak_lr or muon_lr" if training.config.muon_lr else "peak_lr"
    return UserError(f"diverged in epoch {training.epoch}: {sign}", where=run,
                     remedy=f"Begin another run with a lower {rates} in --config")  # fmt: skip


def _record(run: Path, result: EpochResult) -> None:
    with (run / HISTORY).open("a") as history:
        history.write(json.dumps(asdict(result)) + "\n")
