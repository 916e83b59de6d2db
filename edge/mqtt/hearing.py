"""What the device listens to, and what follows from each message."""

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
from edge.mqtt.logbook import Logbook
from edge.mqtt.packets import Received, Said, Subscription
from edge.mqtt.states import States
from edge.topics import Topics

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """To a command.

    Attributes:
        message: What to say, and where.
        said: What it is for the broker.
        correlation_data: By which whoever asked knows it (MQTT 5), if they asked for that.
    """

    message: Message
    said: Said
    correlation_data: bytes | None = None


class Hearing:
    """Hears commands, what is said on the device's own status topic, and that Home Assistant started.

    Args:
        topics: The device's.
        commands: Carries them out.
        groups: The groups of the fleet whose commands the device follows too.
        home_assistant_status: The topic on which Home Assistant says that it started, to announce everything again.
        announce_within_s: Over how long devices spread their announcements then.
        client_id: The device's own.
        birth, will: What it says on its status topic itself, and what the broker says there when it is gone.
        states: How things stand, to be said again.
        logbook: Told of another device of the same name.
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
        states: States,
        logbook: Logbook,
    ) -> None:
        self._device = topics.device
        self._responses = topics.response("+")
        self._commands = commands
        self._of_commands = [Subscription(topic, tell_retained=True) for topic in topics.commands(groups)]
        self._home_assistant_status = home_assistant_status
        self._announce_within_s = announce_within_s
        self._announce_at_s = float("inf")
        self._client = fingerprint(client_id)
        self._birth = birth
        self._will = will
        self._states = states
        self._logbook = logbook

    @property
    def subscriptions(self) -> list[Subscription]:
        """To what."""
        notices = [self._birth.topic, self._home_assistant_status]
        return [*self._of_commands, *(Subscription(topic) for topic in notices if topic is not None)]

    @property
    def patience_s(self) -> float:
        """For how long there is nothing to say unless something is heard."""
        return max(0.0, self._announce_at_s - time.monotonic())

    def announce(self) -> None:
        """Has everything said again, if that was asked for and it is time."""
        if time.monotonic() >= self._announce_at_s:
            self._announce_at_s = float("inf")
            self._states.resend()

    def is_command(self, topic: str) -> bool:
        """Whether what comes on a topic is to be carried out."""
        return any(subscription.matches(topic) for subscription in self._of_commands)

    def hear(self, received: Received, *, why_not: str | None = None) -> list[Answer]:
        """Does what follows from a message.

        Args:
            received: The message.
            why_not: Why no command is carried out, if none is.

        Returns:
            The answers to a command.
        """
        if self.is_command(received.topic):
            return self._obey(received, why_not)
        if received.topic == self._birth.topic:
            self._hear_own_status(received)
        elif received.topic == self._home_assistant_status:
            self._hear_home_assistant(received)
        else:
            # A session that the broker has kept listens to what was subscribed under an earlier configuration.
            log.debug("%s: not meant for this device any more", received.topic)
        return []

    def _obey(self, received: Received, why_not: str | None) -> list[Answer]:
        if received.retained:
            log.warning("%s: a retained command is ignored: it would be carried out at every start", received.topic)
            return []
        response = self._commands.answer(received.topic, received.payload, wall_s=time.time(), why_not=why_not)
        usual = Said(self._responses, reply=True)
        if received.response_topic is None:
            return [Answer(response, usual)]
        if received.response_topic == response.topic:
            return [Answer(response, usual, received.correlation_data)]
        elsewhere = replace(response, topic=received.response_topic)
        there = Said(received.response_topic, reply=True)
        return [Answer(response, usual), Answer(elsewhere, there, received.correlation_data)]

    def _hear_own_status(self, received: Received) -> None:
        if received.retained:
            return
        speaker = dict(received.user_properties).get(CLIENT, self._client)
        if speaker != self._client and received.payload == self._birth.payload:
            self._logbook.namesake(self._device, speaker, self._client)  # a will may be of this device's former id
        if received.payload == self._will.payload:
            log.info("a late will said that this device is offline; corrected")
            self._states.put(self._birth, now_s=time.monotonic())
        elif not received.payload:
            log.info("another device that had this name has cleared its topics; everything is said again")
            self._states.resend()

    def _hear_home_assistant(self, received: Received) -> None:
        if received.payload == b"online" and not received.retained:
            delay_s = random.uniform(0, self._announce_within_s)  # noqa: S311  # jitter keeps no secret
            self._announce_at_s = time.monotonic() + delay_s
