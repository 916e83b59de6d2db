"""A broker that refuses by breaking off the connection, as MQTT 3.1.1 allows it to [MQTT-3.3.5-2] and others do too."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.domain import Message
from edge.message import clearing_message
from edge.mqtt import BrokerSettings, caution, connection
from edge.outbox import Outbox
from edge.payloads import CommandRequest
from edge.publish import MqttPublisher
from tests.integration.conftest import Build, StartBroker
from tests.mosquitto import Listener, Mosquitto, wait_until
from tests.network import NO_MQTT5, Relay, acknowledge, refuse_subscription

DISCOVERY = "homeassistant/device/hall/config"
HOME_ASSISTANT = "homeassistant/status"
OLD = "emotion/old/status"
PINGRESP = b"\xd0\x00"
"""An answer that says nothing."""
NOT_AUTHORIZED = b"\xe0\x02\x87\x00"
"""A broker's DISCONNECT (MQTT 5)."""
REMEDY = "check its access list and limits; they wait for that"


@pytest.fixture
def relay(broker: Mosquitto) -> Iterator[Relay]:
    """The way to such a broker."""
    with Relay(broker.port, last_word_to_mqtt5=NO_MQTT5) as relay:
        yield relay


def settings(way: Relay | Mosquitto) -> BrokerSettings:
    """How to reach it."""
    return BrokerSettings(host="127.0.0.1", port=way.port, client_id="edge-test")


def event(number: int, camera: str = "door") -> Message:
    """A durable message with a number."""
    payload = json.dumps({"seq": number, "historical": False}).encode()
    return Message(f"emotion/hall/{camera}/event", payload, qos=1, durable=True)


def state(topic: str) -> Message:
    """A retained message, which the broker need not acknowledge."""
    return Message(topic, b"{}", retain=True)


def numbers(listener: Listener, camera: str = "door") -> list[int]:
    """Those of a camera's events that arrived, each once."""
    return list(dict.fromkeys(json.loads(heard.payload)["seq"] for heard in listener.on(event(0, camera).topic)))


def all_delivered(publisher: MqttPublisher) -> bool:
    """Whether no event waits."""
    return publisher.stats.connected and publisher.stats.queue_depth == 0


def test_a_missing_right_to_speak_to_home_assistant_costs_no_event(
    relay: Relay, listener: Listener, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """What the broker hangs up upon is found out, told with its remedy and left alone; all else flows."""
    relay.forbidden = ["homeassistant/"]
    with build(settings(relay), home_assistant_status=HOME_ASSISTANT) as publisher:
        for topic in (DISCOVERY, "emotion/hall/info", "emotion/hall/door/emotion"):
            publisher.publish(state(topic))
        for number in range(1, 101):
            publisher.publish(event(number))
        wait_until(lambda: all_delivered(publisher))
        listener.wait_for(lambda: listener.on("emotion/hall/door/emotion"))
        hung_up, reconnects = list(relay.hung_up), publisher.stats.reconnects
        publisher.publish(event(101))
        publisher.publish(state(DISCOVERY))
        listener.wait_for(lambda: numbers(listener)[-1] == 101)
        assert (publisher.stats.reconnects, publisher.stats.rejected, publisher.stats.lost) == (reconnects, 1, 0)
    assert numbers(listener) == list(range(1, 102))
    assert listener.on("emotion/hall/info")
    assert listener.on("emotion/hall/status")[-1].payload == "offline"
    assert relay.hung_up == hung_up == [HOME_ASSISTANT] * 4 + [DISCOVERY] * 2
    complaints = [record.getMessage() for record in caplog.records if "hangs up" in record.getMessage()]
    reason = "(it hangs up)"
    assert complaints == [
        f"the broker does not let this client listen to {HOME_ASSISTANT} {reason}; check its access list",
        f"{DISCOVERY}: the broker rejects messages on this topic {reason}; {REMEDY}",
    ]


def test_events_upon_which_it_hangs_up_wait_for_the_right(
    relay: Relay, listener: Listener, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold no others up, are tried again one hang-up at a time, and all arrive when the right is there."""
    monkeypatch.setattr(caution, "_PAUSE_S", 0.5)
    relay.forbidden = ["emotion/hall/cellar/event"]
    with build(settings(relay)) as publisher:
        for number in range(1, 31):
            publisher.publish(event(number, "cellar"))
            publisher.publish(event(number))
        listener.wait_for(lambda: len(numbers(listener)) == 30)
        wait_until(lambda: publisher.stats.rejected >= 3)
        assert (publisher.stats.queue_depth, publisher.stats.lost) == (30, 0)
        assert len(relay.hung_up) == publisher.stats.rejected + 3
        relay.forbidden = []
        listener.wait_for(lambda: len(numbers(listener, "cellar")) == 30)
        wait_until(lambda: all_delivered(publisher))
        publisher.publish(event(31, "cellar"))
        listener.wait_for(lambda: len(numbers(listener, "cellar")) == 31)
    assert numbers(listener) == list(range(1, 31))
    assert numbers(listener, "cellar") == list(range(1, 32))
    historical = [json.loads(heard.payload)["historical"] for heard in listener.on("emotion/hall/cellar/event")]
    assert historical == [True] * 30 + [False]


def test_what_it_may_listen_to_later_is_listened_to(
    relay: Relay, listener: Listener, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A right that is given helps while the connection stands."""
    monkeypatch.setattr(caution, "_PAUSE_S", 0.5)
    relay.forbidden = [HOME_ASSISTANT]
    with build(settings(relay), home_assistant_status=HOME_ASSISTANT) as publisher:
        publisher.publish(state("emotion/hall/info"))
        publisher.publish(event(1))
        wait_until(lambda: all_delivered(publisher))
        relay.forbidden = []

        def announced_again() -> bool:
            listener.publish(HOME_ASSISTANT, "online")
            reconnects.append(publisher.stats.reconnects)
            return len(listener.on("emotion/hall/info")) > publisher.stats.reconnects + 1

        reconnects: list[int] = []
        wait_until(announced_again)


def test_a_former_topic_that_may_not_be_cleared_is_given_up(
    relay: Relay, listener: Listener, build: Build, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only after it was tried again, and with the way to clear it by hand."""
    monkeypatch.setattr(caution, "_PAUSE_S", 0.2)
    relay.forbidden = ["emotion/old/"]
    delivered: list[str] = []
    with build(settings(relay), on_delivered=delivered.append) as publisher:
        publisher.publish(clearing_message(OLD))
        publisher.publish(event(1))
        wait_until(lambda: all_delivered(publisher))
        wait_until(lambda: OLD in delivered)
        publisher.publish(event(2))
        listener.wait_for(lambda: numbers(listener) == [1, 2])
    assert relay.hung_up == [OLD] * 5
    assert f"mosquitto_sub -t '{OLD}' --retained-only --remove-retained" in caplog.text


def test_a_bad_network_is_blamed_on_no_topic(relay: Relay, listener: Listener, build: Build) -> None:
    """However often a connection breaks, and however carefully it speaks then, nothing is left alone."""
    with build(settings(relay)) as publisher:
        for number in range(1, 301):
            publisher.publish(event(number))
            if number % 30 == 0:
                listener.wait_for(lambda least=number - 20: least in numbers(listener))  # type: ignore[misc]
                relay.cut()
        listener.wait_for(lambda: 300 in numbers(listener))
        assert publisher.stats.rejected == 0
    assert numbers(listener) == list(range(1, 301))


def test_devices_with_one_client_id_deliver_all_the_same(
    relay: Relay, listener: Listener, build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With MQTT 3.1.1 nobody is told that another device pushed it out; both reasons for it are named."""
    with (
        Outbox(folder=tmp_path / "twin", capacity=1_000) as outbox,
        build(settings(relay)) as publisher,
        build(settings(relay), outbox=outbox) as twin,
    ):
        for number in range(1, 101):
            publisher.publish(event(number))
            twin.publish(event(number, "cellar"))
        listener.wait_for(lambda: len(numbers(listener)) == len(numbers(listener, "cellar")) == 100)
        wait_until(lambda: "another device has the client id edge-test too" in str(publisher.stats.last_error))
        assert (publisher.stats.rejected, twin.stats.rejected) == (0, 0)
    assert "refuses so what this device says or listens to: check its access list" in caplog.text


@pytest.mark.parametrize(
    ("answer", "how"),
    [(NOT_AUTHORIZED, "it hangs up: not authorized"), (b"", "it hangs up")],
)
def test_a_broker_of_mqtt_5_that_hangs_up_costs_no_event_either(
    broker: Mosquitto, listener: Listener, build: Build, caplog: pytest.LogCaptureFixture, answer: bytes, how: str
) -> None:
    """With or without a word, where that protocol has a better way to refuse a message."""

    def refuse(packet: bytes) -> bytes | None:
        if acknowledge(packet, DISCOVERY, reason=0) is None:
            return None
        if not answer:
            raise ConnectionAbortedError
        return answer

    with Relay(broker.port, answer=refuse) as relay, build(settings(relay)) as publisher:
        publisher.publish(replace(state(DISCOVERY), qos=1))
        for number in range(1, 101):
            publisher.publish(event(number))
        wait_until(lambda: all_delivered(publisher))
        assert publisher.stats.protocol == "MQTT 5"
        assert publisher.stats.rejected == 1
    assert numbers(listener) == list(range(1, 101))
    assert f"{DISCOVERY}: the broker rejects messages on this topic ({how}); {REMEDY}" in caplog.text
    assert "another device" not in caplog.text


def test_a_broker_that_says_no_and_hangs_up_is_understood_at_once(
    broker: Mosquitto, listener: Listener, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """As RabbitMQ 4 does. What it has not answered by then is not to blame."""

    def refuse(packet: bytes) -> bytes | None:
        no = refuse_subscription(packet, HOME_ASSISTANT, reason=0x87) or acknowledge(packet, DISCOVERY, reason=0x87)
        return no + NOT_AUTHORIZED if no is not None else None

    with (
        Relay(broker.port, answer=refuse) as relay,
        build(settings(relay), home_assistant_status=HOME_ASSISTANT) as publisher,
    ):
        publisher.publish(replace(state(DISCOVERY), qos=1))
        for number in range(1, 101):
            publisher.publish(event(number))
        wait_until(lambda: all_delivered(publisher))
        listener.wait_for(lambda: len(numbers(listener)) == 100)
        assert publisher.stats.reconnects == 2
    told = [record.getMessage().split(" (")[0] for record in caplog.records if "does not let" in record.getMessage()]
    assert told == [f"the broker does not let this client listen to {HOME_ASSISTANT}"]
    assert caplog.text.count("the broker rejects messages on this topic") == 1


def test_what_mosquitto_answers_to_a_large_message_holds_up_nothing(
    start_broker: StartBroker, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """With `message_size_limit` it does not say which limit there is, and its PUBACK is none that MQTT 5 has."""
    broker = start_broker(["allow_anonymous true", "message_size_limit 1000"])
    with Listener(broker.port) as listener, build(settings(broker)) as publisher:
        publisher.publish(replace(state(DISCOVERY), payload=b"x" * 1001, qos=1))
        for number in range(1, 101):
            publisher.publish(event(number))
        wait_until(lambda: all_delivered(publisher))
        listener.wait_for(lambda: len(numbers(listener)) == 100)
        assert publisher.stats.rejected == 1
    assert f"{DISCOVERY}: the broker rejects messages on this topic (its answer is none that MQTT has)" in caplog.text
    assert "another device" not in caplog.text


@pytest.mark.parametrize("mqtt5", [True, False])
def test_a_subscription_that_is_not_answered_holds_up_nothing(
    broker: Mosquitto, listener: Listener, build: Build, monkeypatch: pytest.MonkeyPatch, *, mqtt5: bool
) -> None:
    """Also where connections break off and one thing is said at a time: in the end, all else is said without it."""
    monkeypatch.setattr(connection, "_ANSWER_TIMEOUT_S", 0.5)

    def ignore(packet: bytes) -> bytes | None:
        return PINGRESP if refuse_subscription(packet, HOME_ASSISTANT, reason=0) else None

    with (
        Relay(broker.port, answer=ignore, last_word_to_mqtt5=None if mqtt5 else NO_MQTT5) as relay,
        build(settings(relay), home_assistant_status=HOME_ASSISTANT) as publisher,
    ):
        for number in (1, 2):
            publisher.publish(event(number))
            listener.wait_for(lambda least=number: least in numbers(listener))  # type: ignore[misc]
            relay.cut()
            wait_until(lambda: not publisher.stats.connected)
        publisher.publish(event(3))
        listener.wait_for(lambda: numbers(listener) == [1, 2, 3])
        wait_until(lambda: all_delivered(publisher))


def test_messages_that_are_not_answered_hold_up_no_others(
    broker: Mosquitto, listener: Listener, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that drops what it does not allow without a word delivers what it allows."""
    monkeypatch.setattr(connection, "_ANSWER_TIMEOUT_S", 0.5)

    def ignore(packet: bytes) -> bytes | None:
        return PINGRESP if acknowledge(packet, "/event", reason=0) and b"/door/" not in packet else None

    with Relay(broker.port, answer=ignore) as relay, build(settings(relay)) as publisher:
        for number in range(1, 25):
            publisher.publish(event(number, "attic"))
            publisher.publish(event(number, "cellar"))
        publisher.publish(event(1))
        listener.wait_for(lambda: numbers(listener) == [1])
        assert publisher.stats.queue_depth >= 48


def test_answers_upon_which_it_hangs_up_are_given_no_more(
    relay: Relay, listener: Listener, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """A command is carried out all the same, and does not cost the connection each time."""
    relay.forbidden = ["emotion/hall/cmd/blink/response", "emotion/hall/cmd/wink/response"]
    asked: list[str | int | None] = []

    def note(request: CommandRequest) -> None:
        asked.append(request.id)

    with build(settings(relay), commands={"blink": note, "wink": note}) as publisher:
        wait_until(lambda: publisher.stats.connected)
        for number in range(1, 7):
            wait_until(lambda: all_delivered(publisher))
            while number not in asked:
                listener.publish(f"emotion/hall/cmd/{'blink' if number % 2 else 'wink'}", json.dumps({"id": number}))
                time.sleep(0.3)
        assert relay.hung_up == relay.forbidden
        assert publisher.stats.rejected == 1
    assert "emotion/hall/cmd/+/response: the broker rejects messages on this topic" in caplog.text
