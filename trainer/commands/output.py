"""Output of results: tables or JSON on standard output, and files in the report folder."""

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
    """Rich's console without markup, which leaves a closed pipe to the command line.

    Args:
        width: Width in characters; None for that of the terminal.
    """

    def __init__(self, width: int | None = None) -> None:
        # File names may contain [brackets] or :colons:, which would be interpreted as markup.
        super().__init__(width=width, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError being handled; rich itself would exit with code 1


def show(content: RenderableType) -> None:
    """Prints tables; if standard output is not a terminal, wide enough not to wrap them."""
    width = None if sys.stdout.isatty() else _WIDTH_IN_FILES
    Console(width).print(content, soft_wrap=False)


def show_json(document: dict[str, Any]) -> None:
    """Prints one JSON document."""
    sys.stdout.write(to_json(document))


def to_json(document: dict[str, Any]) -> str:
    """Returns indented JSON, readable for people and line-based tools."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def require_writable(folder: Path) -> None:
    """Checks that a folder can be created and written to, before any work whose results would be lost.

    Raises:
        UserError: It cannot.
    """
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryDirectory(dir=existing, prefix=".trainer-"):
            pass  # trying is the only reliable check
    except OSError as error:
        raise UserError(f"cannot be written to ({error.strerror})", where=folder,
                        remedy="Name a folder that you have write permission for") from error  # fmt: skip


def write(path: Path, text: str) -> None:
    """Writes a file of a report, creating its folder if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names may not be valid UTF-8
    log.info("wrote %s", path)
