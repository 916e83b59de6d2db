"""How `edge check` and `edge doctor` show what they find: one line each, as it is found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.text import Text

from edge.checks import Finding, Outcome
from edge.commands.console import Console
from edge.printable import printable

_STYLES: Final = {Outcome.OK: "bold green", Outcome.WARN: "bold yellow", Outcome.FAIL: "bold red"}


def show(findings: Iterable[Finding]) -> int:
    """Prints them. Returns 0, or the exit code of the first failure."""
    console = Console(highlight=False, soft_wrap=True)
    code = 0
    for finding in findings:
        console.print(_line(finding))
        code = code or finding.exit_code
    return code


def _line(finding: Finding) -> Text:
    remedy = f". {finding.remedy}." if finding.remedy else "." if finding.exit_code else ""
    return Text.assemble(
        (f"{finding.status.upper():<6}", _STYLES[finding.status]),
        printable(f"{finding.check:<15} {finding.detail}{remedy}", keep="\n"),
    )
