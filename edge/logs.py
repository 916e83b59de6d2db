"""Configures logging to standard error, formatted for a terminal or for the systemd journal."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Final

from edge.printable import printable

_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Logging levels and their syslog(3) priorities; lower levels map to 7, debug."""


def configure_logging(level: str, environ: Mapping[str, str]) -> None:
    """Configures the root logger to write to standard error. To be called once, at startup.

    Args:
        level: `debug`, `info`, `warning` or `error`.
        environ: The environment; it shows whether standard error is connected to the journal.
    """
    handler = logging.StreamHandler()
    if _is_connected_to_journal(environ):
        handler.setFormatter(_JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _Formatter(logging.Formatter):
    """Indents continuation lines, so that untrusted text with line breaks cannot forge log entries."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t").replace("\n", "\n  ")


class _JournalFormatter(_Formatter):
    """Prefixes each line with its priority, see sd-daemon(3). The journal adds the time itself."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


def _is_connected_to_journal(environ: Mapping[str, str]) -> bool:
    """Returns whether standard error is the stream that systemd connected to the journal, and was not redirected."""
    try:
        stream = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"
