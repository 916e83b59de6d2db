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
from trainer.distill import require_teacher, teaching
from trainer.errors import CheckpointError
from trainer.labels import require_votes, with_labels
from trainer.layouts import SIZE_PX
from trainer.provenance import data_sha256, provenance, require_data, require_same_votes
from trainer.run import CHECKPOINTS, HISTORY, TEACHING, TENSORBOARD, held, read_config, require_new, write_config
from trainer.training import Training, steps_per_epoch
from trainer.weights import load_full_network, load_network, save_weights, weights_sha256

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
            _require_same_weights(run, teacher)
        kept = run / TEACHING if config.copies or not answers else answers  # copies are of this run alone
        training = _begin(config, train, kept)
        if resume and _take_up(training, run):
            log.info("resuming %s after epoch %d", run, training.epoch)
        elif config.initial_weights:
            _require_same_weights(run, config.initial_weights)
            training.begin_with(_initial_network(Path(config.initial_weights), config))
        _train(training, validation, run, listener or Listener())
    return training.best_accuracy


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
        _initial_network(Path(config.initial_weights), config)  # only to refuse what cannot be loaded


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


def weights_behind(config: FitConfig) -> dict[str, str]:
    """Hash of the weights of each teacher, and of those that a run begins with, by folder."""
    behind = [*config.teachers, *([config.initial_weights] if config.initial_weights else [])]
    return {folder: weights_sha256(Path(folder)) for folder in behind}


def _require_same_weights(run: Path, behind: str) -> None:
    """Refuses a teacher, or what a run begins with, that has changed since. One that is gone may be needed no more."""
    begun = read_config(run)[1].weights_sha256.get(behind, "")
    if begun and weights_sha256(Path(behind)) not in {"", begun}:
        raise CheckpointError(f"has other weights than when {run} began", where=behind,
                              remedy="Give it the former weights, or begin another run")  # fmt: skip


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
        origin = replace(origin, initial_data=_data_before(Path(config.initial_weights), origin.data_sha256))
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
        write_config(run, config, origin)


def _data_before(initial: Path, data_sha256: str) -> str:
    """File name of other data that the initial weights were fitted to, of which a warning tells; empty without any."""
    other = read_config(initial)[1].other_data(data_sha256)
    if other:
        log.warning("%s learned from other data (%s): where images of it are among those that judge this run, "
                    "its figures flatter it", initial, other)  # fmt: skip
    return other


def _initial_network(initial: Path, config: FitConfig) -> keras.Model:
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
