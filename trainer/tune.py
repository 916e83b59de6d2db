"""`trainer tune`: searches for the parameters with the best PublicTest accuracy in many short runs."""

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
from trainer.inputs import input_weights_sha256, require_inputs
from trainer.provenance import provenance
from trainer.run import CONFIG, HISTORY, SOFT_TARGETS, read_config
from trainer.study import (
    Trial,
    count_finished,
    open_study,
    reopen,
    report,
    require_conditions,
    storage_errors,
    trials,
    with_retries,
)

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
"""The search space: fields of `FitConfig` and their ranges. All others are those of the recipe.

`ema_decay` is not searched, because its best value grows with the length of a run.
"""

_MAX_CONSECUTIVE_FAILURES: Final = 3
_LOCK: Final = "lock"
"""Lock file of a trial, whose run may have no configuration to lock yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Settings of a study.

    Attributes:
        base: Configuration whose parameters in `SPACE` are varied.
        trials: Number of trials of the whole study, including those of earlier calls and other workstations.
        storage: Path of a journal file, or URL of a database.
        name: Name of the study in that storage.
        seed: Seed of the sampler; the runs have that of `base`.
    """

    base: FitConfig
    trials: int
    storage: str
    name: str
    seed: int

    @property
    def space(self) -> dict[str, FloatDistribution]:
        """`SPACE` without what has no effect on this configuration, or is determined by its teachers."""
        idle = {name for name in ("votes_weight", "muon_lr") if not getattr(self.base, name)}
        if self.base.labels == "ferplus" or self.base.teachers:
            idle.add("label_smoothing")  # votes are not smoothed, and teachers determine it
        return {name: range_ for name, range_ in SPACE.items() if name not in idle}

    def config(self, params: dict[str, Any]) -> FitConfig:
        """Returns the configuration of a trial with these parameters."""
        return replace(self.base, **params)


class StudyListener(Listener):
    """Callbacks for the progress of a study and of its runs; these do nothing."""

    def on_trial(self, number: int, *, resumed: bool) -> None:
        """Called before a trial starts or resumes."""

    def on_result(self, trial: Trial) -> None:
        """Called when a trial is complete, pruned or failed."""


def run_folder(output: Path, number: int) -> Path:
    """Returns the run folder of a trial. The soft targets that all trials share are beside it."""
    return output / f"trial-{number:03}"


def prepare_study(dataset: Dataset, output: Path, search: Search) -> optuna.Study:
    """Checks all inputs, then creates the study, or opens it if it exists.

    Args:
        dataset: Data set with the splits `train` and `validation`.
        output: Folder for the runs; created if missing.
        search: Settings of the study.

    Raises:
        CheckpointError: The storage is unusable, its study was started with other conditions, or a teacher or the
            initial weights cannot be used.
        DataError: A split or the votes are missing, or there are fewer images than a batch.
        UserError: The configuration has copies or teachers without what they need, or a teacher was trained with
            another label smoothing.
    """
    require_inputs(dataset, search.base)
    output.mkdir(parents=True, exist_ok=True)
    study = open_study(search.storage, search.name, seed=search.seed, epochs=search.base.epochs)
    with storage_errors(search.storage):
        require_conditions(study, _conditions(dataset, search))
    return study


def tune(
    study: optuna.Study, dataset: Dataset, output: Path, search: Search, listener: StudyListener | None = None
) -> None:
    """Runs trials until the study has the requested number. PrivateTest is not used.

    A trial that was interrupted, even by a power cut, resumes after its last finished epoch when the study is continued
    with the same `output`. A trial that fails is recorded, and another one takes its place.

    Args:
        study: Study of `prepare_study`.
        dataset: As for `prepare_study`.
        output: As for `prepare_study`; several workstations may share it.
        search: As for `prepare_study`.
        listener: Notified of each trial, step and epoch.

    Raises:
        StorageError: The storage fails, even after retries. The trial can be resumed.
        UserError: Several trials in a row failed.
    """
    listener, failures = listener or StudyListener(), 0
    while True:
        with storage_errors(search.storage):
            if count_finished(study) >= search.trials:
                return
            trial, trial_lock = claim(study, output, search)
        with trial_lock:
            outcome = _run_trial(trial, dataset, output, search, listener)
            with storage_errors(search.storage):
                with_retries(_tell, study, trial, outcome)
                result = trials(study)[trial.number]
        keras.backend.clear_session()  # else the graphs of all trials would stay in memory
        listener.on_result(result)
        failures = failures + 1 if result.state == "failed" else 0
        if failures == _MAX_CONSECUTIVE_FAILURES:
            raise UserError(f"{failures} trials in a row failed, the last one with: {result.fault.rstrip('.')}",
                            where=run_folder(output, result.number),
                            remedy="Fix that and repeat the command, which continues the study")  # fmt: skip


def _conditions(dataset: Dataset, search: Search) -> dict[str, Any]:
    """Returns what must be the same for all processes that share a study, as JSON has it."""
    # bfloat16 may differ, as it depends on the processor.
    varied = {*search.space, "bfloat16"}
    recipe = {name: value for name, value in search.base.to_dict().items() if name not in varied}
    ranges = {name: (one.low, one.high) for name, one in search.space.items()}
    origin = provenance(dataset, search.base)
    hashes = {name: getattr(origin, name) for name in ("data_sha256", "validation_sha256", "votes_sha256")}
    weights = {f"weights of {folder}": sha256 for folder, sha256 in input_weights_sha256(search.base).items()}
    conditions = {**recipe, "ranges": ranges, **hashes, **weights}
    as_stored: dict[str, Any] = json.loads(json.dumps(conditions))
    return as_stored


def _run_trial(
    trial: optuna.Trial, dataset: Dataset, output: Path, search: Search, listener: StudyListener
) -> float | str | None:
    """Trains one trial. After Ctrl-C or a storage failure, it still counts as running and can be resumed.

    Returns:
        The accuracy; None if the trial was pruned, or the error message if it failed.
    """
    run, config = run_folder(output, trial.number), search.config(trial.params)
    resumed = (run / CONFIG).exists()
    listener.on_trial(trial.number, resumed=resumed)
    reporter = _Reporter(trial, run, search, listener)
    try:
        accuracy = fit(
            dataset, run, config, resume=resumed, soft_targets_cache=output / SOFT_TARGETS, listener=reporter
        )
        reporter.report()  # a resumed run may have been stopped between its last epoch and the report of it
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
    """Reports each epoch to the study, and ends the run if the study prunes it."""

    def __init__(self, trial: optuna.Trial, run: Path, search: Search, listener: StudyListener) -> None:
        self._trial = trial
        self._run = run
        self._search = search
        self._listener = listener

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self._listener.on_step(epoch, step, steps, loss)

    def on_epoch(self, result: EpochResult) -> None:
        self.report()
        self._listener.on_epoch(result)
        with storage_errors(self._search.storage):
            pruned = result.epoch < self._search.base.epochs and with_retries(self._trial.should_prune)
        if pruned:
            raise optuna.TrialPruned

    def report(self) -> None:
        """Reports all epochs of the run, as an earlier process may have stopped before it reported its last one."""
        history = [json.loads(line) for line in (self._run / HISTORY).read_text().splitlines()]
        curve = {epoch["epoch"]: epoch["accuracy"] for epoch in history}
        seconds = sum(epoch["seconds"] for epoch in history)
        with storage_errors(self._search.storage):
            with_retries(report, self._trial, curve, seconds)


def claim(study: optuna.Study, output: Path, search: Search) -> tuple[optuna.Trial, IO[bytes]]:
    """Returns the next trial for this process: an interrupted one of this folder, or a new one.

    Returns:
        The trial, and its lock, which keeps other processes out until it is closed or the process ends.
    """
    while True:
        claimed = _interrupted_trial(study, output) or _new_trial(study, output, search)
        if claimed is not None:
            return claimed


def _interrupted_trial(study: optuna.Study, output: Path) -> tuple[optuna.Trial, IO[bytes]] | None:
    """Returns a trial of this folder that no process runs anymore, with its lock."""
    for trial in trials(study):
        run = run_folder(output, trial.number)
        trial_lock = _lock(run) if trial.state == "running" and run.is_dir() else None
        if trial_lock is not None:
            # Another process may have finished it between reading the study and taking the lock.
            reopened = reopen(study, trial.number) if _resumable_here(run) else None
            if reopened is not None:
                return reopened, trial_lock
            trial_lock.close()
    return None


def _lock(run: Path) -> IO[bytes] | None:
    """Locks a trial's run; returns None if another process has locked it, or it belongs to another user."""
    try:
        return lock(run / _LOCK)
    except PermissionError:
        return None


def _resumable_here(run: Path) -> bool:
    """Whether its checkpoints are of this backend; True if that is unknown, as `fit` will then raise the reason."""
    try:
        return not (run / CONFIG).exists() or keras.backend.backend() in read_config(run)[1].libraries
    except CheckpointError:
        return True


def _new_trial(study: optuna.Study, output: Path, search: Search) -> tuple[optuna.Trial, IO[bytes]] | None:
    """Returns a new trial with its lock; None if another process resumed it as interrupted before it was locked."""
    trial = study.ask(dict(search.space))
    run = run_folder(output, trial.number)
    try:
        run.mkdir()
    except OSError as error:
        study.tell(trial, state=TrialState.FAIL)
        raise CheckpointError(
            "already exists or cannot be created", where=run,
            remedy="Name the folder in which this study was started, or a new one",
        ) from error  # fmt: skip
    trial_lock = _lock(run)
    return None if trial_lock is None else (trial, trial_lock)
