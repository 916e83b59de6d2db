"""The output of `edge check` and `edge doctor`: one line per result, printed as soon as the check is done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.text import Text

from edge.checks import CheckResult, Outcome
from edge.commands.console import Console
from edge.printable import printable

_STYLES: Final = {Outcome.OK: "bold green", Outcome.WARN: "bold yellow", Outcome.FAIL: "bold red"}


def print_results(results: Iterable[CheckResult]) -> int:
    """Prints the results. Returns 0, or the exit code of the first failure."""
    console = Console(highlight=False, soft_wrap=True)
    code = 0
    for result in results:
        console.print(_line(result))
        code = code or result.exit_code
    return code


def _line(result: CheckResult) -> Text:
    remedy = f". {result.remedy}." if result.remedy else "." if result.exit_code else ""
    return Text.assemble(
        (f"{result.status.upper():<6}", _STYLES[result.status]),
        printable(f"{result.check:<15} {result.detail}{remedy}", keep="\n"),
    )
