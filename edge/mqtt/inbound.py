"""What the device subscribes to, and how it handles each message received."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge.client_id import fingerprint
from edge.domain import Message
from edge.message import CLIENT
from edge.mqtt.commands import Commands
from edge.mqtt.monitor import Monitor
from edge.mqtt.packets import Operation, Received, Subscription
from edge.mqtt.retained import RetainedMessages
from edge.topics import Topics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Response:
    """The response to a command.

    Attributes:
        message: The message to send.
        operation: What the message counts as if the broker does not allow it.
        correlation_data: Copied from the request, for its sender (MQTT 5).
    """

    message: Message
    operation: Operation
    correlation_data: bytes | None = None


class Inbound:
    """Handles commands, messages on the device's own status topic, and the birth of Home Assistant.

    Args:
        topics: The device's topics.
        commands: Carries out commands.
        groups: The fleet groups whose commands the device follows too.
        home_assistant_status: The topic of Home Assistant's birth, after which everything is announced again.
        announce_within_s: The limit of that announcement's random delay, so that a fleet does not announce at once.
        client_id: The device's own client id.
        birth, will: The retained messages on the status topic: the device's own, and the one that replaces it when the
            connection breaks.
        retained: The retained messages, for publishing them again.
        monitor: Notified of another device with the same name.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        commands: Commands,
        groups: Sequence[str],
        home_assistant_status: str | None,
        announce_within_s: float,
        client_id: str,
        birth: Message,
        will: Message,
        retained: RetainedMessages,
        monitor: Monitor,
    ) -> None:
        self._device = topics.device
        self._response_filter = topics.response("+")
        self._commands = commands
        self._command_subscriptions = [
            Subscription(topic, retain_as_published=True) for topic in topics.commands(groups)
        ]
        self._home_assistant_status = home_assistant_status
        self._announce_within_s = announce_within_s
        self._announce_at_s = float("inf")
        self._client = fingerprint(client_id)
        self._birth = birth
        self._will = will
        self._retained = retained
        self._monitor = monitor

    @property
    def subscriptions(self) -> list[Subscription]:
        """All subscriptions of the device."""
        notices = [self._birth.topic, self._home_assistant_status]
        return [*self._command_subscriptions, *(Subscription(topic) for topic in notices if topic is not None)]

    @property
    def announcement_in_s(self) -> float:
        """In how many seconds the next announcement is due; infinite if none is."""
        return max(0.0, self._announce_at_s - time.monotonic())

    def announce_if_due(self) -> None:
        """Makes all retained messages due again if Home Assistant has started and the delay is over."""
        if time.monotonic() >= self._announce_at_s:
            self._announce_at_s = float("inf")
            self._retained.resend_all()

    def is_command(self, topic: str) -> bool:
        """Whether a topic is one of commands to this device."""
        return any(subscription.matches(topic) for subscription in self._command_subscriptions)

    def handle(self, received: Received, *, refusal: str | None = None) -> list[Response]:
        """Handles a message.

        Args:
            received: The message.
            refusal: If given, commands are not carried out but answered with this error.

        Returns:
            The responses to a command.
        """
        if self.is_command(received.topic):
            return self._handle_command(received, refusal)
        if received.topic == self._birth.topic:
            self._handle_own_status(received)
        elif received.topic == self._home_assistant_status:
            self._handle_home_assistant_status(received)
        else:
            # A session that the broker has kept may contain subscriptions of an earlier configuration.
            log.debug("%s: ignoring a message on a topic of an earlier configuration", received.topic)
        return []

    def _handle_command(self, received: Received, refusal: str | None) -> list[Response]:
        if received.retained:
            log.warning("%s: a retained command is ignored: it would be carried out at every start", received.topic)
            return []
        message = self._commands.respond(received.topic, received.payload, wall_s=time.time(), refusal=refusal)
        operation = Operation(self._response_filter, response=True)
        if received.response_topic is None:
            return [Response(message, operation)]
        if received.response_topic == message.topic:
            return [Response(message, operation, received.correlation_data)]
        copy = replace(message, topic=received.response_topic)
        copy_operation = Operation(received.response_topic, response=True)
        return [Response(message, operation), Response(copy, copy_operation, received.correlation_data)]

    def _handle_own_status(self, received: Received) -> None:
        if received.retained:
            return
        sender = dict(received.user_properties).get(CLIENT, self._client)
        if sender != self._client and received.payload == self._birth.payload:  # a will may carry an earlier client id
            self._monitor.duplicate_device(self._device, sender, self._client)
        if received.payload == self._will.payload:
            log.info("a delayed last will reported this device as offline; publishing its status again")
            self._retained.put(self._birth, now_s=time.monotonic())
        elif not received.payload:
            log.info("another device that had this name has cleared its topics; publishing everything again")
            self._retained.resend_all()

    def _handle_home_assistant_status(self, received: Received) -> None:
        if received.payload == b"online" and not received.retained:
            delay_s = random.uniform(0, self._announce_within_s)  # noqa: S311  # jitter keeps no secret
            self._announce_at_s = time.monotonic() + delay_s
