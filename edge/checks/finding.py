"""What a check is, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from edge.contract.errors import UserError
from edge.errors import ConfigFaults


class Outcome(StrEnum):
    """How a check ends."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Doubt(UserError):
    """It works, but a person should look at it: raised by a check that ends with `Outcome.WARN`."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to try.

    Attributes:
        name: What is tried, for people.
        attempt: Tries it and returns what it finds. Raises `Doubt`, or the `UserError` that the agent would meet.
    """

    name: str
    attempt: Callable[[], str]


Chain = Sequence[Check]
"""Checks each of which makes sense only if the one before it did not fail."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a check.

    Attributes:
        check: Its name.
        status: How it ended.
        detail: What was found.
        remedy: What to do about it, where something is to be done.
        exit_code: The agent's own for this failure; 0 unless it is one.
    """

    check: str
    status: Outcome
    detail: str
    remedy: str | None = None
    exit_code: int = 0


def examine(chains: Iterable[Chain]) -> Iterator[Finding]:
    """Carries the checks out, one after the other; what follows a failure in its chain is left out."""
    for chain in chains:
        for check in chain:
            findings = _attempt(check)
            yield from findings
            if any(finding.status is Outcome.FAIL for finding in findings):
                break


def failures(check: str, error: UserError) -> list[Finding]:
    """An error as findings: each fault of a configuration is one of its own."""
    faults = error.faults if isinstance(error, ConfigFaults) else [error]
    return [Finding(check, Outcome.FAIL, _detail(fault), fault.remedy, fault.exit_code) for fault in faults]


def _attempt(check: Check) -> list[Finding]:
    try:
        return [Finding(check.name, Outcome.OK, check.attempt())]
    except Doubt as doubt:
        return [Finding(check.name, Outcome.WARN, _detail(doubt), doubt.remedy)]
    except UserError as error:
        return failures(check.name, error)


def _detail(error: UserError) -> str:
    return f"{error.where}: {error.what}" if error.where is not None else error.what
