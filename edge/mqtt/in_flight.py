"""The operations sent over one connection that the broker has not acknowledged yet."""

from __future__ import annotations

import time
from dataclasses import dataclass

from edge.mqtt.packets import Operation


@dataclass(frozen=True, slots=True)
class Pending:
    """An operation that is waiting for its PUBACK or SUBACK.

    Attributes:
        operation: What was sent.
        send_id: What `Connection.send` returned for the message; 0 for a subscription.
        sent_s: When it was sent, by the monotonic clock.
    """

    operation: Operation
    send_id: int
    sent_s: float


class InFlight:
    """Pending operations by packet identifier, in the order in which they were sent. Not thread-safe.

    Attributes:
        receive_maximum: How many QoS 1 messages the broker accepts before it has acknowledged one of them.
        serial: Whether only one operation may be in flight at a time.
    """

    def __init__(self, *, receive_maximum: int) -> None:
        self.receive_maximum = receive_maximum
        self.serial = False
        self._pending: dict[int, Pending] = {}

    def add(self, packet_id: int, operation: Operation, *, send_id: int = 0) -> None:
        """Adds an operation that was sent in the packet with this identifier."""
        self._pending[packet_id] = Pending(operation, send_id, time.monotonic())

    def pop(self, packet_id: int) -> Pending | None:
        """Removes and returns the operation that the broker acknowledged; None if that packet is not pending."""
        return self._pending.pop(packet_id, None)

    @property
    def operations(self) -> list[Operation]:
        """The pending operations."""
        return [pending.operation for pending in self._pending.values()]

    @property
    def send_quota(self) -> int:
        """How many more QoS 1 messages may be sent now (MQTT 5, 4.9). Subscriptions do not count against it."""
        if self.serial:
            return int(not self._pending)
        return max(0, self.receive_maximum - sum(not p.operation.subscribe for p in self._pending.values()))

    @property
    def oldest_age_s(self) -> float:
        """For how long the oldest message has been pending, or 0.

        Subscriptions count only in serial mode, where one that is never acknowledged would block everything else.
        """
        counted = (pending for pending in self._pending.values() if self.serial or not pending.operation.subscribe)
        oldest = next(counted, None)
        return time.monotonic() - oldest.sent_s if oldest is not None else 0.0
