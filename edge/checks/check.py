"""Checks, their results, and how they are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from edge.contract.errors import UserError
from edge.errors import ConfigErrors


class Outcome(StrEnum):
    """The status of a check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class CheckWarning(UserError):
    """Raised by a check whose part works but needs attention; its outcome is `Outcome.WARN`."""


@dataclass(frozen=True, slots=True)
class Check:
    """A single check.

    Attributes:
        name: What is checked, for display.
        run: Runs the check and returns the details. Raises `CheckWarning`, or the `UserError` that the agent would
            raise.
    """

    name: str
    run: Callable[[], str]


Chain = Sequence[Check]
"""Checks that build on each other: after a failure, the rest of the chain is skipped."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check.

    Attributes:
        check: Name of the check.
        status: Its outcome.
        detail: What was found.
        remedy: How to fix it, or None if there is nothing to fix.
        exit_code: The agent's exit code for this failure; 0 unless the check failed.
    """

    check: str
    status: Outcome
    detail: str
    remedy: str | None = None
    exit_code: int = 0


def run_checks(chains: Iterable[Chain]) -> Iterator[CheckResult]:
    """Runs the checks in order; a failure skips the rest of its chain."""
    for chain in chains:
        for check in chain:
            results = _run(check)
            yield from results
            if any(result.status is Outcome.FAIL for result in results):
                break


def failures(check: str, error: UserError) -> list[CheckResult]:
    """Converts an error to failed results: one for each error in a configuration, otherwise a single one."""
    errors = error.errors if isinstance(error, ConfigErrors) else [error]
    return [CheckResult(check, Outcome.FAIL, _detail(each), each.remedy, each.exit_code) for each in errors]


def _run(check: Check) -> list[CheckResult]:
    try:
        return [CheckResult(check.name, Outcome.OK, check.run())]
    except CheckWarning as warning:
        return [CheckResult(check.name, Outcome.WARN, _detail(warning), warning.remedy)]
    except UserError as error:
        return failures(check.name, error)


def _detail(error: UserError) -> str:
    return f"{error.where}: {error.what}" if error.where is not None else error.what
