"""The publisher with a real broker: order, retained state, outages, MQTT versions, reloads and crashes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge import publish
from edge.client_id import fingerprint
from edge.domain import Message
from edge.message import clearing_message
from edge.mqtt import BrokerSettings, mqtt5_probe
from edge.mqtt.connect import connect
from edge.outbox import Outbox
from edge.payloads import CommandRequest
from edge.publish import MqttPublisher
from tests.integration.conftest import MakePublisher, StartBroker
from tests.mosquitto import PATIENCE_S, Listener, Mosquitto, wait_until
from tests.network import NO_MQTT5, Relay, puback

STATUS = "emotion/hall/status"
INFO = "emotion/hall/info"
EVENT = "emotion/hall/door/event"
STATE = "emotion/hall/door/emotion"
DISCOVERY = "homeassistant/device/hall/config"
HOME_ASSISTANT = "homeassistant/status"
CHILD = Path(__file__).with_name("publishing_child.py")


def settings(port: int) -> BrokerSettings:
    """Settings for a broker on this machine."""
    return BrokerSettings(host="127.0.0.1", port=port, client_id="edge-test")


def event(number: int) -> Message:
    """A numbered event."""
    payload = json.dumps({"seq": number, "historical": False}).encode()
    return Message(EVENT, payload, qos=1, durable=True, user_properties=(("schema", "emotion.event/1"),))


def state(text: str, topic: str = STATE) -> Message:
    """A retained message."""
    return Message(topic, text.encode(), retain=True, expiry_s=60)


def payloads(listener: Listener, topic: str) -> list[str]:
    """The payloads received on a topic."""
    return [message.payload for message in listener.on(topic)]


def numbers(listener: Listener) -> list[int]:
    """The numbers of the events received, in order."""
    return [json.loads(payload)["seq"] for payload in payloads(listener, EVENT)]


def historical(listener: Listener) -> list[int]:
    """The numbers of the events received that are marked as historical."""
    events = map(json.loads, payloads(listener, EVENT))
    return [event["seq"] for event in events if event["historical"]]


def test_birth_info_discovery_and_states_arrive_in_this_order(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """After the birth message come the device information, discovery and the states, all retained."""
    publisher = make_publisher(settings(broker.port))
    for topic in (STATE, DISCOVERY, INFO):
        publisher.publish(state("{}", topic))
    with publisher:
        listener.wait_for(lambda: len(listener.received) == 4)
    assert [message.topic for message in listener.received[:4]] == [STATUS, INFO, DISCOVERY, STATE]
    assert listener.received[0].payload == "online"
    assert all(message.retain for message in listener.received)


def test_a_clean_stop_publishes_offline_once(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """After a clean disconnect the device is offline at once, and no last will follows."""
    with make_publisher(settings(broker.port)):
        listener.wait_for(lambda: listener.on(STATUS))
    listener.publish("the/end", "")
    listener.wait_for(lambda: listener.on("the/end"))
    assert payloads(listener, STATUS) == ["online", "offline"]
    assert "Received DISCONNECT from edge-test" in broker.log


def test_messages_published_just_before_the_stop_arrive(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """The last events and states of a stopping agent reach the subscriber before its `offline`."""
    with make_publisher(settings(broker.port), stop_timeout_s=PATIENCE_S) as publisher:
        wait_until(lambda: publisher.stats.connected)
        for number in range(1, 101):
            publisher.publish(event(number))
        publisher.publish(state("nobody"))
    listener.wait_for(lambda: len(listener.on(STATUS)) == 2)
    assert numbers(listener) == list(range(1, 101))
    assert payloads(listener, STATE)[-1] == "nobody"
    assert listener.received[-1].payload == "offline"


def test_messages_have_mqtt_5_properties(broker: Mosquitto, listener: Listener, make_publisher: MakePublisher) -> None:
    """Subscribers can read content type, schema, session and expiry without parsing the payload."""
    with make_publisher(settings(broker.port)) as publisher:
        publisher.publish(state("{}"))
        publisher.publish(event(1))
        listener.wait_for(lambda: listener.on(STATE) and listener.on(EVENT))
    birth, state_message, event_message = (listener.on(topic)[0] for topic in (STATUS, STATE, EVENT))
    assert birth.properties["ContentType"] == "text/plain"
    assert birth.properties["UserProperty"] == [("session", "7"), ("client", fingerprint("edge-test"))]
    assert 0 < state_message.properties["MessageExpiryInterval"] <= 60
    assert event_message.properties["ContentType"] == "application/json"
    assert event_message.properties["UserProperty"] == [("schema", "emotion.event/1")]
    assert (event_message.qos, event_message.retain) == (1, False)


def test_only_the_newest_state_is_sent(broker: Mosquitto, listener: Listener, make_publisher: MakePublisher) -> None:
    """Of the states that changed while the broker was unreachable, only the last one is sent."""
    publisher = make_publisher(settings(broker.port))
    for text in ("happy", "sad", "neutral"):
        publisher.publish(state(text))
    with publisher:
        listener.wait_for(lambda: listener.on(STATE))
    assert payloads(listener, STATE) == ["neutral"]


def test_an_expired_state_is_not_sent_again(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """A state from before a long outage does not appear current after it."""
    publisher = make_publisher(settings(broker.port))
    publisher.publish(replace(state("happy"), expiry_s=0))
    publisher.publish(state("{}", INFO))
    with publisher:
        listener.wait_for(lambda: listener.on(INFO))
    assert payloads(listener, STATE) == []


def test_everything_is_restored_after_a_restart_of_the_broker(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """A broker without persistence receives status and states again, and every event of the outage in order."""
    with Relay(broker.port) as relay, make_publisher(settings(relay.port)) as publisher:
        wait_until(lambda: publisher.stats.connected)
        publisher.publish(state("happy"))
        publisher.publish(event(1))
        listener.wait_for(lambda: listener.on(EVENT) and listener.on(STATE))
        wait_until(lambda: publisher.stats.queue_depth == 0)
        relay.close()
        broker.kill()
        wait_until(lambda: not publisher.stats.connected)
        for number in range(2, 60):
            publisher.publish(event(number))
        broker.start_again(listener)
        relay.open()
        listener.wait_for(lambda: len(listener.on(EVENT)) == 59)
        wait_until(lambda: publisher.stats.queue_depth == 0)
        publisher.publish(event(60))
        listener.wait_for(lambda: len(listener.on(EVENT)) == 60)
    listener.wait_for(lambda: len(listener.on(STATUS)) == 3)
    assert numbers(listener) == list(range(1, 61))
    assert historical(listener) == list(range(2, 60))
    assert payloads(listener, STATUS) == ["online", "online", "offline"]
    assert payloads(listener, STATE) == ["happy", "happy"]


def test_events_added_while_a_backlog_is_sent_are_historical(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """They may arrive minutes late, so automations must be able to ignore them."""

    def publish_when_the_first_is_sent(packet: bytes) -> bytes | None:
        if b"/event" in packet and not published:
            published.append(True)
            publisher.publish(event(61))
        return None

    published: list[bool] = []
    with Relay(broker.port, intercept=publish_when_the_first_is_sent) as relay:
        publisher = make_publisher(settings(relay.port))
        for number in range(1, 61):
            publisher.publish(event(number))
        with publisher:
            listener.wait_for(lambda: len(listener.on(EVENT)) == 61)
            wait_until(lambda: publisher.stats.queue_depth == 0)
            publisher.publish(event(62))
            listener.wait_for(lambda: len(listener.on(EVENT)) == 62)
    assert numbers(listener) == list(range(1, 63))
    assert historical(listener) == list(range(1, 62))


def test_events_survive_a_broken_network(broker: Mosquitto, listener: Listener, make_publisher: MakePublisher) -> None:
    """However often the connection breaks, every event arrives, in order apart from duplicates."""
    with Relay(broker.port) as relay, make_publisher(settings(relay.port)) as publisher:
        for number in range(1, 301):
            publisher.publish(event(number))
            if number % 60 == 0:
                listener.wait_for(lambda expected=number - 30: expected in numbers(listener))  # type: ignore[misc]
                relay.drop_connections()
        listener.wait_for(lambda: 300 in numbers(listener))
    assert list(dict.fromkeys(numbers(listener))) == list(range(1, 301))


def test_a_short_interruption_is_not_reported_as_offline(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """If a device reconnects within seconds, its last will is not published."""
    with Relay(broker.port) as relay, make_publisher(settings(relay.port)) as publisher:
        listener.wait_for(lambda: listener.on(STATUS))
        relay.drop_connections()
        listener.wait_for(lambda: len(listener.on(STATUS)) == 2)
        assert publisher.stats.reconnects == 1
    listener.wait_for(lambda: len(listener.on(STATUS)) == 3)
    assert payloads(listener, STATUS) == ["online", "online", "offline"]


def test_broken_connections_leak_nothing(broker: Mosquitto, make_publisher: MakePublisher) -> None:
    """After many broken connections the agent has no more open files and threads than after the first."""
    files = Path("/proc/self/fd")
    if not files.is_dir():
        pytest.skip("open files can be counted on Linux only")
    with Relay(broker.port) as relay, make_publisher(settings(relay.port)) as publisher:
        wait_until(lambda: publisher.stats.connected)
        max_files, max_threads = len(list(files.iterdir())), threading.active_count()
        for number in range(1, 12):
            relay.drop_connections()
            wait_until(lambda number=number: publisher.stats.connected and publisher.stats.reconnects == number)  # type: ignore[misc]
        wait_until(lambda: len(list(files.iterdir())) <= max_files)
        wait_until(lambda: threading.active_count() <= max_threads)


def test_a_late_will_is_corrected(broker: Mosquitto, listener: Listener, make_publisher: MakePublisher) -> None:
    """If the will of an earlier connection arrives late, the device publishes that it is online again."""
    with make_publisher(settings(broker.port)):
        listener.wait_for(lambda: listener.on(STATUS))
        listener.publish(STATUS, "offline", retain=True)
        listener.wait_for(lambda: len(listener.on(STATUS)) == 3)
        assert payloads(listener, STATUS) == ["online", "offline", "online"]


def test_two_devices_with_the_same_name_are_logged(
    broker: Mosquitto, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """Another device of this name, such as one with a copied SD card, is logged once."""
    own_settings = settings(broker.port)
    with make_publisher(own_settings) as first:
        wait_until(lambda: first.stats.connected)
        for _ in range(2):
            with make_publisher(replace(own_settings, client_id="edge-other")) as second:
                wait_until(lambda second=second: second.stats.connected)  # type: ignore[misc]
                wait_until(lambda: "another device is also named hall" in caplog.text)
    assert caplog.text.count(f"(client {fingerprint('edge-other')}, {fingerprint('edge-test')} here)") == 1


def test_the_will_of_a_former_client_id_is_not_another_device(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that lost its state and restarted within the keep alive receives its own will, and corrects it."""
    with make_publisher(settings(broker.port)):
        listener.wait_for(lambda: listener.on(STATUS))
        listener.publish(STATUS, "offline", retain=True, user_properties=[("client", "former")])
        listener.wait_for(lambda: payloads(listener, STATUS) == ["online", "offline", "online"])
    assert "another device" not in caplog.text


def test_topics_cleared_by_another_device_are_published_again(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """When the former owner of this device's name clears the topics, this device publishes everything again."""
    with make_publisher(settings(broker.port)) as publisher:
        for topic in (INFO, DISCOVERY, STATE):
            publisher.publish(state("{}", topic))
        listener.wait_for(lambda: listener.on(STATE))
        for topic in (DISCOVERY, STATE, INFO, STATUS):
            listener.publish(topic, "", retain=True)
        listener.wait_for(lambda: all(listener.on(t)[-1].payload for t in (STATUS, INFO, DISCOVERY, STATE)))
    with Listener(broker.port) as subscriber:
        subscriber.wait_for(lambda: {INFO, DISCOVERY, STATE} <= {message.topic for message in subscriber.received})


def test_a_topic_is_cleared_once(broker: Mosquitto, listener: Listener, make_publisher: MakePublisher) -> None:
    """After the acknowledgement it is not cleared again, as it may belong to another device by then."""
    delivered: list[str] = []
    with Relay(broker.port) as relay, make_publisher(settings(relay.port), on_delivered=delivered.append) as publisher:
        publisher.publish(clearing_message("emotion/old/status"))
        publisher.publish(state("{}", INFO))
        wait_until(lambda: "emotion/old/status" in delivered)
        listener.publish("emotion/old/status", "online", retain=True)
        relay.drop_connections()
        listener.wait_for(lambda: len(listener.on(INFO)) == 2)
    assert payloads(listener, "emotion/old/status") == ["", "online"]


def test_clearing_a_forbidden_topic_is_logged_and_given_up(
    start_broker: StartBroker,
    make_publisher: MakePublisher,
    password_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A renamed device without its former permissions logs how to clear the topics, and does not retry forever."""
    acl, delivered = tmp_path / "acl", list[str]()
    acl.touch(mode=0o600)
    acl.write_text("user camera\ntopic readwrite emotion/hall/#\n")
    broker = start_broker(["allow_anonymous false", f"password_file {password_file}", f"acl_file {acl}"])
    login = replace(settings(broker.port), username="camera", password="right")  # noqa: S106
    with make_publisher(login, on_delivered=delivered.append) as publisher:
        publisher.publish(clearing_message("emotion/old/status"))
        wait_until(lambda: "emotion/old/status" in delivered)
        assert publisher.stats.rejected == 0
    assert "mosquitto_sub -t 'emotion/old/status' --retained-only --remove-retained" in caplog.text


def test_an_invalid_topic_name_counts_as_forbidden(
    broker: Mosquitto, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """Ejabberd rejects topics without permission with this reason code."""
    delivered = list[str]()
    reject = partial(puback, topic_suffix="emotion/old/status", reason=0x90)
    with (
        Relay(broker.port, intercept=reject) as relay,
        make_publisher(settings(relay.port), on_delivered=delivered.append) as publisher,
    ):
        publisher.publish(clearing_message("emotion/old/status"))
        wait_until(lambda: "emotion/old/status" in delivered)
        assert publisher.stats.rejected == 0
    assert "mosquitto_sub -t 'emotion/old/status' --retained-only --remove-retained" in caplog.text


def test_everything_is_published_again_when_home_assistant_starts(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """On its birth message, the device publishes information, discovery, status and states again."""
    with make_publisher(settings(broker.port), home_assistant_status=HOME_ASSISTANT) as publisher:
        for topic in (INFO, DISCOVERY, STATE):
            publisher.publish(state("{}", topic))
        listener.wait_for(lambda: listener.on(STATE))
        listener.publish(HOME_ASSISTANT, "online")
        listener.wait_for(lambda: len(listener.on(STATE)) == 2)
    listener.wait_for(lambda: len(listener.on(STATUS)) == 3)
    for topic in (INFO, DISCOVERY, STATE):
        assert len(listener.on(topic)) == 2
    assert payloads(listener, STATUS) == ["online", "online", "offline"]


def abandon(publisher: MqttPublisher) -> threading.Thread:
    """Stops a publisher that hangs, and returns the thread that is abandoned."""
    publisher.__exit__()
    [thread] = [thread for thread in threading.enumerate() if thread.name == "mqtt"]
    return thread


def test_an_abandoned_publisher_does_not_disconnect_its_successor(
    broker: Mosquitto, make_publisher: MakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When DNS responds only after a reload, the old publisher does not connect with the new one's client id."""
    requested, may_respond = threading.Event(), threading.Event()
    resolve = socket.getaddrinfo

    def resolve_late(*arguments: Any, **keywords: Any) -> Any:
        requested.set()
        assert may_respond.wait(PATIENCE_S)
        return resolve(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve_late)
        old = make_publisher(settings(broker.port), stop_timeout_s=-1).__enter__()
        assert requested.wait(PATIENCE_S)
        abandoned = abandon(old)
    with make_publisher(settings(broker.port)) as new:
        wait_until(lambda: new.stats.connected)
        may_respond.set()
        abandoned.join(PATIENCE_S)
        assert not abandoned.is_alive()
    assert new.stats.reconnects == 0
    assert broker.log.count("as edge-test") == 1


def test_an_abandoned_publisher_sends_nothing_more(make_publisher: MakePublisher) -> None:
    """When the broker accepts the connection only after a reload, no status and no subscriptions are sent."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        publisher = make_publisher(settings(server.getsockname()[1]), stop_timeout_s=-1).__enter__()
        with closing(server.accept()[0]) as link:
            assert b"edge-test" in link.recv(4096)
            abandoned = abandon(publisher)
            link.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK
            abandoned.join(PATIENCE_S)
            assert link.recv(4096) == b""


def test_a_publisher_abandoned_during_a_command_does_nothing_more(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """It processes no more acknowledgements, and does not publish the offline status of the device."""
    started, released = threading.Event(), threading.Event()
    delivered: list[str] = []

    def hang(_request: CommandRequest) -> None:
        started.set()
        assert released.wait(PATIENCE_S)

    publisher = make_publisher(
        settings(broker.port), commands={"hang": hang}, on_delivered=delivered.append, stop_timeout_s=-1
    ).__enter__()
    wait_until(lambda: STATUS in delivered)
    listener.publish("emotion/hall/cmd/hang", '{"id": 1}')
    assert started.wait(PATIENCE_S)
    abandoned = abandon(publisher)
    released.set()
    abandoned.join(PATIENCE_S)
    listener.publish("the/end", "")
    listener.wait_for(lambda: listener.on("the/end"))
    assert payloads(listener, STATUS) == ["online"]
    assert delivered == [STATUS]


def test_a_publisher_abandoned_during_an_acknowledgement_processes_no_others(
    broker: Mosquitto, make_publisher: MakePublisher, outbox: Outbox
) -> None:
    """Of four events that the broker acknowledges at once, it processes only the one at which it hung."""
    started, released = threading.Event(), threading.Event()
    acknowledgements: list[bytes] = []
    delivered: list[str] = []

    def acknowledge_four_at_once(packet: bytes) -> bytes | None:
        acknowledgement = puback(packet, reason=0)
        if acknowledgement is None:
            return None
        acknowledgements.append(acknowledgement)
        return b"".join(acknowledgements) if len(acknowledgements) == 4 else b"\xd0\x00"  # PINGRESP

    def hang(topic: str) -> None:
        delivered.append(topic)
        if topic == EVENT:
            started.set()
            assert released.wait(PATIENCE_S)

    for number in range(4):
        outbox.put(event(number))
    with Relay(broker.port, intercept=acknowledge_four_at_once) as relay:
        publisher = make_publisher(settings(relay.port), on_delivered=hang, stop_timeout_s=-1).__enter__()
        assert started.wait(PATIENCE_S)
        abandoned = abandon(publisher)
        released.set()
        abandoned.join(PATIENCE_S)
    assert delivered.index(EVENT) == len(delivered) - 1
    assert outbox.depth == 3


def test_the_publisher_starts_without_a_broker_and_connects_later(
    tmp_path: Path, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """The missing broker is logged once, and the publisher connects when it is up."""
    with ExitStack() as stack:
        broker = Mosquitto(tmp_path)
        stack.callback(broker.kill)
        publisher = stack.enter_context(make_publisher(settings(broker.port)))
        publisher.publish(event(1))
        wait_until(lambda: publisher.stats.last_error)
        assert "nothing listens on that port" in str(publisher.stats.last_error)
        broker.start()
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert publisher.stats.connected
    assert sum("no MQTT connection" in record.message for record in caplog.records) == 1


def test_an_old_broker_is_used_with_mqtt_3_1_1(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """Birth, states, events and the clean disconnect work with a broker without MQTT 5."""
    with Relay(broker.port, mqtt5_reply=NO_MQTT5) as relay, make_publisher(settings(relay.port)) as publisher:
        publisher.publish(state("happy"))
        publisher.publish(event(1))
        listener.wait_for(lambda: listener.on(EVENT))
        assert publisher.stats.protocol == "MQTT 3.1.1"
        assert payloads(listener, STATUS) == ["online"]
    listener.wait_for(lambda: payloads(listener, STATUS)[-1] == "offline")


@pytest.fixture
def dropping_mqtt5(broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """A relay that drops MQTT 5 connections; the publisher soon retries MQTT 5 for the first time."""
    monkeypatch.setattr(mqtt5_probe, "_FIRST_DELAY_S", 0.1)
    with Relay(broker.port, mqtt5_reply=b"") as relay:
        yield relay


def test_mqtt_5_is_retried(dropping_mqtt5: Relay, listener: Listener, make_publisher: MakePublisher) -> None:
    """If a broker drops MQTT 5 connections while it starts, MQTT 5 is used later; the switch publishes no will."""
    with make_publisher(settings(dropping_mqtt5.port)) as publisher:
        wait_until(lambda: publisher.stats.protocol == "MQTT 3.1.1")
        dropping_mqtt5.mqtt5_reply = None
        wait_until(lambda: publisher.stats.protocol == "MQTT 5")
        publisher.publish(event(1))
        listener.wait_for(lambda: listener.on(EVENT))
    assert set(payloads(listener, STATUS)[:-1]) == {"online"}


def test_retrying_mqtt_5_keeps_the_connection(
    dropping_mqtt5: Relay, broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """With a broker that always drops MQTT 5 connections, the working connection is kept."""
    with make_publisher(settings(dropping_mqtt5.port)) as publisher:
        wait_until(lambda: dropping_mqtt5.mqtt5_attempts >= 4)
        publisher.publish(event(1))
        listener.wait_for(lambda: listener.on(EVENT))
        assert publisher.stats.reconnects == 0
    assert broker.log.count("as edge-test") == 1


def test_a_broker_that_ignores_mqtt_5_causes_only_one_timeout(
    broker: Mosquitto, make_publisher: MakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reconnects use MQTT 3.1.1 at once; MQTT 5 is retried in the background, and used once it works."""
    monkeypatch.setattr(publish, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(mqtt5_probe, "_FIRST_DELAY_S", 4.0)
    with Relay(broker.port) as relay:
        relay.ignores_mqtt5 = True
        with make_publisher(settings(relay.port)) as publisher:
            wait_until(lambda: publisher.stats.protocol == "MQTT 3.1.1")
            relay.drop_connections()
            wait_until(lambda: publisher.stats.connected and publisher.stats.reconnects == 1)
            assert (publisher.stats.protocol, relay.mqtt5_attempts) == ("MQTT 3.1.1", 1)
            wait_until(lambda: relay.mqtt5_attempts == 2)
            relay.ignores_mqtt5 = False
            wait_until(lambda: publisher.stats.protocol == "MQTT 5")
            assert publisher.stats.reconnects == 2


def test_a_stop_does_not_wait_for_the_mqtt_5_probe(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent disconnects cleanly while a probe is running, so no will is published."""
    monkeypatch.setattr(mqtt5_probe, "_FIRST_DELAY_S", 0.1)
    with Relay(broker.port, mqtt5_reply=b"") as relay:
        with make_publisher(settings(relay.port)) as publisher:
            wait_until(lambda: publisher.stats.protocol == "MQTT 3.1.1")
            relay.ignores_mqtt5 = True
            attempts = relay.mqtt5_attempts
            wait_until(lambda: relay.mqtt5_attempts > attempts)
        listener.wait_for(lambda: payloads(listener, STATUS)[-1] == "offline")
    assert "edge-test disconnected" in broker.log


@pytest.mark.parametrize(("reply", "provisional"), [(b"", True), (b"\x20\x02\x00\x01", False)])
def test_only_an_explicit_refusal_of_mqtt_5_is_final(broker: Mosquitto, reply: bytes, *, provisional: bool) -> None:
    """If the broker drops the connection instead, MQTT 5 is retried later."""
    with (
        Relay(broker.port, mqtt5_reply=reply) as relay,
        connect(settings(relay.port), timeout_s=PATIENCE_S) as connection,
    ):
        assert (connection.protocol, connection.provisional) == ("MQTT 3.1.1", provisional)


def test_a_full_outbox_keeps_the_newest(tmp_path: Path, make_publisher: MakePublisher) -> None:
    """If an outage lasts too long for the outbox's capacity, the oldest events are dropped and counted."""
    with (
        Outbox(folder=tmp_path / "small", capacity=10) as small,
        make_publisher(settings(1), outbox=small) as publisher,
    ):
        for number in range(1, 31):
            publisher.publish(event(number))
        assert (publisher.stats.queue_depth, publisher.stats.dropped) == (10, 20)


@contextmanager
def publisher_process(broker: Mosquitto, folder: Path, first: int, last: int) -> Iterator[subprocess.Popen[str]]:
    """Runs a publisher in a separate process, which is stopped cleanly unless it was killed."""
    command: list[str | Path] = [sys.executable, CHILD, str(broker.port), str(folder), str(first), str(last)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(PATIENCE_S)


def test_a_killed_agent_is_reported_by_its_last_will(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """When the agent is killed, the broker publishes `offline` for it."""
    with publisher_process(broker, tmp_path / "child", 1, 1) as process:
        listener.wait_for(lambda: listener.on(EVENT))
        process.kill()
        listener.wait_for(lambda: len(listener.on(STATUS)) == 2)
    assert payloads(listener, STATUS) == ["online", "offline"]


def test_a_killed_agent_loses_no_event(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """If an agent is killed (SIGKILL) while publishing, the next run delivers every event that it had stored."""
    with publisher_process(broker, tmp_path / "child", 1, 10_000) as process:
        assert process.stdout is not None
        listener.wait_for(lambda: len(listener.on(EVENT)) > 100)
        process.kill()
        last = int(process.stdout.read().split()[-1])
    with publisher_process(broker, tmp_path / "child", last + 2, last + 2):
        listener.wait_for(lambda: last + 2 in numbers(listener))
    arrived = list(dict.fromkeys(numbers(listener)))
    assert set(range(1, last + 1)) <= set(arrived)
    assert arrived == sorted(arrived)
