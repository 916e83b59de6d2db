"""`edge run`: the agent itself, from one configuration to the next."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from pathlib import Path

from edge import notify
from edge.adapters import require_usable
from edge.bootstrap import open_agent
from edge.commands.signals import STOP_SIGNALS, SignalFlag
from edge.config import Config, load_config
from edge.contract.errors import UserError

log = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> int:
    """Runs the agent until SIGTERM or SIGINT, or until all recordings are at their end. SIGHUP reloads."""
    stop = SignalFlag(*STOP_SIGNALS)
    reload = _Reload(arguments.config)
    config = load_config(arguments.config, os.environ)
    former: Config | None = None
    while not stop.raised:
        if not arguments.verbose:
            logging.getLogger().setLevel(config.logging.level.upper())
        try:
            with open_agent(config) as agent:
                former = None
                if not stop.raised:
                    agent.run(until=lambda: stop.raised or reload.due())
                goes_on = reload.pending or agent.renewed
                if stop.raised or not goes_on:
                    notify.stopping("stopping")
            if (wanted := reload.take()) is not None:
                config, former = wanted, config
            elif not agent.renewed:
                break
        except UserError as error:
            if former is None:
                raise
            log.error("going back to the former configuration: %s", error)  # noqa: TRY400 - the user's, not ours
            config, former = former, None
        notify.alive()  # closing has ended: opening the next agent has the watchdog's whole time
    return 0


class _Reload:
    """What SIGHUP asks for: a new configuration if it can be used, otherwise a word why not."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = SignalFlag(signal.SIGHUP)
        self._wanted: Config | None = None

    def due(self) -> bool:
        """Whether there is a new configuration to go on with. Reads it if SIGHUP has come since the last call."""
        if self._asked.raised:
            self._asked.raised = False
            self._read()
        return self.pending

    @property
    def pending(self) -> bool:
        """Whether a configuration that was read waits to be taken."""
        return self._wanted is not None

    def take(self) -> Config | None:
        """The configuration to go on with, None if the agent ended for another reason."""
        wanted, self._wanted = self._wanted, None
        return wanted

    def _read(self) -> None:
        notify.reloading()
        try:
            wanted = load_config(self._path, os.environ)
            require_usable(wanted)
        except UserError as error:
            log.error("the running configuration stays: %s", error)  # noqa: TRY400 - the user's, not ours
            notify.ready("running with the former configuration")
        else:
            log.info("%s is read anew", self._path)
            self._wanted = wanted
