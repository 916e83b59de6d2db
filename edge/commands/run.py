"""`edge run`: the agent itself."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable

from edge.bootstrap import open_agent
from edge.config import load_config


def run(arguments: argparse.Namespace) -> int:
    """Runs the agent until SIGTERM or SIGINT, or until all recordings are at their end."""
    config = load_config(arguments.config, os.environ)
    if not arguments.verbose:
        logging.getLogger().setLevel(config.logging.level.upper())
    _on_stop(sys.exit)  # until there is an agent: leaves what is open already, in order
    with open_agent(config) as agent:
        _on_stop(agent.stop)
        agent.run()
    return 0


def _on_stop(do: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: do())
