"""Where results go: tables or JSON on standard output, files in the folder of the report."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

log = logging.getLogger(__name__)

_WIDTH_IN_FILES = 10_000


def show(content: RenderableType) -> None:
    """Prints tables; where standard output is no terminal, so wide that none of them is folded."""
    width = None if sys.stdout.isatty() else _WIDTH_IN_FILES
    Console(width=width, highlight=False).print(content, soft_wrap=False)


def show_json(document: dict[str, Any]) -> None:
    """Prints one JSON document."""
    sys.stdout.write(to_json(document))


def to_json(document: dict[str, Any]) -> str:
    """JSON as people and line-based tools can read it."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write(path: Path, text: str) -> None:
    """Writes a file of a report, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    log.info("wrote %s", path)
