"""The log on standard error, in a form that suits whoever reads it: a person at a terminal, or the journal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Final

from edge.printable import printable

_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Levels and syslog(3) priorities; what is below is 7, debug."""


def configure_logging(level: str, environ: Mapping[str, str]) -> None:
    """Sends the log to standard error. To be called once, by the command line.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        environ: The environment, which says whether standard error leads to the journal.
    """
    handler = logging.StreamHandler()
    if _leads_to_journal(environ):
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _Formatter(logging.Formatter):
    """Indents all lines of an entry but the first, so that no text from outside can pass for an entry of its own."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t").replace("\n", "\n  ")


class _JournalFormatter(_Formatter):
    """Begins each line with its priority, as sd-daemon(3) describes; the journal adds the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


def _leads_to_journal(environ: Mapping[str, str]) -> bool:
    """Whether standard error is the stream that systemd connected to the journal, and not redirected since."""
    try:
        stream = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"
