"""`edge run`: runs the agent, and reopens it after a reload or a model update."""

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
    """Runs the agent until SIGTERM or SIGINT, or until all recordings have ended. SIGHUP reloads the configuration."""
    stop = SignalFlag(*STOP_SIGNALS)
    reload = _Reload(arguments.config)
    config = load_config(arguments.config, os.environ)
    previous: Config | None = None
    while not stop.raised:
        if not arguments.verbose:
            logging.getLogger().setLevel(config.logging.level.upper())
        try:
            with open_agent(config) as agent:
                previous = None
                if not stop.raised:
                    agent.run(until=lambda: stop.raised or reload.due())
                reopen = reload.pending or agent.reopen_requested
                if stop.raised or not reopen:
                    notify.stopping("stopping")
            if (new_config := reload.take()) is not None:
                config, previous = new_config, config
            elif not agent.reopen_requested:
                break
        except UserError as error:
            if previous is None:
                raise
            log.error("reverting to the previous configuration: %s", error)  # noqa: TRY400 - a user error needs no traceback
            config, previous = previous, None
        notify.ping_watchdog()  # the agent is closed; restart the watchdog's timeout before opening the next one
    return 0


class _Reload:
    """Loads the configuration again on SIGHUP; keeps the running one if the new one cannot be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._requested = SignalFlag(signal.SIGHUP)
        self._config: Config | None = None

    def due(self) -> bool:
        """Whether a new configuration is ready. Loads it if SIGHUP was received since the last call."""
        if self._requested.raised:
            self._requested.raised = False
            self._read()
        return self.pending

    @property
    def pending(self) -> bool:
        """Whether a new configuration has been loaded and not taken yet."""
        return self._config is not None

    def take(self) -> Config | None:
        """Returns the new configuration once; None if the agent ended for another reason."""
        config, self._config = self._config, None
        return config

    def _read(self) -> None:
        notify.reloading()
        try:
            config = load_config(self._path, os.environ)
            require_usable(config)
        except UserError as error:
            log.error("keeping the running configuration: %s", error)  # noqa: TRY400 - a user error needs no traceback
            notify.ready("running with the previous configuration")
        else:
            log.info("reloaded %s", self._path)
            self._config = config
