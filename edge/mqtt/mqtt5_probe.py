"""Retries MQTT 5 with a broker that was last reached with MQTT 3.1.1.

A broker that refuses MQTT 5 explicitly is believed for as long as the connection stands. One that dropped or ignored
the MQTT 5 connection may have been starting, or be behind a proxy that started before it: it is probed again from time
to time, beside the connection that works.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edge.backoff import Backoff
from edge.mqtt.connection import Connection
from edge.mqtt.faults import ConnackTimeout

_FIRST_DELAY_S = 600.0
_MAX_DELAY_S = 86_400.0
"""A broker that drops MQTT 5 connections each time is not bothered often."""


class Mqtt5Probe:
    """Probes the broker for MQTT 5 in the background.

    One instance outlives all connections; it is used by the publisher's thread only.

    Args:
        supports_mqtt5: Probes the broker. May block: it runs on a thread of its own.
    """

    def __init__(self, supports_mqtt5: Callable[[], bool]) -> None:
        self._supports_mqtt5 = supports_mqtt5
        self._backoff = Backoff(first_s=_FIRST_DELAY_S, limit_s=_MAX_DELAY_S)
        self._due_s = float("inf")
        self._ignored = False
        self._thread: threading.Thread | None = None
        self._succeeded = False

    @property
    def try_mqtt5(self) -> bool:
        """Whether a new connection should try MQTT 5: with a broker that ignores it, each would wait for a timeout."""
        return self._succeeded or not self._ignored

    def connected(self, connection: Connection) -> None:
        """Notes a new connection, and schedules a probe unless it is known whether the broker supports MQTT 5."""
        self._ignored = isinstance(connection.fallback_reason, ConnackTimeout) or (
            self._ignored and not self._succeeded
        )
        self._succeeded = False
        if not connection.provisional and not self._ignored:
            self._backoff.reset()
            self._due_s = float("inf")
        elif self._due_s == float("inf"):
            self._schedule()

    def poll(self) -> bool:
        """Starts a probe if one is due, without blocking. Returns whether one has succeeded since `connected`."""
        if self._thread is None:
            if time.monotonic() >= self._due_s:
                self._thread = threading.Thread(target=self._probe, name="mqtt5", daemon=True)
                self._thread.start()
        elif not self._thread.is_alive():
            self._thread = None
            self._schedule()
        return self._succeeded

    def _probe(self) -> None:
        self._succeeded = self._supports_mqtt5()

    def _schedule(self) -> None:
        self._due_s = time.monotonic() + self._backoff.delay_s()
