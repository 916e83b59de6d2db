"""`edge doctor`: checks everything that can keep a device from working, and names the fix for each fault."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge.checks import Finding, Outcome, all_checks, examine, failures
from edge.cli import DEFAULT_CONFIG
from edge.commands.findings import show
from edge.commands.service import load_as_service
from edge.config import Config
from edge.contract.errors import UserError


def run(arguments: argparse.Namespace) -> int:
    """Checks everything. Returns 0, or the exit code of the first failure."""
    findings = _findings(arguments.config)
    return _write_json(findings) if arguments.json else show(findings)


def _findings(file: Path) -> Iterator[Finding]:
    config: Config | None = None
    if file == DEFAULT_CONFIG and _is_missing(file):
        yield Finding("configuration", Outcome.WARN, f"{file}: there is none, so only what needs none is checked",
                      "Name yours with --config, or begin with deploy/config.toml")  # fmt: skip
    else:
        try:
            config = load_as_service(file)
            yield Finding("configuration", Outcome.OK, f"{file}")
        except UserError as error:
            yield from failures("configuration", error)
    yield from examine(all_checks(config, file))


def _is_missing(file: Path) -> bool:
    try:
        file.stat()
    except FileNotFoundError:
        return True
    except OSError:  # reading it will say what is wrong
        return False
    return False


def _write_json(findings: Iterable[Finding]) -> int:
    found = list(findings)
    keys = ("check", "status", "detail", "remedy")
    document = [{key: getattr(finding, key) for key in keys} for finding in found]
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
    return next((finding.exit_code for finding in found if finding.exit_code), 0)
