"""`edge run`: the agent itself, from one configuration to the next."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from edge import notify
from edge.agent import Agent
from edge.bootstrap import broker_settings, open_agent
from edge.commands.signals import on_stop
from edge.config import Config, load_config
from edge.contract import load_bundle
from edge.contract.errors import UserError
from edge.state import new_client_id

log = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> int:
    """Runs the agent until SIGTERM or SIGINT, or until all recordings are at their end. SIGHUP reloads."""
    reload = _Reload(arguments.config)
    on_stop(sys.exit)  # until there is an agent: leaves what is open already, in order
    config: Config | None = load_config(arguments.config, os.environ)
    while config is not None:
        if not arguments.verbose:
            logging.getLogger().setLevel(config.logging.level.upper())
        try:
            with open_agent(config) as agent:
                on_stop(agent.stop)
                reload.watch(agent)
                agent.run()
            config = reload.take(config)
        except UserError as error:
            if (before := reload.fall_back()) is None:
                raise
            log.error("going back to the former configuration: %s", error)  # noqa: TRY400 - the user's, not ours
            config = before
    return 0


class _Reload:
    """What SIGHUP asks for: a new configuration if it can be used, otherwise a word why not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._wanted: Config | None = None
        self._former: Config | None = None

    def watch(self, agent: Agent) -> None:
        """From now on, SIGHUP is for this agent."""
        signal.signal(signal.SIGHUP, lambda _number, _frame: self._reload(agent))

    def take(self, present: Config) -> Config | None:
        """The configuration to go on with, None if the agent ended for another reason."""
        wanted, self._wanted = self._wanted, None
        self._former = present if wanted is not None else None
        return wanted

    def fall_back(self) -> Config | None:
        """The configuration before the one that turned out unusable, once."""
        former, self._former = self._former, None
        return former

    def _reload(self, agent: Agent) -> None:
        notify.reloading()
        try:
            wanted = load_config(self._path, os.environ)
            load_bundle(wanted.model.path)
            broker_settings(wanted, new_client_id()).check_files()
        except UserError as error:
            log.error("the running configuration stays: %s", error)  # noqa: TRY400 - the user's, not ours
            notify.ready("running with the former configuration")
        else:
            log.info("%s is read anew", self._path)
            self._wanted = wanted
            agent.stop()
