"""`edge check`: checks every part that the agent needs, and reports the status of each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from edge.checks import CheckResult, Outcome, failures, run_checks, start_checks
from edge.commands.results import print_results
from edge.commands.service import load_as_service
from edge.contract.errors import UserError


def run(arguments: argparse.Namespace) -> int:
    """Runs the checks. Returns 0, or the exit code of the first failure."""
    return print_results(_results(arguments.config))


def _results(file: Path) -> Iterator[CheckResult]:
    try:
        config = load_as_service(file)
    except UserError as error:
        yield from failures("configuration", error)
        return
    yield CheckResult("configuration", Outcome.OK, f"{file}")
    yield from run_checks(start_checks(config))
