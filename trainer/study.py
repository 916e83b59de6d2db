"""A study: the trials of a hyperparameter search, in storage that several workstations may share."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, TypeVarTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import NullPool
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from trainer.errors import CheckpointError, StorageError

log = logging.getLogger(__name__)

State = Literal["complete", "pruned", "failed", "running"]
_Result = TypeVar("_Result")
_Arguments = TypeVarTuple("_Arguments")

SHARE_BEFORE_PRUNING: Final = 0.25
"""Share of the epochs before a trial may be pruned, as early accuracies predict little."""
TRIALS_FOR_IMPORTANCES: Final = 10
"""With fewer complete trials, importances are mostly noise."""

_STATES: Final[dict[TrialState, State]] = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "running",
}  # fmt: skip
_CONDITIONS: Final = "conditions"
_STORAGE_ERRORS: Final = (optuna.exceptions.OptunaError, SQLAlchemyError, OSError, ValueError, KeyError)
"""Errors of databases, and of journals that cannot be read, written or parsed."""
_TRANSIENT_ERRORS: Final = (optuna.exceptions.StorageInternalError, DBAPIError)
"""Errors of databases that may be temporary."""
_OPENING_PAUSES_S: Final = (0.2, 0.5, 1.0)
_PAUSES_S: Final = (1.0, 3.0, 9.0)  # long enough for a database to restart
_USER: Final = re.compile(r"(?P<name>[^:/@]*:)(?P<password>.*)@")


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial, as stored.

    Attributes:
        number: Number of the trial in the study, counted from 0.
        state: `pruned` trials were stopped because others were better at that epoch; `running` ones may be interrupted.
        params: Parameter values, by field of `FitConfig`.
        curve: PublicTest accuracy, 0 to 1, by the epoch after which it was reported, in ascending order.
        best: Best PublicTest accuracy of the run, 0 to 1; None unless the trial is complete.
        seconds: Wall time of its epochs.
        fault: Reason of the failure; empty unless the trial failed.
    """

    number: int
    state: State
    params: dict[str, float]
    curve: dict[int, float] = field(default_factory=dict)
    best: float | None = None
    seconds: float = 0.0
    fault: str = ""

    @property
    def accuracy(self) -> float:
        """Accuracy of the complete run, or else the best one so far; 0 before the first epoch."""
        return max(self.curve.values(), default=0.0) if self.best is None else self.best


def open_study(storage: str, name: str, *, seed: int, epochs: int) -> optuna.Study:
    """Opens a study, creating it if it does not exist.

    Args:
        storage: Path of a journal file, or SQLAlchemy URL of a database.
        name: Name of the study; one storage may hold several.
        seed: Seed of the sampler.
        epochs: Epochs of a complete trial.

    Raises:
        StorageError: The storage cannot be read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return _retry(  # two processes may create the tables of a new database at once, and one of them fails
            lambda: optuna.create_study(
                storage=_backend(storage),
                study_name=name,
                load_if_exists=True,
                direction="maximize",
                sampler=_SeededByTrial(seed),
                pruner=optuna.pruners.MedianPruner(n_warmup_steps=math.ceil(SHARE_BEFORE_PRUNING * epochs)),
            ),
            _OPENING_PAUSES_S,
        )
    except (*_STORAGE_ERRORS, ImportError) as error:
        remedy = "Name a file in an existing folder, or the URL of a database, such as sqlite:///study.db"
        raise _unusable(storage, error, remedy) from error


@contextmanager
def storage_errors(storage: str) -> Iterator[None]:
    """Turns errors of the storage of an open study inside the block into a `StorageError`."""
    try:
        yield
    except BrokenPipeError:  # of standard output, not of the storage
        raise
    except _STORAGE_ERRORS as error:
        raise _unusable(storage, error, "Fix that and repeat the command, which continues the study") from error


def with_retries(action: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
    """Calls a function that uses the storage of an open study, retrying for 13 s while its database fails.

    Args:
        action: An idempotent function, as a database may fail after the work is done.
        arguments: Arguments of the function.
    """
    return _retry(lambda: action(*arguments), _PAUSES_S)


def _retry(action: Callable[[], _Result], pauses_s: Sequence[float]) -> _Result:
    for pause_s in pauses_s:
        try:
            return action()
        except _TRANSIENT_ERRORS as error:
            log.info("storage error (%s), retrying in %g s", _reason(error), pause_s)
            time.sleep(pause_s)
    return action()


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause).partition("\n")[0].rstrip(".") or type(cause).__name__


def _unusable(storage: str, error: Exception, remedy: str) -> StorageError:
    where, reason = _without_password(storage), _reason(error)
    user = _USER.match(storage.partition("://")[2])
    if user and set(user["password"]) & set("@?"):  # the reason might quote a part of the password as the host
        reason, remedy = "the end of its password is ambiguous", "Write %40 for @ and %3F for ? in the password"
    return StorageError(f"cannot be used as the storage of a study ({reason})", where=where, remedy=remedy)


def _without_password(storage: str) -> str:
    """Masks the parts of a database URL that may contain a password; returns the path of a file unchanged."""
    scheme, separator, rest = storage.partition("://")
    user = _USER.match(rest)
    if user and set(user["password"]) & set("@?"):
        return f"{scheme}://***"
    shown = f"{user['name']}***{rest[user.end() - 1 :]}" if user else rest
    return f"{scheme}{separator}{re.sub(r'[?].*', '?***', shown) if separator else rest}"


def require_conditions(study: optuna.Study, conditions: Mapping[str, Any]) -> None:
    """Checks that all processes of a study run the same kind of trial on the same data.

    Args:
        study: A new study, or one started by an earlier call or another workstation.
        conditions: What must be the same, as JSON has it.

    Raises:
        CheckpointError: The study was started with other conditions; the message names them.
    """
    original = _first_conditions(study, conditions)
    other = sorted(key for key in {*original, *conditions} if original.get(key) != conditions.get(key))
    if other:
        differing = ", ".join(f"{key} {original.get(key)}" for key in other)
        raise CheckpointError(
            f"was started with other conditions ({differing})", where=f"study {study.study_name}",
            remedy="Repeat the command that started it, or name another study with --study",
        )  # fmt: skip


def _first_conditions(study: optuna.Study, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the conditions that a study was started with, which are `conditions` if it is new.

    They are stored with the first trial of a companion study. Every storage numbers trials atomically, so processes
    that start at once agree on the first one; of a study attribute, the last writer would win.
    """
    companion = optuna.create_study(
        storage=study._storage,  # noqa: SLF001 - not opened twice
        study_name=f"{study.study_name}.{_CONDITIONS}",
        load_if_exists=True,
        direction="maximize",
    )
    if not study.get_trials(deepcopy=False) and not companion.get_trials(deepcopy=False):
        companion.add_trial(create_trial(value=0.0, user_attrs={_CONDITIONS: dict(conditions)}))
    first: dict[str, Any] = next((one.user_attrs[_CONDITIONS] for one in companion.get_trials(deepcopy=False)), {})
    return first


def report(trial: optuna.Trial, curve: Mapping[int, float], seconds: float) -> None:
    """Reports the epochs of a running trial that the study does not have yet, and their time.

    Args:
        trial: The running trial.
        curve: PublicTest accuracy, 0 to 1, by epoch.
        seconds: Wall time of its epochs.
    """
    known = trials(trial.study)[trial.number].curve
    for epoch, accuracy in curve.items():
        if epoch not in known:
            trial.report(accuracy, epoch)
    trial.set_user_attr("seconds", round(seconds, 1))


def trials(study: optuna.Study) -> list[Trial]:
    """Returns all trials of all workstations, by number."""
    return [_trial(frozen) for frozen in study.get_trials(deepcopy=False)]


def count_finished(study: optuna.Study) -> int:
    """Returns the number of complete and pruned trials."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def ranking(all_trials: Sequence[Trial]) -> list[Trial]:
    """Returns the complete trials, the best first."""
    return sorted((trial for trial in all_trials if trial.state == "complete"), key=lambda trial: -trial.accuracy)


def importances(study: optuna.Study) -> dict[str, float]:
    """Returns how much each parameter determined whether a trial was among the best (PED-ANOVA, arXiv:2304.10255).

    Returns:
        Shares that sum to 1, the largest first; empty while there are too few complete trials.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return optuna.importance.get_param_importances(study) if len(complete) >= TRIALS_FOR_IMPORTANCES else {}


def reopen(study: optuna.Study, number: int) -> optuna.Trial | None:
    """Returns an interrupted trial to resume it; None if it has been finished since."""
    (frozen,) = (trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    return optuna.Trial(study, frozen._trial_id) if frozen.state == TrialState.RUNNING else None  # noqa: SLF001 - its id


def _trial(frozen: FrozenTrial) -> Trial:
    return Trial(
        number=frozen.number,
        state=_STATES[frozen.state],
        params=dict(frozen.params),
        curve=dict(sorted(frozen.intermediate_values.items())),
        best=frozen.value if frozen.state == TrialState.COMPLETE else None,  # of a pruned trial, it is the last epoch's
        seconds=float(frozen.user_attrs.get("seconds", 0.0)),
        fault=str(frozen.user_attrs.get("fault", "")),
    )


def _backend(storage: str) -> BaseStorage:
    if "://" not in storage:
        return JournalStorage(JournalFileBackend(storage))
    return RDBStorage(storage, engine_kwargs={"poolclass": NullPool})  # closes connections right after use


class _SeededByTrial(BaseSampler):
    """TPE that is seeded anew for each trial, from the seed and the number of the trial.

    So neither a later call nor a second workstation proposes the same parameters again.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        state = np.random.SeedSequence((self._seed, trial.number)).generate_state(1)
        self._tpe = TPESampler(seed=int(state[0]))
        self._tpe.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)
