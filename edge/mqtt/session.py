"""What is said and heard over one connection, from the birth to the goodbye."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from edge.backoff import Backoff
from edge.domain import Message
from edge.mqtt.caution import Caution
from edge.mqtt.commands import without_result
from edge.mqtt.connection import Connection
from edge.mqtt.delivery import Delivery
from edge.mqtt.faults import BrokenOff, Unanswering
from edge.mqtt.hearing import Answer, Hearing
from edge.mqtt.logbook import Logbook
from edge.mqtt.packets import Ack, Said, is_topic
from edge.mqtt.pauses import Pauses
from edge.mqtt.states import States
from edge.outbox import Outbox

log = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 60.0
_LONGEST_PAUSE_OF_STATES_S = 3600.0
"""After which something is said again that the broker has refused: a quota is free, a right was given. States for which
there is no right are said again seldom."""
_MOST_ANSWERS_HELD_BACK = 50
"""Each may hold a picture."""


class Session:
    """One connection's. For one thread.

    Args:
        connection: Newly made.
        outbox: Where the events wait.
        states: How things stand.
        hearing: What is listened to.
        caution: Kept from connection to connection.
        logbook: Told what the broker refuses.
        on_delivered: Told the topic of each message with QoS 1 that the broker has taken.
        abandoned: Whether outbox and states are another's by now.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        outbox: Outbox,
        states: States,
        hearing: Hearing,
        caution: Caution,
        logbook: Logbook,
        on_delivered: Callable[[str], None],
        abandoned: Callable[[], bool],
    ) -> None:
        self._connection = connection
        self._delivery = Delivery(outbox=outbox, connection=connection)
        self._states = states
        self._hearing = hearing
        self._caution = caution
        self._logbook = logbook
        self._on_delivered = on_delivered
        self._abandoned = abandoned
        self._unheard = hearing.subscriptions
        self._refused: Pauses[str] = Pauses(partial(Backoff, limit_s=_LONGEST_PAUSE_S))
        self._forbidden_states: Pauses[str] = Pauses(partial(Backoff, limit_s=_LONGEST_PAUSE_OF_STATES_S))
        self._flooded = False
        self._started_s = time.monotonic()
        caution.begin()
        states.resend()

    @property
    def held_s(self) -> float:
        """For how long the connection has held."""
        return time.monotonic() - self._started_s

    @property
    def delivered(self) -> bool:
        """Whether no event waits that the broker takes."""
        return self._delivery.idle

    def listen(self, *, why_not: str | None = None) -> None:
        """Does what was asked for; no command, if there is a reason not to."""
        for received in self._connection.take_received():
            if self._hearing.is_command(received.topic) and self._connection.held_back > _MOST_ANSWERS_HELD_BACK:
                self._pass_over(received.topic)
                continue
            for answer in self._hearing.hear(received, why_not=why_not):
                self._reply(answer)

    def settle(self) -> list[Ack]:
        """Takes notice of the broker's answers. Returns those to messages."""
        acks = self._connection.take_acks()
        for ack in acks:
            if self._abandoned():
                return []
            self._note(ack)
            self._settle(ack)
        for answer in self._connection.take_subscribed():
            self._note(answer)
            if answer.refusal is not None:
                self._logbook.deaf(answer.topic, answer.refusal)
        return acks

    def speak(self) -> None:
        """Says what is due, as far as there is room."""
        self._hearing.announce()
        self._connection.careful = self._caution.needed
        self._subscribe()
        left_alone = self._left_alone
        for message in self._states.take(self._connection.room, now_s=time.monotonic(), without=left_alone):
            self._connection.send(message)
        self._delivery.send(without=left_alone)
        if self._connection.careful and not self._connection.unanswered and self._delivery.idle:
            self._caution.all_answered()

    def find_out_why(self) -> bool:
        """After the connection broke off: finds out whether that was because of what was said.

        Returns:
            Whether something is left alone from now on, and the next connection may hold, as this one did so far.
        """
        fault, unanswered = self._connection.fault, self._connection.unanswered
        if not isinstance(fault, BrokenOff):
            return False
        tried_again = [said for said in unanswered if self._caution.blames(said)]
        guilty = self._caution.broken_off(
            unanswered,
            careful=self._connection.careful,
            held_s=self.held_s,
            unanswering=isinstance(fault, Unanswering),
        )
        if guilty is None:
            return False
        if guilty.listening:
            self._logbook.deaf(guilty.topic, fault.how)
        elif guilty in tried_again and self._states.clears(guilty.topic):
            self._forsake(guilty.topic)
        else:
            self._logbook.rejection(Ack(0, guilty, fault.how, forbidden=True), lost=False)
        return self._caution.heard

    def say_goodbye(self, goodbye: Message, *, timeout_s: float) -> bool:
        """Delivers what is left, says goodbye and waits until the broker has heard it, all within limits.

        Returns:
            Whether it has. Where it has not, the connection is left open, so that its end publishes the last will.
        """
        give_up_s = time.monotonic() + timeout_s
        last_call_s = give_up_s - timeout_s / 3
        while self._may_go_on and time.monotonic() < last_call_s:
            self.listen(why_not="the agent is just ending; ask again")
            self.settle()
            if self._delivery.idle and self._states.idle(without=self._left_alone):
                break
            self.speak()
            self._connection.wait(0.1)
        if self._abandoned():
            return False
        number = self._connection.send(goodbye)
        heard = False
        while self._may_go_on and not heard and time.monotonic() < give_up_s:
            self._connection.wait(0.1)
            heard = any(ack.number == number and ack.refusal is None for ack in self.settle())
        if heard:
            self._connection.close()
        return heard

    @property
    def _may_go_on(self) -> bool:
        return self._connection.fault is None and not self._abandoned()

    @property
    def _left_alone(self) -> set[str]:
        """The topics not to publish on, for the moment."""
        return {*self._caution.left_alone, *self._refused.held, *self._forbidden_states.held}

    def _subscribe(self) -> None:
        """To all that it has not yet, but for what the broker is known to refuse."""
        shunned = [wanted for wanted in self._unheard if self._caution.shuns(Said(wanted.topic_filter, listening=True))]
        self._connection.subscribe([wanted for wanted in self._unheard if wanted not in shunned])
        self._unheard = shunned

    def _settle(self, ack: Ack) -> None:
        of_event = self._delivery.settle(ack)
        refused = self._forbidden_states if ack.forbidden and not of_event else self._refused
        if ack.refusal is None:
            self._refused.taken(ack.topic)
            self._forbidden_states.taken(ack.topic)
            self._deliver(ack.topic)
        elif ack.forbidden and self._states.clears(ack.topic):
            self._forsake(ack.topic)
        else:
            self._logbook.rejection(ack, lost=of_event and ack.hopeless)
            if not ack.hopeless and (of_event or self._states.refused(ack.topic)):
                refused.begin(ack.topic)

    def _note(self, answer: Ack) -> None:
        if answer.refusal is None:
            self._caution.answered(answer.said)
        elif not answer.unsent:
            self._caution.denied(answer.said)

    def _forsake(self, topic: str) -> None:
        """Gives up clearing a topic, or it would be tried at each connection."""
        self._logbook.left_behind(topic)
        self._deliver(topic)

    def _deliver(self, topic: str) -> None:
        self._states.delivered(topic)
        self._on_delivered(topic)

    def _pass_over(self, topic: str) -> None:
        if not self._flooded:
            log.warning("%s: more commands come than can be answered; some are passed over", topic)
        self._flooded = True

    def _reply(self, answer: Answer) -> None:
        if self._connection.fault is not None:
            return  # it was carried out, and there is no way to say so
        message, correlation_data = answer.message, answer.correlation_data
        if not is_topic(message.topic):
            log.warning("%.60s: a command is not answered there: that is no topic to publish on", message.topic)
            return
        if self._caution.shuns(answer.said):
            log.debug("%s: a command is not answered there: the broker breaks off over it", message.topic)
            return
        if not self._connection.fits(message, correlation_data=correlation_data):
            why = f"the answer is too large for the broker, which takes {self._connection.largest_bytes} bytes"
            log.warning("%s: %s", message.topic, why)
            message = without_result(message, why=why)
        self._connection.send(message, correlation_data=correlation_data, said=answer.said)
