"""When MQTT 5 is tried again with a broker that was last reached with MQTT 3.1.1.

One that says that it knows no MQTT 5 is believed, for as long as the connection holds. One that hung up at it or said
nothing may have had a weak moment, or stand behind a proxy that was up before it: it is asked again now and then,
beside the connection that works.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edge.backoff import Backoff
from edge.mqtt.connection import Connection
from edge.mqtt.faults import Silent

_FIRST_PAUSE_S = 600.0
_LONGEST_PAUSE_S = 86_400.0
"""A broker that hangs up each time is seldom disturbed."""


class Mqtt5Trial:
    """Kept from connection to connection, by the publisher's thread.

    Args:
        speaks_mqtt5: Asks the broker, for as long as it takes, on a thread of its own.
    """

    def __init__(self, speaks_mqtt5: Callable[[], bool]) -> None:
        self._speaks_mqtt5 = speaks_mqtt5
        self._pauses = Backoff(first_s=_FIRST_PAUSE_S, limit_s=_LONGEST_PAUSE_S)
        self._at_s = float("inf")
        self._silent = False
        self._asking: threading.Thread | None = None
        self._succeeded = False

    @property
    def promising(self) -> bool:
        """Whether to begin a connection with MQTT 5: a broker that is silent to it would be waited for each time."""
        return self._succeeded or not self._silent

    def connected(self, connection: Connection) -> None:
        """There is a new connection."""
        self._silent = isinstance(connection.why_not, Silent) or (self._silent and not self._succeeded)
        self._succeeded = False
        if not connection.makeshift and not self._silent:
            self._pauses.reset()
            self._at_s = float("inf")
        elif self._at_s == float("inf"):
            self._postpone()

    def succeeded(self) -> bool:
        """Whether the broker was found to speak MQTT 5 since. Has it asked when it is time, and waits for nothing."""
        if self._asking is None:
            if time.monotonic() >= self._at_s:
                self._asking = threading.Thread(target=self._ask, name="mqtt5", daemon=True)
                self._asking.start()
        elif not self._asking.is_alive():
            self._asking = None
            self._postpone()
        return self._succeeded

    def _ask(self) -> None:
        self._succeeded = self._speaks_mqtt5()

    def _postpone(self) -> None:
        self._at_s = time.monotonic() + self._pauses.delay_s()
