"""What the publisher has been through: counts for the health report, and one log line for each change of state."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from edge.contract.errors import UserError
from edge.mqtt.faults import BrokenOff
from edge.mqtt.packets import Ack
from edge.mqtt.settings import BrokerSettings

log = logging.getLogger(__name__)

_STEADY_S = 10.0
"""A connection that held for so long was a good one."""
_SUSPICIOUS = 4
"""So many bad ones in a row call for an explanation. By then it is known whether the broker refuses something."""
_MOST_TOLD_OF = 1_000
"""Topics of which it is remembered that their refusal was told. Answers go to topics that others choose."""


@dataclass(frozen=True, slots=True)
class PublisherStats:
    """How delivery fares. Counts are since the start.

    Attributes:
        connected: Whether the broker has let the agent in.
        protocol: `MQTT 5` or `MQTT 3.1.1`, None while not connected.
        reconnects: Connections after the first.
        queue_depth: Events that the broker has not acknowledged.
        dropped: Events lost because the outbox was full or its file damaged.
        rejected: Refusals by the broker, of which an event that is sent again may have several.
        lost: Events given up because the broker would refuse them at any time.
        last_error: Why there is no connection, or why the last one ended; None once all is well again.
    """

    connected: bool
    protocol: str | None
    reconnects: int
    queue_depth: int
    dropped: int
    rejected: int
    lost: int
    last_error: str | None


class Logbook:
    """Kept by the publisher's thread, read by any.

    Args:
        settings: The broker's.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._protocol: str | None = None
        self._connections = 0
        self._short_connections = 0
        self._rejected = 0
        self._lost = 0
        self._told_of: set[tuple[str, str]] = set()
        self._namesakes: set[str] = set()
        self._last_error: str | None = None
        self._last_warning: str | None = None

    def stats(self, *, queue_depth: int, dropped: int) -> PublisherStats:
        """All counts, with those of the outbox."""
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
        """Whether there is a connection, for people: with which protocol if with an old one, or why not."""
        protocol, error = self._protocol, self._last_error
        if protocol is not None:
            return "connected to the broker" + (f" with {protocol}" if protocol != "MQTT 5" else "")
        return "without the broker" + (f" ({error})" if error is not None else "")

    def connected(self, protocol: str) -> None:
        """The broker has let the agent in."""
        log.info("%s: connected, %s", self._settings.address, protocol)
        self._protocol = protocol
        self._connections += 1

    def steady(self, held_s: float) -> bool:
        """Whether a connection of this age is a good one; if so, earlier troubles are forgotten."""
        if held_s < _STEADY_S:
            return False
        self._last_error = self._last_warning = None
        self._short_connections = 0
        return True

    def disconnected(self, *, held_s: float) -> None:
        """The connection is over."""
        self._protocol = None
        self._short_connections += held_s < _STEADY_S

    def trouble(self, error: UserError, *, explained: bool) -> None:
        """There is no connection, because of `error`; with `explained`, it has been told why such ones break off."""
        told = str(error)
        if isinstance(error, BrokenOff) and self._short_connections >= _SUSPICIOUS and not explained:
            # Not every broker says when it closes a connection because another client has the same id.
            told += (
                f" So it went {_SUSPICIOUS} times in a row within seconds. If another device has the client id "
                f"{self._settings.client_id} too, the two push each other out: give each its own. "
                "Or the broker refuses so what this device says or listens to: check its access list"
            )
        self._last_error = told
        if explained and isinstance(error, BrokenOff):
            log.debug("no MQTT connection: %s", told)
        elif told != self._last_warning:
            log.warning("no MQTT connection: %s", told)
            self._last_warning = told

    def namesake(self, device: str, other: str, this: str) -> None:
        """Another client speaks on this device's topics; both are known by their fingerprints."""
        if other not in self._namesakes and len(self._namesakes) < _MOST_TOLD_OF:
            self._namesakes.add(other)
            log.warning(
                "another device is called %s too (client %s, %s here): their messages and commands mix. "
                "Give each its own device.name",
                device,
                other,
                this,
            )

    def surprise(self, error: Exception) -> None:
        """There is no connection, for a reason that is a fault of this program."""
        told = f"{type(error).__name__}: {error}"
        if told != self._last_warning:
            log.error("the MQTT connection failed in a way that the agent does not know", exc_info=error)
        self._last_error = self._last_warning = told

    def left_behind(self, topic: str) -> None:
        """The device may no longer clear what it said under a former name."""
        log.warning(
            "%s: the broker does not let this device clear what it said there under a former name. That user may: "
            "mosquitto_sub -t '%s' --retained-only --remove-retained -W 2",
            topic,
            topic,
        )

    def deaf(self, topic_filter: str, reason: str) -> None:
        """The broker does not let the device listen to something."""
        if self._is_news(topic_filter, "listening"):
            log.warning(
                "the broker does not let this client listen to %s (%s); check its access list", topic_filter, reason
            )

    def rejection(self, ack: Ack, *, lost: bool) -> None:
        """The broker did not take a message; with `lost`, that was an event which is given up."""
        self._rejected += 1
        self._lost += lost
        if self._is_news(ack.topic, "given up" if ack.hopeless else "waiting"):
            outcome = "they are given up" if ack.hopeless else "check its access list and limits; they wait for that"
            log.warning("%s: the broker rejects messages on this topic (%s); %s", ack.topic, ack.refusal, outcome)

    def _is_news(self, topic: str, outcome: str) -> bool:
        """Whether a refusal is to be told: once, and not of topics without end."""
        if (topic, outcome) in self._told_of or len(self._told_of) >= _MOST_TOLD_OF:
            return False
        self._told_of.add((topic, outcome))
        return True
