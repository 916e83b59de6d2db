"""`edge doctor`: checks everything that a device needs to work, and suggests a fix for each problem."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge.checks import CheckResult, Outcome, all_checks, failures, run_checks
from edge.cli import DEFAULT_CONFIG
from edge.commands.results import print_results
from edge.commands.service import load_as_service
from edge.config import Config
from edge.contract.errors import UserError


def run(arguments: argparse.Namespace) -> int:
    """Runs all checks. Returns 0, or the exit code of the first failure."""
    results = _results(arguments.config)
    return _print_json(results) if arguments.json else print_results(results)


def _results(file: Path) -> Iterator[CheckResult]:
    config: Config | None = None
    if file == DEFAULT_CONFIG and _is_missing(file):
        yield CheckResult(
            "configuration", Outcome.WARN, f"{file}: no such file; only what needs no configuration is checked",
            "Pass yours with --config, or start from deploy/config.toml",
        )  # fmt: skip
    else:
        try:
            config = load_as_service(file)
            yield CheckResult("configuration", Outcome.OK, f"{file}")
        except UserError as error:
            yield from failures("configuration", error)
    yield from run_checks(all_checks(config, file))


def _is_missing(file: Path) -> bool:
    try:
        file.stat()
    except FileNotFoundError:
        return True
    except OSError:  # reading the file will report it
        return False
    return False


def _print_json(results: Iterable[CheckResult]) -> int:
    results = list(results)
    keys = ("check", "status", "detail", "remedy")
    document = [{key: getattr(result, key) for key in keys} for result in results]
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return next((result.exit_code for result in results if result.exit_code), 0)
