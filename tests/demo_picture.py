"""Renders the screenshot of the demo in the README: `python -m tests.demo_picture`."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "docs" / "demo.svg"

_COLUMNS = 132
_SECONDS = 16
_LINES = 20


def render() -> None:
    """Runs the demo for a few seconds and writes its first lines as an SVG image of a terminal."""
    command = [str(Path(sys.executable).with_name("edge")), "demo", "--seconds", str(_SECONDS)]
    terminal = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(_COLUMNS)}
    output = subprocess.run(command, env=terminal, stdout=subprocess.PIPE, text=True, check=True).stdout
    console = Console(record=True, width=_COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    for line in ["$ make demo", *output.splitlines()[:_LINES]]:
        console.print(Text.from_ansi(line), no_wrap=True, overflow="ellipsis")
    console.save_svg(str(PICTURE), title="edge demo")


if __name__ == "__main__":
    render()
