"""Brokers that drop the connection instead of rejecting an operation, as MQTT 3.1.1 allows [MQTT-3.3.5-2]."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.domain import Message
from edge.message import clearing_message
from edge.mqtt import BrokerSettings, connection, quarantine
from edge.outbox import Outbox
from edge.payloads import CommandRequest
from edge.publish import MqttPublisher
from tests.integration.conftest import MakePublisher, StartBroker
from tests.mosquitto import Listener, Mosquitto, wait_until
from tests.network import NO_MQTT5, Relay, puback, suback

DISCOVERY = "homeassistant/device/hall/config"
HOME_ASSISTANT = "homeassistant/status"
FORMER_STATUS = "emotion/old/status"
PINGRESP = b"\xd0\x00"
"""A reply that acknowledges nothing."""
NOT_AUTHORIZED = b"\xe0\x02\x87\x00"
"""A DISCONNECT from the broker (MQTT 5) with the reason code "not authorized"."""
OUTCOME = "they are retried; check its access list and limits"


@pytest.fixture
def relay(broker: Mosquitto) -> Iterator[Relay]:
    """A relay that emulates such a broker, without MQTT 5."""
    with Relay(broker.port, mqtt5_reply=NO_MQTT5) as relay:
        yield relay


def settings(endpoint: Relay | Mosquitto) -> BrokerSettings:
    """Settings that connect to a relay or a broker."""
    return BrokerSettings(host="127.0.0.1", port=endpoint.port, client_id="edge-test")


def event(number: int, camera: str = "door") -> Message:
    """A numbered event of a camera."""
    payload = json.dumps({"seq": number, "historical": False}).encode()
    return Message(f"emotion/hall/{camera}/event", payload, qos=1, durable=True)


def state(topic: str) -> Message:
    """A retained message with QoS 0, which is never acknowledged."""
    return Message(topic, b"{}", retain=True)


def numbers(listener: Listener, camera: str = "door") -> list[int]:
    """The numbers of the events received from a camera, in order and without duplicates."""
    return list(dict.fromkeys(json.loads(message.payload)["seq"] for message in listener.on(event(0, camera).topic)))


def all_delivered(publisher: MqttPublisher) -> bool:
    """Whether no event is pending."""
    return publisher.stats.connected and publisher.stats.queue_depth == 0


def test_a_missing_permission_to_publish_discovery_loses_no_event(
    relay: Relay, listener: Listener, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """The rejected topics are identified, logged with a remedy and quarantined; everything else is delivered."""
    relay.forbidden = ["homeassistant/"]
    with make_publisher(settings(relay), home_assistant_status=HOME_ASSISTANT) as publisher:
        for topic in (DISCOVERY, "emotion/hall/info", "emotion/hall/door/emotion"):
            publisher.publish(state(topic))
        for number in range(1, 101):
            publisher.publish(event(number))
        wait_until(lambda: all_delivered(publisher))
        listener.wait_for(lambda: listener.on("emotion/hall/door/emotion"))
        dropped_over, reconnects = list(relay.dropped_over), publisher.stats.reconnects
        publisher.publish(event(101))
        publisher.publish(state(DISCOVERY))
        listener.wait_for(lambda: numbers(listener)[-1] == 101)
        assert (publisher.stats.reconnects, publisher.stats.rejected, publisher.stats.lost) == (reconnects, 1, 0)
    assert numbers(listener) == list(range(1, 102))
    assert listener.on("emotion/hall/info")
    assert listener.on("emotion/hall/status")[-1].payload == "offline"
    assert relay.dropped_over == dropped_over == [HOME_ASSISTANT] * 4 + [DISCOVERY] * 2
    warnings = [record.getMessage() for record in caplog.records if "(it drops" in record.getMessage()]
    reason = "(it drops the connection)"
    assert warnings == [
        f"the broker rejected the subscription to {HOME_ASSISTANT} {reason}; check its access list",
        f"{DISCOVERY}: the broker rejects messages on this topic {reason}; {OUTCOME}",
    ]


def test_events_that_cause_a_drop_are_retried(
    relay: Relay, listener: Listener, make_publisher: MakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not block others, each retry costs one connection, and all arrive once the permission is granted."""
    monkeypatch.setattr(quarantine, "_HOLDOFF_S", 0.5)
    relay.forbidden = ["emotion/hall/cellar/event"]
    with make_publisher(settings(relay)) as publisher:
        for number in range(1, 31):
            publisher.publish(event(number, "cellar"))
            publisher.publish(event(number))
        listener.wait_for(lambda: len(numbers(listener)) == 30)
        wait_until(lambda: publisher.stats.rejected >= 3)
        assert (publisher.stats.queue_depth, publisher.stats.lost) == (30, 0)
        assert len(relay.dropped_over) == publisher.stats.rejected + 3
        relay.forbidden = []
        listener.wait_for(lambda: len(numbers(listener, "cellar")) == 30)
        wait_until(lambda: all_delivered(publisher))
        publisher.publish(event(31, "cellar"))
        listener.wait_for(lambda: len(numbers(listener, "cellar")) == 31)
    assert numbers(listener) == list(range(1, 31))
    assert numbers(listener, "cellar") == list(range(1, 32))
    historical = [json.loads(message.payload)["historical"] for message in listener.on("emotion/hall/cellar/event")]
    assert historical == [True] * 30 + [False]


def test_a_subscription_that_causes_a_drop_is_retried(
    relay: Relay, listener: Listener, make_publisher: MakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A permission that is granted later takes effect without a reconnect."""
    monkeypatch.setattr(quarantine, "_HOLDOFF_S", 0.5)
    relay.forbidden = [HOME_ASSISTANT]
    with make_publisher(settings(relay), home_assistant_status=HOME_ASSISTANT) as publisher:
        publisher.publish(state("emotion/hall/info"))
        publisher.publish(event(1))
        wait_until(lambda: all_delivered(publisher))
        relay.forbidden = []

        def published_again() -> bool:
            listener.publish(HOME_ASSISTANT, "online")
            reconnects.append(publisher.stats.reconnects)
            return len(listener.on("emotion/hall/info")) > publisher.stats.reconnects + 1

        reconnects: list[int] = []
        wait_until(published_again)


def test_clearing_a_former_topic_is_given_up_after_a_retry(
    relay: Relay,
    listener: Listener,
    make_publisher: MakePublisher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log then contains instructions for clearing the topic manually."""
    monkeypatch.setattr(quarantine, "_HOLDOFF_S", 0.2)
    relay.forbidden = ["emotion/old/"]
    delivered: list[str] = []
    with make_publisher(settings(relay), on_delivered=delivered.append) as publisher:
        publisher.publish(clearing_message(FORMER_STATUS))
        publisher.publish(event(1))
        wait_until(lambda: all_delivered(publisher))
        wait_until(lambda: FORMER_STATUS in delivered)
        publisher.publish(event(2))
        listener.wait_for(lambda: numbers(listener) == [1, 2])
    assert relay.dropped_over == [FORMER_STATUS] * 5
    assert f"mosquitto_sub -t '{FORMER_STATUS}' --retained-only --remove-retained" in caplog.text


def test_a_bad_network_quarantines_no_topic(relay: Relay, listener: Listener, make_publisher: MakePublisher) -> None:
    """However often the connection breaks, even in serial mode, nothing counts as rejected."""
    with make_publisher(settings(relay)) as publisher:
        for number in range(1, 301):
            publisher.publish(event(number))
            if number % 30 == 0:
                listener.wait_for(lambda expected=number - 20: expected in numbers(listener))  # type: ignore[misc]
                relay.drop_connections()
        listener.wait_for(lambda: 300 in numbers(listener))
        assert publisher.stats.rejected == 0
    assert numbers(listener) == list(range(1, 301))


def test_devices_with_the_same_client_id_still_deliver(
    relay: Relay, listener: Listener, make_publisher: MakePublisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """MQTT 3.1.1 does not report a session takeover, so the log names both possible causes of the drops."""
    with (
        Outbox(folder=tmp_path / "other", capacity=1_000) as outbox,
        make_publisher(settings(relay)) as publisher,
        make_publisher(settings(relay), outbox=outbox) as other,
    ):
        for number in range(1, 101):
            publisher.publish(event(number))
            other.publish(event(number, "cellar"))
        listener.wait_for(lambda: len(numbers(listener)) == len(numbers(listener, "cellar")) == 100)
        wait_until(lambda: "another device has the client id edge-test too" in str(publisher.stats.last_error))
        assert (publisher.stats.rejected, other.stats.rejected) == (0, 0)
    assert "does not allow a topic that this device publishes or subscribes to: check its access list" in caplog.text


@pytest.mark.parametrize(
    ("reply", "behavior"),
    [(NOT_AUTHORIZED, "it drops the connection: not authorized"), (b"", "it drops the connection")],
)
def test_an_mqtt_5_broker_that_drops_connections_loses_no_event(
    broker: Mosquitto,
    listener: Listener,
    make_publisher: MakePublisher,
    caplog: pytest.LogCaptureFixture,
    reply: bytes,
    behavior: str,
) -> None:
    """With or without a DISCONNECT, although MQTT 5 has negative acknowledgements."""

    def reject(packet: bytes) -> bytes | None:
        if puback(packet, DISCOVERY, reason=0) is None:
            return None
        if not reply:
            raise ConnectionAbortedError
        return reply

    with Relay(broker.port, intercept=reject) as relay, make_publisher(settings(relay)) as publisher:
        publisher.publish(replace(state(DISCOVERY), qos=1))
        for number in range(1, 101):
            publisher.publish(event(number))
        wait_until(lambda: all_delivered(publisher))
        assert publisher.stats.protocol == "MQTT 5"
        assert publisher.stats.rejected == 1
    assert numbers(listener) == list(range(1, 101))
    assert f"{DISCOVERY}: the broker rejects messages on this topic ({behavior}); {OUTCOME}" in caplog.text
    assert "another device" not in caplog.text


def test_a_drop_after_a_rejection_is_attributed_at_once(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ 4 rejects and then drops the connection. Other operations in flight are not suspected."""

    def reject(packet: bytes) -> bytes | None:
        rejection = suback(packet, HOME_ASSISTANT, reason=0x87) or puback(packet, DISCOVERY, reason=0x87)
        return rejection + NOT_AUTHORIZED if rejection is not None else None

    with (
        Relay(broker.port, intercept=reject) as relay,
        make_publisher(settings(relay), home_assistant_status=HOME_ASSISTANT) as publisher,
    ):
        publisher.publish(replace(state(DISCOVERY), qos=1))
        for number in range(1, 101):
            publisher.publish(event(number))
        wait_until(lambda: all_delivered(publisher))
        listener.wait_for(lambda: len(numbers(listener)) == 100)
        assert publisher.stats.reconnects == 2
    warnings = [
        record.getMessage().split(" (")[0] for record in caplog.records if "subscription" in record.getMessage()
    ]
    assert warnings == [f"the broker rejected the subscription to {HOME_ASSISTANT}"]
    assert caplog.text.count("the broker rejects messages on this topic") == 1


def test_mosquittos_invalid_puback_for_a_large_message_blocks_nothing(
    start_broker: StartBroker, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """With `message_size_limit`, mosquitto does not announce the limit, and its PUBACK is not valid MQTT 5."""
    broker = start_broker(["allow_anonymous true", "message_size_limit 1000"])
    with Listener(broker.port) as listener, make_publisher(settings(broker)) as publisher:
        publisher.publish(replace(state(DISCOVERY), payload=b"x" * 1001, qos=1))
        for number in range(1, 101):
            publisher.publish(event(number))
        wait_until(lambda: all_delivered(publisher))
        listener.wait_for(lambda: len(numbers(listener)) == 100)
        assert publisher.stats.rejected == 1
    assert (
        f"{DISCOVERY}: the broker rejects messages on this topic (its acknowledgement is not valid MQTT)" in caplog.text
    )
    assert "another device" not in caplog.text


@pytest.mark.parametrize("mqtt5", [True, False])
def test_a_subscription_without_suback_blocks_nothing(
    broker: Mosquitto,
    listener: Listener,
    make_publisher: MakePublisher,
    monkeypatch: pytest.MonkeyPatch,
    *,
    mqtt5: bool,
) -> None:
    """Even in serial mode after dropped connections, everything else is eventually sent without it."""
    monkeypatch.setattr(connection, "_ACK_TIMEOUT_S", 0.5)

    def discard(packet: bytes) -> bytes | None:
        return PINGRESP if suback(packet, HOME_ASSISTANT, reason=0) else None

    with (
        Relay(broker.port, intercept=discard, mqtt5_reply=None if mqtt5 else NO_MQTT5) as relay,
        make_publisher(settings(relay), home_assistant_status=HOME_ASSISTANT) as publisher,
    ):
        for number in (1, 2):
            publisher.publish(event(number))
            listener.wait_for(lambda expected=number: expected in numbers(listener))  # type: ignore[misc]
            relay.drop_connections()
            wait_until(lambda: not publisher.stats.connected)
        publisher.publish(event(3))
        listener.wait_for(lambda: numbers(listener) == [1, 2, 3])
        wait_until(lambda: all_delivered(publisher))


def test_messages_without_puback_block_no_others(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that silently discards messages that it does not allow still receives those that it allows."""
    monkeypatch.setattr(connection, "_ACK_TIMEOUT_S", 0.5)

    def discard(packet: bytes) -> bytes | None:
        return PINGRESP if puback(packet, "/event", reason=0) and b"/door/" not in packet else None

    with Relay(broker.port, intercept=discard) as relay, make_publisher(settings(relay)) as publisher:
        for number in range(1, 25):
            publisher.publish(event(number, "attic"))
            publisher.publish(event(number, "cellar"))
        publisher.publish(event(1))
        listener.wait_for(lambda: numbers(listener) == [1])
        assert publisher.stats.queue_depth >= 48


def test_responses_that_cause_a_drop_are_no_longer_sent(
    relay: Relay, listener: Listener, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """The commands are still executed, without a dropped connection each time."""
    relay.forbidden = ["emotion/hall/cmd/blink/response", "emotion/hall/cmd/wink/response"]
    requests: list[str | int | None] = []

    def record(request: CommandRequest) -> None:
        requests.append(request.id)

    with make_publisher(settings(relay), commands={"blink": record, "wink": record}) as publisher:
        wait_until(lambda: publisher.stats.connected)
        for number in range(1, 7):
            wait_until(lambda: all_delivered(publisher))
            while number not in requests:
                listener.publish(f"emotion/hall/cmd/{'blink' if number % 2 else 'wink'}", json.dumps({"id": number}))
                time.sleep(0.3)
        assert relay.dropped_over == relay.forbidden
        assert publisher.stats.rejected == 1
    assert "emotion/hall/cmd/+/response: the broker rejects messages on this topic" in caplog.text
