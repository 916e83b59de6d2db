"""A study: the trials of a hyperparameter search, in a storage that several workstations may share."""

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
"""Share of the epochs that every trial gets: before it, a curve says little of its end."""
TRIALS_FOR_IMPORTANCES: Final = 10
"""With fewer whole trials, importances are the dice's."""

_STATES: Final[dict[TrialState, State]] = {
    TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "running",
}  # fmt: skip
_CONDITIONS: Final = "conditions"
_FAULTS: Final = (optuna.exceptions.OptunaError, SQLAlchemyError, OSError, ValueError, KeyError)
"""Of databases, and of journals that cannot be read, written or understood."""
_PASSING: Final = (optuna.exceptions.StorageInternalError, DBAPIError)
"""Of databases that may be well again in a moment."""
_OPENING_PAUSES_S: Final = (0.2, 0.5, 1.0)
_PAUSES_S: Final = (1.0, 3.0, 9.0)  # in which a database starts anew
_USER: Final = re.compile(r"(?P<name>[^:/@]*:)(?P<password>.*)@")


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial, as the storage has it.

    Attributes:
        number: Counted from 0 over the whole study.
        state: `pruned` trials were stopped because others were better at that epoch; `running` ones may be interrupted.
        params: The values tried, by the name of the field of `FitConfig`.
        curve: PublicTest accuracy, 0 to 1, by the epoch after which it was reported, in their order.
        best: PublicTest accuracy of the whole run, 0 to 1; None while it is not complete.
        seconds: Wall time of its epochs.
        fault: Why it failed.
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
        """That of the whole run, or else the best of the curve; 0 where no epoch was finished."""
        return max(self.curve.values(), default=0.0) if self.best is None else self.best


def open_study(storage: str, name: str, *, seed: int, epochs: int) -> optuna.Study:
    """Opens a study, or begins it.

    Args:
        storage: Path of a journal file, or URL of a database as SQLAlchemy takes it.
        name: One storage holds many studies.
        seed: Of the proposals.
        epochs: Of a whole trial.

    Raises:
        StorageError: The storage cannot be read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return _again(  # of two that begin with a new database, one cannot make the tables that the other is making
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
    except (*_FAULTS, ImportError) as error:
        remedy = "Name a file in a folder that is there, or the address of a database, such as sqlite:///study.db"
        raise _unusable(storage, error, remedy) from error


@contextmanager
def storage_faults(storage: str) -> Iterator[None]:
    """Tells what goes wrong with the storage of an open study inside the block as a `StorageError`."""
    try:
        yield
    except BrokenPipeError:  # of our own output
        raise
    except _FAULTS as error:
        raise _unusable(storage, error, "Put that right and repeat the command, which goes on") from error


def patiently(action: Callable[[*_Arguments], _Result], *arguments: *_Arguments) -> _Result:
    """Does something with the storage of an open study, for 13 s again and again while its database fails.

    Args:
        action: What may be done twice, as a database may fail after it was done.
        arguments: Of the action.
    """
    return _again(lambda: action(*arguments), _PAUSES_S)


def _again(action: Callable[[], _Result], pauses_s: Sequence[float]) -> _Result:
    for pause_s in pauses_s:
        try:
            return action()
        except _PASSING as error:
            log.info("the storage fails (%s), and is tried again in %g s", _reason(error), pause_s)
            time.sleep(pause_s)
    return action()


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return str(cause).partition("\n")[0].rstrip(".") or type(cause).__name__


def _unusable(storage: str, error: Exception, remedy: str) -> StorageError:
    where, reason = _without_password(storage), _reason(error)
    user = _USER.match(storage.partition("://")[2])
    if user and set(user["password"]) & set("@?"):  # the reason may name what was taken for the host
        reason, remedy = "where its password ends cannot be told", "Write %40 for @ and %3F for ? in it"
    return StorageError(f"cannot be used as the storage of a study ({reason})", where=where, remedy=remedy)


def _without_password(storage: str) -> str:
    """The address of a database as it may be shown, without what may hold a password; the path of a file as it is."""
    scheme, is_address, rest = storage.partition("://")
    user = _USER.match(rest)
    if user and set(user["password"]) & set("@?"):
        return f"{scheme}://***"
    shown = f"{user['name']}***{rest[user.end() - 1 :]}" if user else rest
    return f"{scheme}{is_address}{re.sub(r'[?].*', '?***', shown) if is_address else rest}"


def agree(study: optuna.Study, conditions: Mapping[str, Any]) -> None:
    """Sees to it that all who take part in a study try the same thing on the same data.

    Args:
        study: New, or begun by an earlier call or another workstation.
        conditions: What must be the same, as JSON has it.

    Raises:
        CheckpointError: The study was begun under other conditions; the error names them.
    """
    begun = _first_conditions(study, conditions)
    other = sorted(key for key in {*begun, *conditions} if begun.get(key) != conditions.get(key))
    if other:
        was = ", ".join(f"{key} {begun.get(key)}" for key in other)
        raise CheckpointError(
            f"was begun under other conditions ({was})", where=f"study {study.study_name}",
            remedy="Repeat the command that began it, or name another study with --study",
        )  # fmt: skip


def _first_conditions(study: optuna.Study, conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Under which a study was begun: `conditions` if it is new.

    They lie with the first trial of a study beside it. Every storage gives out the numbers of trials one by one, so
    all who begin at once find the same one's there, where of an attribute each would find what was written last.
    """
    beside = optuna.create_study(
        storage=study._storage,  # noqa: SLF001 - opened once
        study_name=f"{study.study_name}.{_CONDITIONS}",
        load_if_exists=True,
        direction="maximize",
    )
    if not study.get_trials(deepcopy=False) and not beside.get_trials(deepcopy=False):
        beside.add_trial(create_trial(value=0.0, user_attrs={_CONDITIONS: dict(conditions)}))
    first: dict[str, Any] = next((one.user_attrs[_CONDITIONS] for one in beside.get_trials(deepcopy=False)), {})
    return first


def report(trial: optuna.Trial, curve: Mapping[int, float], seconds: float) -> None:
    """Tells the study what it does not know yet of a trial that runs.

    Args:
        trial: That is run here.
        curve: PublicTest accuracy, 0 to 1, by epoch.
        seconds: Wall time of its epochs.
    """
    known = trials(trial.study)[trial.number].curve
    for epoch, accuracy in curve.items():
        if epoch not in known:
            trial.report(accuracy, epoch)
    trial.set_user_attr("seconds", round(seconds, 1))


def trials(study: optuna.Study) -> list[Trial]:
    """All trials of all workstations, by number."""
    return [_trial(frozen) for frozen in study.get_trials(deepcopy=False)]


def done(study: optuna.Study) -> int:
    """How many trials came to a result. Failed ones did not, and running ones have not yet."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def ranking(all_trials: Sequence[Trial]) -> list[Trial]:
    """The whole trials, the best first."""
    return sorted((trial for trial in all_trials if trial.state == "complete"), key=lambda trial: -trial.accuracy)


def importances(study: optuna.Study) -> dict[str, float]:
    """How much each parameter decided whether a trial was among the best (PED-ANOVA, arXiv:2304.10255).

    Returns:
        Shares that sum to 1, the largest first; empty while there are too few whole trials.
    """
    whole = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return optuna.importance.get_param_importances(study) if len(whole) >= TRIALS_FOR_IMPORTANCES else {}


def reopen(study: optuna.Study, number: int) -> optuna.Trial | None:
    """A trial that was interrupted; None if it has been ended since."""
    (frozen,) = (trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    return optuna.Trial(study, frozen._trial_id) if frozen.state == TrialState.RUNNING else None  # noqa: SLF001 - its id


def _trial(frozen: FrozenTrial) -> Trial:
    return Trial(
        number=frozen.number,
        state=_STATES[frozen.state],
        params=dict(frozen.params),
        curve=dict(sorted(frozen.intermediate_values.items())),
        best=frozen.value if frozen.state == TrialState.COMPLETE else None,  # a pruned one has its last epoch's
        seconds=float(frozen.user_attrs.get("seconds", 0.0)),
        fault=str(frozen.user_attrs.get("fault", "")),
    )


def _backend(storage: str) -> BaseStorage:
    if "://" not in storage:
        return JournalStorage(JournalFileBackend(storage))
    return RDBStorage(storage, engine_kwargs={"poolclass": NullPool})  # which keeps no connection that nobody closes


class _SeededByTrial(BaseSampler):
    """TPE whose dice follow from the seed and the number of the trial.

    So neither a call that goes on with a study nor a second workstation proposes again what was tried already.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler(seed=seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        own = np.random.SeedSequence((self._seed, trial.number)).generate_state(1)
        self._tpe = TPESampler(seed=int(own[0]))
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
