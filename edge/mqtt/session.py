"""The exchange over one connection: subscriptions, commands, retained messages and events, until the disconnect."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from edge.backoff import Backoff
from edge.domain import Message
from edge.mqtt.commands import without_result
from edge.mqtt.connection import Connection
from edge.mqtt.delivery import Delivery
from edge.mqtt.faults import AckTimeout, ConnectionDropped
from edge.mqtt.holdoffs import Holdoffs
from edge.mqtt.inbound import Inbound, Response
from edge.mqtt.monitor import Monitor
from edge.mqtt.packets import Ack, Operation, is_valid_topic
from edge.mqtt.quarantine import Quarantine
from edge.mqtt.retained import RetainedMessages
from edge.outbox import Outbox

log = logging.getLogger(__name__)

_MAX_HOLDOFF_S = 60.0
_MAX_HOLDOFF_FORBIDDEN_S = 3600.0
"""The longest time before a rejected message is sent again, as a quota may be free or a right granted by then. Retained
messages that the device has no right to publish are retried less often."""
_MAX_QUEUED_RESPONSES = 50
"""Each may contain a picture."""


class Session:
    """Sends and receives over one connection. Not thread-safe.

    A topic on which the broker rejects a message is held back, longer after each further rejection, while all other
    topics go on. The exceptions are messages that are rejected permanently, which are not sent again over this
    connection (events are discarded), and topics that the device may not clear, which are given up.

    Args:
        connection: A new connection.
        outbox: The events to deliver.
        retained: The retained messages.
        inbound: Handles what is received.
        quarantine: Outlives the connection.
        monitor: Notified of rejections.
        on_delivered: Called with the topic of each QoS 1 message that the broker has accepted.
        abandoned: Returns whether the publisher failed to stop in time: outbox and topics then belong to its successor.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        outbox: Outbox,
        retained: RetainedMessages,
        inbound: Inbound,
        quarantine: Quarantine,
        monitor: Monitor,
        on_delivered: Callable[[str], None],
        abandoned: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._delivery = Delivery(outbox=outbox, connection=connection)
        self._retained = retained
        self._inbound = inbound
        self._quarantine = quarantine
        self._monitor = monitor
        self._on_delivered = on_delivered
        self._abandoned = abandoned
        self._not_subscribed = inbound.subscriptions
        self._rejected: Holdoffs[str] = Holdoffs(partial(Backoff, limit_s=_MAX_HOLDOFF_S))
        self._forbidden: Holdoffs[str] = Holdoffs(partial(Backoff, limit_s=_MAX_HOLDOFF_FORBIDDEN_S))
        self._overloaded = False
        self._started_s = time.monotonic()
        quarantine.connected()
        retained.resend_all()

    @property
    def lifetime_s(self) -> float:
        """For how long the connection has been established."""
        return time.monotonic() - self._started_s

    @property
    def delivered(self) -> bool:
        """Whether all events are acknowledged, apart from those on topics that are held back."""
        return self._delivery.idle

    def handle_received(self, *, refusal: str | None = None) -> None:
        """Handles the messages received. If `refusal` is given, commands are answered with it as their error."""
        for received in self._connection.take_received():
            if self._inbound.is_command(received.topic) and self._connection.queued > _MAX_QUEUED_RESPONSES:
                self._skip_command(received.topic)
                continue
            for response in self._inbound.handle(received, refusal=refusal):
                self._respond(response)

    def process_acks(self) -> list[Ack]:
        """Processes the broker's acknowledgements. Returns those of messages."""
        acks = self._connection.take_acks()
        for ack in acks:
            if self._abandoned():
                return []
            self._inform_quarantine(ack)
            self._process_ack(ack)
        for suback in self._connection.take_subacks():
            self._inform_quarantine(suback)
            if suback.rejection is not None:
                self._monitor.subscription_rejected(suback.topic, suback.rejection)
        return acks

    def send_due(self) -> None:
        """Sends what is due, as far as the send quota allows: subscriptions, retained messages, then events."""
        self._inbound.announce_if_due()
        self._connection.serial = self._quarantine.needs_serial
        self._subscribe()
        held = self._held_topics
        for message in self._retained.take_due(self._connection.send_quota, now_s=time.monotonic(), exclude=held):
            self._connection.send(message)
        self._delivery.send(exclude=held)
        if self._connection.serial and not self._connection.unacknowledged and self._delivery.idle:
            self._quarantine.all_acknowledged()

    def diagnose_drop(self) -> bool:
        """Infers, after the connection has ended, whether the broker dropped it over an operation.

        Returns:
            Whether an operation has been put into quarantine, and the broker accepted others over this connection: the
            next one may last, so there is no need to wait before it.
        """
        fault, unacknowledged = self._connection.fault, self._connection.unacknowledged
        if not isinstance(fault, ConnectionDropped):
            return False
        retried = [operation for operation in unacknowledged if self._quarantine.is_offender(operation)]
        offender = self._quarantine.connection_dropped(
            unacknowledged,
            serial=self._connection.serial,
            lifetime_s=self.lifetime_s,
            unresponsive=isinstance(fault, AckTimeout),
        )
        if offender is None:
            return False
        if offender.subscribe:
            self._monitor.subscription_rejected(offender.topic, fault.behavior)
        elif offender in retried and self._retained.clears(offender.topic):
            self._give_up_clearing(offender.topic)
        else:
            self._monitor.message_rejected(Ack(0, offender, fault.behavior, forbidden=True), lost=False)
        return self._quarantine.any_acknowledged

    def disconnect(self, offline: Message, *, timeout_s: float) -> bool:
        """Delivers what is left, publishes the `offline` status, and disconnects once it is acknowledged.

        Returns:
            Whether it was acknowledged in time. If not, no DISCONNECT is sent, so that the broker publishes the will.
        """
        give_up_s = time.monotonic() + timeout_s
        last_send_s = give_up_s - timeout_s / 3
        while self._usable and time.monotonic() < last_send_s:
            self.handle_received(refusal="the agent is shutting down; try again")
            self.process_acks()
            if self._delivery.idle and self._retained.idle(exclude=self._held_topics):
                break
            self.send_due()
            self._connection.wait(0.1)
        if self._abandoned():
            return False
        send_id = self._connection.send(offline)
        acknowledged = False
        while self._usable and not acknowledged and time.monotonic() < give_up_s:
            self._connection.wait(0.1)
            acknowledged = any(ack.send_id == send_id and ack.rejection is None for ack in self.process_acks())
        if acknowledged:
            self._connection.close()
        return acknowledged

    @property
    def _usable(self) -> bool:
        return self._connection.fault is None and not self._abandoned()

    @property
    def _held_topics(self) -> set[str]:
        """The topics not to publish on now."""
        return {*self._quarantine.held_topics, *self._rejected.held, *self._forbidden.held}

    def _subscribe(self) -> None:
        """Sends all subscriptions that have not been sent, apart from those in quarantine."""
        held = [
            subscription
            for subscription in self._not_subscribed
            if self._quarantine.holds(Operation(subscription.topic_filter, subscribe=True))
        ]
        self._connection.subscribe([subscription for subscription in self._not_subscribed if subscription not in held])
        self._not_subscribed = held

    def _process_ack(self, ack: Ack) -> None:
        of_event = self._delivery.process_ack(ack)
        holdoffs = self._forbidden if ack.forbidden and not of_event else self._rejected
        if ack.rejection is None:
            self._rejected.accepted(ack.topic)
            self._forbidden.accepted(ack.topic)
            self._mark_delivered(ack.topic)
        elif ack.forbidden and self._retained.clears(ack.topic):
            self._give_up_clearing(ack.topic)
        else:
            self._monitor.message_rejected(ack, lost=of_event and ack.permanent)
            if not ack.permanent and (of_event or self._retained.rejected(ack.topic)):
                holdoffs.start(ack.topic)

    def _inform_quarantine(self, ack: Ack) -> None:
        if ack.rejection is None:
            self._quarantine.acknowledged(ack.operation)
        elif not ack.unsent:
            self._quarantine.rejected(ack.operation)

    def _give_up_clearing(self, topic: str) -> None:
        """Stops trying to clear a topic, which would otherwise be retried over each connection."""
        self._monitor.clearing_forbidden(topic)
        self._mark_delivered(topic)

    def _mark_delivered(self, topic: str) -> None:
        self._retained.acknowledged(topic)
        self._on_delivered(topic)

    def _skip_command(self, topic: str) -> None:
        if not self._overloaded:
            log.warning("%s: commands arrive faster than the broker accepts the responses; some are skipped", topic)
        self._overloaded = True

    def _respond(self, response: Response) -> None:
        if self._connection.fault is not None:
            return  # the command was carried out, but there is no connection for the response
        message, correlation_data = response.message, response.correlation_data
        if not is_valid_topic(message.topic):
            log.warning("%.60s: no response to a command is sent: not a valid topic to publish on", message.topic)
            return
        if self._quarantine.holds(response.operation):
            log.debug("%s: no response to a command is sent: the broker drops the connection over it", message.topic)
            return
        if not self._connection.fits(message, correlation_data=correlation_data):
            error = f"the response exceeds the broker's limit of {self._connection.maximum_packet_size} bytes"
            log.warning("%s: %s", message.topic, error)
            message = without_result(message, error=error)
        self._connection.send(message, correlation_data=correlation_data, operation=response.operation)
