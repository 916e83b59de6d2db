"""Quarantine for operations over which a broker drops the connection instead of rejecting them.

MQTT 3.1.1 has no other way to reject a PUBLISH [MQTT-3.3.5-2], and some brokers reject a SUBSCRIBE like that too. With
MQTT 5, some drop the connection after a negative acknowledgement or in place of one, others send an acknowledgement
that is not valid. So the client has to infer which operation the broker dropped the connection over:

1. If the connection drops within 2 s of a negative acknowledgement, the rejected operation is the offender.
2. Otherwise an operation is a suspect if it alone is unacknowledged when the connection drops, leaving out those that
   the broker has accepted before over the same connection. If that happens to a suspect again, it is the offender.
3. To get there, operations are sent in serial mode after two connections in a row that dropped within 10 s, or were
   given up for lack of an acknowledgement: one at a time, with QoS 1, each when the one before it is acknowledged.

An offender is put into quarantine: it is held back for up to a minute, and twice as long after each further drop, up
to an hour. After that it is retried in serial mode, and one more drop is enough. A response to a command is not
retried: the next one is sent for the next command.

Connections also drop because the network is bad, because the broker restarts, or because another device uses the same
client id. So an acknowledgement clears its operation at once; a connection that drops early with nothing
unacknowledged clears everything, as the operations were not the cause; and so does the first acknowledgement after a
connection over which the broker acknowledged nothing at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from edge.backoff import Backoff
from edge.mqtt.holdoffs import Holdoffs
from edge.mqtt.packets import Operation

_EARLY_S = 10.0
"""A connection that drops within this time may have been dropped because of an operation."""
_EARLY_DROPS = 2
"""After this many early drops in a row, operations are sent in serial mode."""
_HOLDOFF_S = 60.0
_MAX_HOLDOFF_S = 3600.0
"""Each retry costs a connection, and subscribers see the device go offline."""
_AFTER_REJECTION_S = 2.0
"""A connection that drops within this time of a negative acknowledgement was dropped over the same operation."""
_MAX_REMEMBERED = 1_000
"""Acknowledged operations and suspects. Clients choose the topics of command responses, so both have to be bounded."""


class Quarantine:
    """Finds the operations over which the broker drops connections, and holds them back.

    One instance outlives all connections; it is used by the publisher's thread only.
    """

    def __init__(self) -> None:
        self._early_drops = 0
        self._suspects: dict[Operation, None] = {}  # an ordered set, the latest last
        backoff = partial(Backoff, first_s=_HOLDOFF_S, limit_s=_MAX_HOLDOFF_S)
        self._offenders: Holdoffs[Operation] = Holdoffs(backoff)
        self._offending_responses: Holdoffs[Operation] = Holdoffs(backoff)
        self._acknowledged: dict[Operation, None] = {}  # over this connection; an ordered set, the latest last
        self._rejected: Operation | None = None
        self._rejected_s = 0.0
        self._was_unresponsive = False

    def connected(self) -> None:
        """Notes that there is a new connection."""
        self._acknowledged.clear()
        self._rejected = None

    @property
    def needs_serial(self) -> bool:
        """Whether to send one operation at a time: connections drop early, or an offender is due for a retry."""
        return self._early_drops >= _EARLY_DROPS or self._offenders.any_expired

    def is_offender(self, operation: Operation) -> bool:
        """Whether the broker dropped a connection over it and has not acknowledged it since."""
        return operation in self._holdoffs(operation)

    def holds(self, operation: Operation) -> bool:
        """Whether the operation is to be held back now."""
        return self._holdoffs(operation).holds(operation)

    @property
    def held_topics(self) -> set[str]:
        """The topics not to publish on now."""
        return {operation.topic for operation in self._offenders.held if not operation.subscribe}

    @property
    def explains_drops(self) -> bool:
        """Whether an operation is known over which the broker drops connections."""
        return bool(self._offenders.held or self._offending_responses.held)

    def rejected(self, operation: Operation) -> None:
        """Notes a negative acknowledgement, after which the broker may drop the connection as well."""
        self._rejected, self._rejected_s = operation, time.monotonic()

    def acknowledged(self, operation: Operation) -> None:
        """Notes that the broker accepted an operation, and releases it."""
        if self._was_unresponsive:  # the broker had acknowledged nothing at all, so no operation was the cause
            self._release_all()
        _remember(self._acknowledged, operation)
        self._holdoffs(operation).remove(operation)
        self._suspects.pop(operation, None)

    def all_acknowledged(self) -> None:
        """Notes that nothing is left to send but what is held back, which ends serial mode."""
        self._early_drops = 0
        self._offenders.remove_expired()

    @property
    def any_acknowledged(self) -> bool:
        """Whether the broker has accepted any operation over this connection."""
        return bool(self._acknowledged)

    def connection_dropped(
        self, unacknowledged: Sequence[Operation], *, serial: bool, lifetime_s: float, unresponsive: bool = False
    ) -> Operation | None:
        """Infers which operation the connection was dropped over, and puts it into quarantine.

        Args:
            unacknowledged: The operations in flight when the connection ended, in order.
            serial: Whether they were sent one at a time.
            lifetime_s: How long the connection lasted.
            unresponsive: Whether this client gave the connection up, as an acknowledgement did not come.

        Returns:
            The offender; None if there is none, or not yet.
        """
        early = lifetime_s < _EARLY_S
        self._early_drops = self._early_drops + 1 if early or serial or unresponsive else 0
        self._was_unresponsive = unresponsive and not self.any_acknowledged
        if self._rejected is not None and time.monotonic() - self._rejected_s < _AFTER_REJECTION_S:
            return self._hold(self._rejected)
        candidates = [operation for operation in dict.fromkeys(unacknowledged) if operation not in self._acknowledged]
        if not candidates and early:
            self._release_all()  # operations need not be the cause, and may never have been
            self._suspects.clear()
        if len(candidates) != 1:
            return None
        suspect = candidates[0]
        if suspect in self._suspects or self.is_offender(suspect):
            return self._hold(suspect)
        _remember(self._suspects, suspect)
        return None

    def _hold(self, offender: Operation) -> Operation:
        self._holdoffs(offender).start(offender)
        return offender

    def _release_all(self) -> None:
        self._was_unresponsive = False
        self._offenders.clear()
        self._offending_responses.clear()

    def _holdoffs(self, operation: Operation) -> Holdoffs[Operation]:
        """Responses have holdoffs of their own: they are not retried, so an expired one must not cause serial mode."""
        return self._offending_responses if operation.response else self._offenders


def _remember(operations: dict[Operation, None], operation: Operation) -> None:
    operations.pop(operation, None)
    operations[operation] = None
    if len(operations) > _MAX_REMEMBERED:
        del operations[next(iter(operations))]
