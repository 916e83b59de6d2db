"""Where results go: tables or JSON on standard output, files in the folder of the report."""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import rich.console
from rich.console import RenderableType

from edge.contract import UserError

log = logging.getLogger(__name__)

_WIDTH_IN_FILES = 10_000


class Console(rich.console.Console):
    """Rich's, which prints texts as they are and leaves a closed pipe to the command line.

    Args:
        width: In characters; None for that of the terminal.
    """

    def __init__(self, width: int | None = None) -> None:
        # A file's name may hold [brackets] or :colons:, which would be taken for markup.
        super().__init__(width=width, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        raise  # what rich is handling; its own way ends the process with exit code 1


def show(content: RenderableType) -> None:
    """Prints tables; where standard output is no terminal, so wide that none of them is folded."""
    width = None if sys.stdout.isatty() else _WIDTH_IN_FILES
    Console(width).print(content, soft_wrap=False)


def show_json(document: dict[str, Any]) -> None:
    """Prints one JSON document."""
    sys.stdout.write(to_json(document))


def to_json(document: dict[str, Any]) -> str:
    """JSON as people and line-based tools can read it."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def require_writable(folder: Path) -> None:
    """Refuses a folder that cannot be made or written to, before any work is done whose results would be lost.

    Raises:
        UserError: It cannot.
    """
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryDirectory(dir=there, prefix=".trainer-"):
            pass  # the only sure way to know
    except OSError as error:
        raise UserError(f"cannot be written to ({error.strerror})", where=folder,
                        remedy="Name a folder in a place that you may write to") from error  # fmt: skip


def write(path: Path, text: str) -> None:
    """Writes a file of a report, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")  # a file's name may be none in UTF-8
    log.info("wrote %s", path)
