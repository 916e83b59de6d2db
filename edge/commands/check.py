"""`edge check`: tries every part that the agent needs, one after the other, and says how each fares."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from edge.checks import Finding, Outcome, examine, failures, start_checks
from edge.commands.findings import show
from edge.commands.service import load_as_service
from edge.contract.errors import UserError


def run(arguments: argparse.Namespace) -> int:
    """Tries all parts. Returns 0, or the exit code of the first fault."""
    return show(_findings(arguments.config))


def _findings(file: Path) -> Iterator[Finding]:
    try:
        config = load_as_service(file)
    except UserError as error:
        yield from failures("configuration", error)
        return
    yield Finding("configuration", Outcome.OK, f"{file}")
    yield from examine(start_checks(config))
