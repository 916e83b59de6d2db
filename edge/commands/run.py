"""`edge run`: the agent itself."""

from __future__ import annotations

import argparse
import logging
import os
import sys

from edge.bootstrap import open_agent
from edge.commands.signals import on_stop
from edge.config import load_config


def run(arguments: argparse.Namespace) -> int:
    """Runs the agent until SIGTERM or SIGINT, or until all recordings are at their end."""
    config = load_config(arguments.config, os.environ)
    if not arguments.verbose:
        logging.getLogger().setLevel(config.logging.level.upper())
    on_stop(sys.exit)  # until there is an agent: leaves what is open already, in order
    with open_agent(config) as agent:
        on_stop(agent.stop)
        agent.run()
    return 0
