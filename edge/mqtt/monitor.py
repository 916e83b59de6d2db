"""Monitors delivery: counts for the health report, and one log line for each change of state."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from edge.contract.errors import UserError
from edge.mqtt.faults import ConnectionDropped
from edge.mqtt.packets import Ack
from edge.mqtt.settings import BrokerSettings

log = logging.getLogger(__name__)

_STABLE_S = 10.0
"""A connection that has lasted this long is a stable one."""
_SHORT_CONNECTIONS = 4
"""After this many unstable ones in a row, the log names likely causes. By then it is known whether the broker drops
the connection over an operation."""
_MAX_REPORTED = 1_000
"""How many rejected topics are remembered as reported. Clients choose the topics of command responses."""


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """Health of the delivery. Counts are since the start.

    Attributes:
        connected: Whether the agent is connected to the broker.
        protocol: `MQTT 5` or `MQTT 3.1.1`, None while not connected.
        reconnects: Connections after the first.
        queue_depth: Events that the broker has not acknowledged.
        dropped: Events lost because the outbox was full or its file damaged.
        rejected: Rejections by the broker; an event that is retried may have several.
        lost: Events discarded because the broker would reject them at any time.
        last_error: Why there is no connection, or why the last one ended; None once a connection is stable.
    """

    connected: bool
    protocol: str | None
    reconnects: int
    queue_depth: int
    dropped: int
    rejected: int
    lost: int
    last_error: str | None


class Monitor:
    """Written by the publisher's thread, read by any.

    Args:
        settings: The broker settings.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._protocol: str | None = None
        self._connections = 0
        self._short_connections = 0
        self._rejected = 0
        self._lost = 0
        self._reported: set[tuple[str, str]] = set()
        self._duplicates: set[str] = set()
        self._last_error: str | None = None
        self._last_warning: str | None = None

    def stats(self, *, queue_depth: int, dropped: int) -> PublisherStats:
        """Returns all counts, including those of the outbox."""
        protocol = self._protocol
        return PublisherStats(
            connected=protocol is not None,
            protocol=protocol,
            reconnects=max(0, self._connections - 1),
            queue_depth=queue_depth,
            dropped=dropped,
            rejected=self._rejected,
            lost=self._lost,
            last_error=self._last_error,
        )

    @property
    def link(self) -> str:
        """The connection status in words: the protocol unless it is MQTT 5, or why there is no connection."""
        protocol, error = self._protocol, self._last_error
        if protocol is not None:
            return "connected to the broker" + (f" with {protocol}" if protocol != "MQTT 5" else "")
        return "not connected to the broker" + (f" ({error})" if error is not None else "")

    def connected(self, protocol: str) -> None:
        """Notes a new connection."""
        log.info("%s: connected, %s", self._settings.address, protocol)
        self._protocol = protocol
        self._connections += 1

    def check_stable(self, lifetime_s: float) -> bool:
        """Returns whether a connection of this age is stable; if so, earlier errors are forgotten."""
        if lifetime_s < _STABLE_S:
            return False
        self._last_error = self._last_warning = None
        self._short_connections = 0
        return True

    def disconnected(self, *, lifetime_s: float) -> None:
        """Notes the end of the connection."""
        self._protocol = None
        self._short_connections += lifetime_s < _STABLE_S

    def connection_failed(self, error: UserError, *, explained: bool) -> None:
        """Logs why there is no connection.

        Args:
            error: The reason.
            explained: Whether the log names already over which operation the broker drops connections.
        """
        text = str(error)
        if isinstance(error, ConnectionDropped) and self._short_connections >= _SHORT_CONNECTIONS and not explained:
            # Not every broker says that it closes a connection because another client has the same client id.
            text += (
                f" This has happened {_SHORT_CONNECTIONS} times in a row, within seconds of connecting. If another "
                f"device has the client id {self._settings.client_id} too, the two keep disconnecting each other: "
                "give each its own. Or the broker does not allow a topic that this device publishes or subscribes "
                "to: check its access list"
            )
        self._last_error = text
        if explained and isinstance(error, ConnectionDropped):
            log.debug("no MQTT connection: %s", text)
        elif text != self._last_warning:
            log.warning("no MQTT connection: %s", text)
            self._last_warning = text

    def connection_crashed(self, error: Exception) -> None:
        """Logs that the connection ended with an exception that is a bug of this program."""
        text = f"{type(error).__name__}: {error}"
        if text != self._last_warning:
            log.error("the MQTT connection failed with an unexpected error", exc_info=error)
        self._last_error = self._last_warning = text

    def duplicate_device(self, device: str, other: str, this: str) -> None:
        """Logs that another client publishes on this device's topics; `other` and `this` are client fingerprints."""
        if other not in self._duplicates and len(self._duplicates) < _MAX_REPORTED:
            self._duplicates.add(other)
            log.warning(
                "another device is also named %s (client %s, %s here): their messages and commands get mixed up. "
                "Give each its own device.name",
                device,
                other,
                this,
            )

    def subscription_rejected(self, topic_filter: str, reason: str) -> None:
        """Logs that the broker rejected a subscription."""
        if self._is_new(topic_filter, "subscription"):
            log.warning("the broker rejected the subscription to %s (%s); check its access list", topic_filter, reason)

    def message_rejected(self, ack: Ack, *, lost: bool) -> None:
        """Counts and logs that the broker rejected a message; `lost` says that it is an event that is discarded."""
        self._rejected += 1
        self._lost += lost
        if self._is_new(ack.topic, "discarded" if ack.permanent else "retried"):
            outcome = "they are discarded" if ack.permanent else "they are retried; check its access list and limits"
            log.warning("%s: the broker rejects messages on this topic (%s); %s", ack.topic, ack.rejection, outcome)

    def clearing_forbidden(self, topic: str) -> None:
        """Logs that the device may not clear a retained message that it published under a former name."""
        log.warning(
            "%s: the broker does not allow this device to clear the retained message of its former name. As a user "
            "with that right, run: mosquitto_sub -t '%s' --retained-only --remove-retained -W 2",
            topic,
            topic,
        )

    def _is_new(self, topic: str, outcome: str) -> bool:
        """Returns whether to log a rejection: once for each topic and outcome, and not for an unlimited number."""
        if (topic, outcome) in self._reported or len(self._reported) >= _MAX_REPORTED:
            return False
        self._reported.add((topic, outcome))
        return True
