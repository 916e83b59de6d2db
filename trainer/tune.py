"""`trainer tune`: which values of the recipe's parameters PublicTest likes best, found by many short runs."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import keras
import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from edge.contract.errors import UserError
from trainer.config import FitConfig
from trainer.data import Dataset
from trainer.disk import lock
from trainer.errors import CheckpointError, StorageError
from trainer.fit import EpochResult, Listener, fit
from trainer.inputs import require_inputs, weights_behind
from trainer.provenance import provenance
from trainer.run import CONFIG, HISTORY, TEACHING, read_config
from trainer.study import Trial, agree, done, open_study, patiently, reopen, report, storage_faults, trials

log = logging.getLogger(__name__)

SPACE: Final[Mapping[str, FloatDistribution]] = {
    "peak_lr": FloatDistribution(0.01, 0.2, log=True),
    "muon_lr": FloatDistribution(0.003, 0.06, log=True),
    "weight_decay": FloatDistribution(5e-5, 2e-3, log=True),
    "label_smoothing": FloatDistribution(0.0, 0.2),
    "dropout": FloatDistribution(0.0, 0.4),
    "erase_share": FloatDistribution(0.0, 0.5),
    "votes_weight": FloatDistribution(0.1, 1.0),
}
"""What is searched: fields of `FitConfig` and the range of each. All others stay as the recipe has them.

The decay of the averaged weights is not among them: the best one grows with the length of a run.
"""

_FAILURES_IN_A_ROW: Final = 3
_LOCK: Final = "lock"
"""Beside a trial's run, which may have no configuration yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a study is about.

    Attributes:
        base: The recipe of which the parameters in `SPACE` are varied.
        trials: How many trials the whole study shall have, those of earlier calls and other workstations included.
        storage: Path of a journal file, or URL of a database.
        name: Of the study in that storage.
        seed: Of the proposals; that of the runs is the recipe's.
    """

    base: FitConfig
    trials: int
    storage: str
    name: str
    seed: int

    @property
    def space(self) -> dict[str, FloatDistribution]:
        """`SPACE` without what has no effect on this recipe, or follows from its teachers."""
        idle = {name for name in ("votes_weight", "muon_lr") if not getattr(self.base, name)}
        if self.base.labels == "ferplus" or self.base.teachers:
            idle.add("label_smoothing")  # the crowd's votes are soft by themselves, and teachers have theirs already
        return {name: range_ for name, range_ in SPACE.items() if name not in idle}

    def config(self, params: dict[str, Any]) -> FitConfig:
        """The recipe with the values that a trial tries."""
        return replace(self.base, **params)


class Follower(Listener):
    """Follows a study, and the steps and epochs of its runs. Does nothing by itself."""

    def on_trial(self, number: int, *, resumed: bool) -> None:
        """Called before a trial begins, or goes on."""

    def on_result(self, trial: Trial) -> None:
        """Called when a trial is complete, pruned or failed."""


def run_folder(output: Path, number: int) -> Path:
    """Where a trial's run lies. What the teachers say lies beside it, for all trials."""
    return output / f"trial-{number:03}"


def begin(dataset: Dataset, output: Path, search: Search) -> optuna.Study:
    """Opens the study, or takes it up again.

    Args:
        dataset: With the splits `train` and `validation`.
        output: Folder for the runs; made where there is none.
        search: What to search.

    Raises:
        CheckpointError: The storage is unusable, its study was begun under other conditions, or a teacher or the
            initial weights cannot be used.
        DataError: A split or the votes are missing, or there are too few images for a batch.
        UserError: Copies or teachers are asked for without what they need, or a teacher learned with another label
            smoothing.
    """
    require_inputs(dataset, search.base)
    output.mkdir(parents=True, exist_ok=True)
    study = open_study(search.storage, search.name, seed=search.seed, epochs=search.base.epochs)
    with storage_faults(search.storage):
        agree(study, _conditions(dataset, search))
    return study


def tune(study: optuna.Study, dataset: Dataset, output: Path, search: Search, follower: Follower | None = None) -> None:
    """Runs trials until the study has as many as it shall have. PrivateTest is not touched.

    A trial that was interrupted, however hard, goes on after its last finished epoch when the study is taken up again
    with the same `output`. One that fails is recorded and followed by the next.

    Args:
        study: What `begin` gave.
        dataset: As for `begin`.
        output: As for `begin`; several workstations may share it.
        search: As for `begin`.
        follower: Told of each trial, step and epoch.

    Raises:
        StorageError: The storage fails, for longer than a moment. The trial may be taken up again.
        UserError: Trial after trial fails.
    """
    follower, failures = follower or Follower(), 0
    while True:
        with storage_faults(search.storage):
            if done(study) >= search.trials:
                return
            trial, claimed = claim(study, output, search)
        with claimed:
            outcome = _run_trial(trial, dataset, output, search, follower)
            with storage_faults(search.storage):
                patiently(_tell, study, trial, outcome)
                result = trials(study)[trial.number]
        keras.backend.clear_session()  # or the graphs of all trials would stay in memory
        follower.on_result(result)
        failures = failures + 1 if result.state == "failed" else 0
        if failures == _FAILURES_IN_A_ROW:
            raise UserError(f"trial after trial fails, the last one with: {result.fault.rstrip('.')}",
                            where=run_folder(output, result.number),
                            remedy="Put that right and repeat the command, which goes on")  # fmt: skip


def _conditions(dataset: Dataset, search: Search) -> dict[str, Any]:
    """What all who share a study must have in common."""
    # What a processor is good at may differ between them.
    own = {*search.space, "bfloat16"}
    recipe = {name: value for name, value in search.base.to_dict().items() if name not in own}
    ranges = {name: (one.low, one.high) for name, one in search.space.items()}
    origin = provenance(dataset, search.base)
    hashes = {name: getattr(origin, name) for name in ("data_sha256", "validation_sha256", "votes_sha256")}
    behind = {f"weights of {folder}": sha256 for folder, sha256 in weights_behind(search.base).items()}
    conditions = {**recipe, "ranges": ranges, **hashes, **behind}
    as_stored: dict[str, Any] = json.loads(json.dumps(conditions))
    return as_stored


def _run_trial(
    trial: optuna.Trial, dataset: Dataset, output: Path, search: Search, follower: Follower
) -> float | str | None:
    """Trains. What a Ctrl-C or a failing storage leaves is a trial that still runs, to be taken up.

    Returns:
        The accuracy; None if it was pruned, and what was wrong if it failed.
    """
    run, config = run_folder(output, trial.number), search.config(trial.params)
    resumed = (run / CONFIG).exists()
    follower.on_trial(trial.number, resumed=resumed)
    reporter = _Reporter(trial, run, search, follower)
    try:
        accuracy = fit(dataset, run, config, resume=resumed, answers=output / TEACHING, listener=reporter)
        reporter.tell()  # where it was stopped after its last epoch, before that was told
    except optuna.TrialPruned:
        return None
    except StorageError:
        raise
    except Exception as error:  # whatever ends a trial must not end the study
        log.debug("trial %d", trial.number, exc_info=True)
        return str(error) or type(error).__name__
    return accuracy


def _tell(study: optuna.Study, trial: optuna.Trial, outcome: float | str | None) -> None:
    if isinstance(outcome, str):
        trial.set_user_attr("fault", outcome)
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
    elif outcome is None:
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(trial, outcome, skip_if_finished=True)


class _Reporter(Listener):
    """Tells the study of each epoch, and ends the run if it has no prospects."""

    def __init__(self, trial: optuna.Trial, run: Path, search: Search, follower: Follower) -> None:
        self._trial = trial
        self._run = run
        self._search = search
        self._follower = follower

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self._follower.on_step(epoch, step, steps, loss)

    def on_epoch(self, result: EpochResult) -> None:
        self.tell()
        self._follower.on_epoch(result)
        with storage_faults(self._search.storage):
            hopeless = result.epoch < self._search.base.epochs and patiently(self._trial.should_prune)
        if hopeless:
            raise optuna.TrialPruned

    def tell(self) -> None:
        """Tells the study of all epochs of the run, as one may have ended just before the process did."""
        history = [json.loads(line) for line in (self._run / HISTORY).read_text().splitlines()]
        curve = {epoch["epoch"]: epoch["accuracy"] for epoch in history}
        seconds = sum(epoch["seconds"] for epoch in history)
        with storage_faults(self._search.storage):
            patiently(report, self._trial, curve, seconds)


def claim(study: optuna.Study, output: Path, search: Search) -> tuple[optuna.Trial, IO[bytes]]:
    """The next trial for this process: one of this folder that was interrupted, or a new one.

    Returns:
        The trial, and the lock that keeps other processes from it until it is closed or the process ends.
    """
    while True:
        claimed = _interrupted(study, output) or _new(study, output, search)
        if claimed is not None:
            return claimed


def _interrupted(study: optuna.Study, output: Path) -> tuple[optuna.Trial, IO[bytes]] | None:
    """A trial of this folder that nobody runs any more, with its lock."""
    for trial in trials(study):
        run = run_folder(output, trial.number)
        claimed = _lock(run) if trial.state == "running" and run.is_dir() else None
        if claimed is not None:
            # Another process may have ended it between the look at the study and the lock.
            reopened = reopen(study, trial.number) if _goes_on_here(run) else None
            if reopened is not None:
                return reopened, claimed
            claimed.close()
    return None


def _lock(run: Path) -> IO[bytes] | None:
    """Keeps others from a trial's run; None if another process has it, or another user made it."""
    try:
        return lock(run / _LOCK)
    except PermissionError:
        return None


def _goes_on_here(run: Path) -> bool:
    """Whether its checkpoints are those of this backend. What cannot be told will be, when the trial fails."""
    try:
        return not (run / CONFIG).exists() or keras.backend.backend() in read_config(run)[1].libraries
    except CheckpointError:
        return True


def _new(study: optuna.Study, output: Path, search: Search) -> tuple[optuna.Trial, IO[bytes]] | None:
    """A trial that nobody has begun, with its lock; None if another process took it for interrupted before that."""
    trial = study.ask(dict(search.space))
    run = run_folder(output, trial.number)
    try:
        run.mkdir()
    except OSError as error:
        study.tell(trial, state=TrialState.FAIL)
        raise CheckpointError(
            "is there already or cannot be made", where=run,
            remedy="Give the folder in which this study was begun, or a new one",
        ) from error  # fmt: skip
    claimed = _lock(run)
    return None if claimed is None else (trial, claimed)
