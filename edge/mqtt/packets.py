"""What passes over a connection, and how MQTT 5 dresses it."""

from __future__ import annotations

from dataclasses import dataclass

from paho.mqtt.client import topic_matches_sub
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.domain import Message

_WILL_DELAY_S = 5
_SESSION_EXPIRY_S = 15
"""The session outlives a short break, so that the broker keeps the will back."""
_LARGEST_PACKET_BYTES = 1 << 20
"""Nothing that an agent listens to comes near it. The broker keeps back what is larger (MQTT 5)."""
_LONGEST_TOPIC = 1000
"""In bytes. The protocol's own limit is 65,535."""
_HOPELESS = 0x99
"""The refusal of a message for what it is: payload format invalid."""
_FORBIDDEN = frozenset({0x87, 0x90})
"""Not authorized, and topic name invalid, which means that this client may not use it: the topic is well-formed."""
_MOST_LEVELS = 200
"""Mosquitto breaks the connection over a topic with more."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the broker.

    Attributes:
        retained: Whether it is one that the broker had kept, or (MQTT 5) that it is asked to keep.
        response_topic, correlation_data: Where and how the sender wants to be answered (MQTT 5).
        user_properties: What else the sender says of it (MQTT 5).
    """

    topic: str
    payload: bytes
    retained: bool
    response_topic: str | None = None
    correlation_data: bytes | None = None
    user_properties: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """Something that the broker is to answer.

    Attributes:
        topic: A message's topic, or a topic filter.
        listening: Whether it is a subscription.
        reply: Whether it is an answer to a command, which is said when that comes and not again. Those on the device's
            own topics are taken for one, under a filter.
    """

    topic: str
    listening: bool = False
    reply: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """What became of a message: the broker's answer to one with QoS 1, or why any other was not sent. Or to SUBSCRIBE.

    Attributes:
        number: What `send` returned for the message.
        said: What is answered.
        refusal: Why the broker did not take it (MQTT 5), None if it did.
        hopeless: Whether it would be refused at any time. Other refusals may pass: a quota is free again, rights are
            given.
        forbidden: Whether it was refused for want of a right.
        unsent: Whether the broker was not even asked, as it has said what it does not take.
    """

    number: int
    said: Said
    refusal: str | None = None
    hopeless: bool = False
    forbidden: bool = False
    unsent: bool = False

    @property
    def topic(self) -> str:
        """The message's, or the filter of the subscription."""
        return self.said.topic


@dataclass(frozen=True, slots=True)
class Subscription:
    """What to listen to.

    Attributes:
        topic_filter: May hold wildcards.
        tell_retained: Whether a message that is published as retained arrives marked so (MQTT 5). Otherwise only
            those are marked that the broker had kept.
        send_retained: Whether to be sent what the broker had kept (with MQTT 3.1.1, it always is).
    """

    topic_filter: str
    tell_retained: bool = False
    send_retained: bool = False

    def matches(self, topic: str) -> bool:
        """Whether messages on a topic are asked for."""
        return topic_matches_sub(self.topic_filter, topic)


def hello(*, resume: bool) -> Properties:
    """For CONNECT; `resume` asks the broker to keep the session for a while when the connection breaks."""
    properties = _properties(PacketTypes.CONNECT)
    properties.SessionExpiryInterval = _SESSION_EXPIRY_S if resume else 0
    properties.MaximumPacketSize = _LARGEST_PACKET_BYTES
    return properties


def will(message: Message) -> Properties:
    """For the last will, which the broker keeps back for a while in case the client returns."""
    properties = _describe(message, PacketTypes.WILLMESSAGE)
    properties.WillDelayInterval = _WILL_DELAY_S
    return properties


def publish(message: Message, correlation_data: bytes | None = None) -> Properties:
    """For PUBLISH."""
    properties = _describe(message, PacketTypes.PUBLISH)
    if correlation_data is not None:
        properties.CorrelationData = correlation_data
    return properties


def size_bytes(message: Message, properties: Properties) -> int:
    """How large the PUBLISH packet (MQTT 5) of a message is."""
    properties_bytes = len(properties.pack())  # type: ignore[no-untyped-call]  # paho publishes no type for it
    number_bytes = 2 if message.qos else 0
    rest_bytes = 2 + len(message.topic.encode()) + number_bytes + properties_bytes + len(message.payload)
    length_bytes = -(-rest_bytes.bit_length() // 7)
    return 1 + length_bytes + rest_bytes


def ack(number: int, said: Said, reason: ReasonCode) -> Ack:
    """From PUBACK or SUBACK."""
    if not reason.is_failure:
        return Ack(number, said)
    return Ack(number, said, str(reason), hopeless=reason.value == _HOPELESS, forbidden=reason.value in _FORBIDDEN)


def subscribe(subscription: Subscription) -> SubscribeOptions:
    """For SUBSCRIBE. As a rule, what the broker has kept is not asked for: a command or a notice counts when given."""
    handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE
    if not subscription.send_retained:
        handling = SubscribeOptions.RETAIN_DO_NOT_SEND
    return SubscribeOptions(qos=1, retainAsPublished=subscription.tell_retained, retainHandling=handling)


def goodbye() -> Properties:
    """For DISCONNECT: ends the session with the connection."""
    properties = _properties(PacketTypes.DISCONNECT)
    properties.SessionExpiryInterval = 0
    return properties


def is_topic(name: str) -> bool:
    """Whether a message can be published on a topic of this name, which somebody else thought of."""
    fits = 0 < len(name.encode()) <= _LONGEST_TOPIC and name.count("/") < _MOST_LEVELS
    return fits and not set(name) & {"+", "#", "\0"}


def _describe(message: Message, packet: int) -> Properties:
    properties = _properties(packet)
    properties.ContentType = message.content_type
    if message.expiry_s is not None:
        properties.MessageExpiryInterval = message.expiry_s
    if message.user_properties:
        properties.UserProperty = list(message.user_properties)
    return properties


def _properties(packet: int) -> Properties:
    return Properties(packet)  # type: ignore[no-untyped-call]  # paho publishes no type for it
