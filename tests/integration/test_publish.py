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
from edge.mqtt import BrokerSettings, mqtt5_trial
from edge.mqtt.dial import connect
from edge.outbox import Outbox
from edge.payloads import CommandRequest
from edge.publish import MqttPublisher
from tests.integration.conftest import Build, StartBroker
from tests.mosquitto import PATIENCE_S, Listener, Mosquitto, wait_until
from tests.network import NO_MQTT5, Relay, acknowledge

STATUS = "emotion/hall/status"
INFO = "emotion/hall/info"
EVENT = "emotion/hall/door/event"
STATE = "emotion/hall/door/emotion"
DISCOVERY = "homeassistant/device/hall/config"
HOME_ASSISTANT = "homeassistant/status"
CHILD = Path(__file__).with_name("publishing_child.py")


def settings(port: int) -> BrokerSettings:
    """How to reach a broker on this machine."""
    return BrokerSettings(host="127.0.0.1", port=port, client_id="edge-test")


def event(number: int) -> Message:
    """A durable message with a number."""
    payload = json.dumps({"seq": number, "historical": False}).encode()
    return Message(EVENT, payload, qos=1, durable=True, user_properties=(("schema", "emotion.event/1"),))


def state(text: str, topic: str = STATE) -> Message:
    """A retained message of which only the newest counts."""
    return Message(topic, text.encode(), retain=True, expiry_s=60)


def payloads(listener: Listener, topic: str) -> list[str]:
    """What was heard on a topic."""
    return [message.payload for message in listener.on(topic)]


def numbers(listener: Listener) -> list[int]:
    """The numbers of the events that arrived."""
    return [json.loads(payload)["seq"] for payload in payloads(listener, EVENT)]


def historical(listener: Listener) -> list[int]:
    """The numbers of those that are marked as historical."""
    events = map(json.loads, payloads(listener, EVENT))
    return [event["seq"] for event in events if event["historical"]]


def test_birth_then_info_then_discovery_then_states(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """A subscriber learns that the device is there, what it is, and how things stand, in this order."""
    publisher = build(settings(broker.port))
    for topic in (STATE, DISCOVERY, INFO):
        publisher.publish(state("{}", topic))
    with publisher:
        listener.wait_for(lambda: len(listener.heard) == 4)
    assert [message.topic for message in listener.heard[:4]] == [STATUS, INFO, DISCOVERY, STATE]
    assert listener.heard[0].payload == "online"
    assert all(message.retain for message in listener.heard)


def test_a_clean_stop_says_offline_once(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """After a clean stop the device is offline at once, and no last will follows."""
    with build(settings(broker.port)):
        listener.wait_for(lambda: listener.on(STATUS))
    listener.publish("the/end", "")
    listener.wait_for(lambda: listener.on("the/end"))
    assert payloads(listener, STATUS) == ["online", "offline"]
    assert "Received DISCONNECT from edge-test" in broker.log


def test_what_was_published_just_before_the_stop_arrives(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """The last events and states of a stopping agent reach the subscriber before its `offline`."""
    with build(settings(broker.port), stop_timeout_s=PATIENCE_S) as publisher:
        wait_until(lambda: publisher.stats.connected)
        for number in range(1, 101):
            publisher.publish(event(number))
        publisher.publish(state("nobody"))
    listener.wait_for(lambda: len(listener.on(STATUS)) == 2)
    assert numbers(listener) == list(range(1, 101))
    assert payloads(listener, STATE)[-1] == "nobody"
    assert listener.heard[-1].payload == "offline"


def test_the_messages_are_dressed_for_mqtt5(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """An ingester reads content type, schema, session and expiry without opening the payload."""
    with build(settings(broker.port)) as publisher:
        publisher.publish(state("{}"))
        publisher.publish(event(1))
        listener.wait_for(lambda: listener.on(STATE) and listener.on(EVENT))
    birth, standing, incident = (listener.on(topic)[0] for topic in (STATUS, STATE, EVENT))
    assert birth.properties["ContentType"] == "text/plain"
    assert birth.properties["UserProperty"] == [("session", "7"), ("client", fingerprint("edge-test"))]
    assert 0 < standing.properties["MessageExpiryInterval"] <= 60
    assert incident.properties["ContentType"] == "application/json"
    assert incident.properties["UserProperty"] == [("schema", "emotion.event/1")]
    assert (incident.qos, incident.retain) == (1, False)


def test_of_a_state_only_the_newest_counts(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """States that changed while the broker was away are not played back: only the last one arrives."""
    publisher = build(settings(broker.port))
    for text in ("happy", "sad", "neutral"):
        publisher.publish(state(text))
    with publisher:
        listener.wait_for(lambda: listener.on(STATE))
    assert payloads(listener, STATE) == ["neutral"]


def test_an_expired_state_is_not_said_again(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """What was true before a long outage does not look fresh after it."""
    publisher = build(settings(broker.port))
    publisher.publish(replace(state("happy"), expiry_s=0))
    publisher.publish(state("{}", INFO))
    with publisher:
        listener.wait_for(lambda: listener.on(INFO))
    assert payloads(listener, STATE) == []


def test_after_a_restart_of_the_broker_all_is_as_before(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """A broker that forgot everything gets status and states again, and every event of the outage in order."""
    with Relay(broker.port) as relay, build(settings(relay.port)) as publisher:
        wait_until(lambda: publisher.stats.connected)
        publisher.publish(state("happy"))
        publisher.publish(event(1))
        listener.wait_for(lambda: listener.on(EVENT) and listener.on(STATE))
        wait_until(lambda: publisher.stats.queue_depth == 0)
        relay.shut()
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


def test_what_comes_while_a_backlog_is_sent_has_waited_too(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """An automation that leaves out what is late does not start minutes after the smile."""

    def smile_when_the_first_passes(packet: bytes) -> bytes | None:
        if b"/event" in packet and not smiled:
            smiled.append(True)
            publisher.publish(event(61))
        return None

    smiled: list[bool] = []
    with Relay(broker.port, answer=smile_when_the_first_passes) as relay:
        publisher = build(settings(relay.port))
        for number in range(1, 61):
            publisher.publish(event(number))
        with publisher:
            listener.wait_for(lambda: len(listener.on(EVENT)) == 61)
            wait_until(lambda: publisher.stats.queue_depth == 0)
            publisher.publish(event(62))
            listener.wait_for(lambda: len(listener.on(EVENT)) == 62)
    assert numbers(listener) == list(range(1, 63))
    assert historical(listener) == list(range(1, 62))


def test_events_survive_a_broken_network(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """However often the connection breaks, every event arrives, and first arrivals are in order."""
    with Relay(broker.port) as relay, build(settings(relay.port)) as publisher:
        for number in range(1, 301):
            publisher.publish(event(number))
            if number % 60 == 0:
                listener.wait_for(lambda least=number - 30: least in numbers(listener))  # type: ignore[misc]
                relay.cut()
        listener.wait_for(lambda: 300 in numbers(listener))
    assert list(dict.fromkeys(numbers(listener))) == list(range(1, 301))


def test_a_short_break_does_not_flap(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """A connection that breaks and comes back within seconds is never reported as offline."""
    with Relay(broker.port) as relay, build(settings(relay.port)) as publisher:
        listener.wait_for(lambda: listener.on(STATUS))
        relay.cut()
        listener.wait_for(lambda: len(listener.on(STATUS)) == 2)
        assert publisher.stats.reconnects == 1
    listener.wait_for(lambda: len(listener.on(STATUS)) == 3)
    assert payloads(listener, STATUS) == ["online", "online", "offline"]


def test_broken_connections_leave_nothing_open(broker: Mosquitto, build: Build) -> None:
    """After many broken connections the agent has no more open files and threads than after the first."""
    files = Path("/proc/self/fd")
    if not files.is_dir():
        pytest.skip("open files are counted on Linux only")
    with Relay(broker.port) as relay, build(settings(relay.port)) as publisher:
        wait_until(lambda: publisher.stats.connected)
        most_files, most_threads = len(list(files.iterdir())), threading.active_count()
        for number in range(1, 12):
            relay.cut()
            wait_until(lambda number=number: publisher.stats.connected and publisher.stats.reconnects == number)  # type: ignore[misc]
        wait_until(lambda: len(list(files.iterdir())) <= most_files)
        wait_until(lambda: threading.active_count() <= most_threads)


def test_a_late_will_is_corrected(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """If the will of an earlier connection arrives late, the device does not stay offline."""
    with build(settings(broker.port)):
        listener.wait_for(lambda: listener.on(STATUS))
        listener.publish(STATUS, "offline", retain=True)
        listener.wait_for(lambda: len(listener.on(STATUS)) == 3)
        assert payloads(listener, STATUS) == ["online", "offline", "online"]


def test_two_devices_with_one_name_are_told(broker: Mosquitto, build: Build, caplog: pytest.LogCaptureFixture) -> None:
    """Cards that were copied without another host name: the log says so once."""
    mine = settings(broker.port)
    with build(mine) as first:
        wait_until(lambda: first.stats.connected)
        for _ in range(2):
            with build(replace(mine, client_id="edge-other")) as second:
                wait_until(lambda second=second: second.stats.connected)  # type: ignore[misc]
                wait_until(lambda: "another device is called hall too" in caplog.text)
    assert caplog.text.count(f"(client {fingerprint('edge-other')}, {fingerprint('edge-test')} here)") == 1


def test_the_will_of_a_forgotten_client_id_is_no_other_device(
    broker: Mosquitto, listener: Listener, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """A device that lost its state and started anew within the keepalive hears its own end, and corrects it."""
    with build(settings(broker.port)):
        listener.wait_for(lambda: listener.on(STATUS))
        listener.publish(STATUS, "offline", retain=True, user_properties=[("client", "former")])
        listener.wait_for(lambda: payloads(listener, STATUS) == ["online", "offline", "online"])
    assert "another device" not in caplog.text


def test_a_device_that_takes_over_a_name_is_not_wiped_out(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """When the device that had this name before clears its topics late, this one says everything again."""
    with build(settings(broker.port)) as publisher:
        for topic in (INFO, DISCOVERY, STATE):
            publisher.publish(state("{}", topic))
        listener.wait_for(lambda: listener.on(STATE))
        for topic in (DISCOVERY, STATE, INFO, STATUS):
            listener.publish(topic, "", retain=True)
        listener.wait_for(lambda: all(listener.on(t)[-1].payload for t in (STATUS, INFO, DISCOVERY, STATE)))
    with Listener(broker.port) as newcomer:
        newcomer.wait_for(lambda: {INFO, DISCOVERY, STATE} <= {message.topic for message in newcomer.heard})


def test_what_is_cleared_is_cleared_once(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """After the broker has acknowledged it, whoever has the topic now is left in peace."""
    delivered: list[str] = []
    with Relay(broker.port) as relay, build(settings(relay.port), on_delivered=delivered.append) as publisher:
        publisher.publish(clearing_message("emotion/old/status"))
        publisher.publish(state("{}", INFO))
        wait_until(lambda: "emotion/old/status" in delivered)
        listener.publish("emotion/old/status", "online", retain=True)
        relay.cut()
        listener.wait_for(lambda: len(listener.on(INFO)) == 2)
    assert payloads(listener, "emotion/old/status") == ["", "online"]


def test_what_may_not_be_cleared_is_told_and_left(
    start_broker: StartBroker, build: Build, password_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A renamed device without its former rights says who can clear its topics, and does not try for ever."""
    acl, delivered = tmp_path / "acl", list[str]()
    acl.touch(mode=0o600)
    acl.write_text("user camera\ntopic readwrite emotion/hall/#\n")
    broker = start_broker(["allow_anonymous false", f"password_file {password_file}", f"acl_file {acl}"])
    login = replace(settings(broker.port), username="camera", password="right")  # noqa: S106
    with build(login, on_delivered=delivered.append) as publisher:
        publisher.publish(clearing_message("emotion/old/status"))
        wait_until(lambda: "emotion/old/status" in delivered)
        assert publisher.stats.rejected == 0
    assert "mosquitto_sub -t 'emotion/old/status' --retained-only --remove-retained" in caplog.text


def test_a_topic_that_the_broker_calls_invalid_is_left_like_any_that_is_forbidden(
    broker: Mosquitto, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """With ejabberd that is whatever the device has no right to."""
    delivered = list[str]()
    refuse = partial(acknowledge, topic_end="emotion/old/status", reason=0x90)
    with Relay(broker.port, answer=refuse) as relay, build(settings(relay.port), on_delivered=delivered.append) as it:
        it.publish(clearing_message("emotion/old/status"))
        wait_until(lambda: "emotion/old/status" in delivered)
        assert it.stats.rejected == 0
    assert "mosquitto_sub -t 'emotion/old/status' --retained-only --remove-retained" in caplog.text


def test_home_assistant_is_told_everything_again(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """When Home Assistant starts, the device announces itself, its availability and its states anew."""
    with build(settings(broker.port), home_assistant_status=HOME_ASSISTANT) as publisher:
        for topic in (INFO, DISCOVERY, STATE):
            publisher.publish(state("{}", topic))
        listener.wait_for(lambda: listener.on(STATE))
        listener.publish(HOME_ASSISTANT, "online")
        listener.wait_for(lambda: len(listener.on(STATE)) == 2)
    listener.wait_for(lambda: len(listener.on(STATUS)) == 3)
    for topic in (INFO, DISCOVERY, STATE):
        assert len(listener.on(topic)) == 2
    assert payloads(listener, STATUS) == ["online", "online", "offline"]


def let_go(publisher: MqttPublisher) -> threading.Thread:
    """Stops a publisher that hangs. Returns its thread, which was left behind."""
    publisher.__exit__()
    [thread] = [thread for thread in threading.enumerate() if thread.name == "mqtt"]
    return thread


def test_a_publisher_that_was_left_behind_does_not_push_its_successor_off(
    broker: Mosquitto, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers after a reload has ended brings no old agent back, under the new one's client id."""
    asked, answered = threading.Event(), threading.Event()
    resolve = socket.getaddrinfo

    def resolve_late(*arguments: Any, **more: Any) -> Any:
        asked.set()
        assert answered.wait(PATIENCE_S)
        return resolve(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve_late)
        old = build(settings(broker.port), stop_timeout_s=-1).__enter__()
        assert asked.wait(PATIENCE_S)
        left_behind = let_go(old)
    with build(settings(broker.port)) as new:
        wait_until(lambda: new.stats.connected)
        answered.set()
        left_behind.join(PATIENCE_S)
        assert not left_behind.is_alive()
    assert new.stats.reconnects == 0
    assert broker.log.count("as edge-test") == 1


def test_a_publisher_that_was_left_behind_says_nothing_more(build: Build) -> None:
    """A broker that lets it in after a reload has ended hears neither its status nor its subscriptions."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        publisher = build(settings(server.getsockname()[1]), stop_timeout_s=-1).__enter__()
        with closing(server.accept()[0]) as link:
            assert b"edge-test" in link.recv(4096)
            left_behind = let_go(publisher)
            link.sendall(b"\x20\x03\x00\x00\x00")  # welcome
            left_behind.join(PATIENCE_S)
            assert link.recv(4096) == b""


def test_a_publisher_that_was_left_behind_at_a_command_leaves_all_to_its_successor(
    broker: Mosquitto, listener: Listener, build: Build
) -> None:
    """It settles nothing more, and does not say goodbye for the device."""
    begun, done = threading.Event(), threading.Event()
    delivered: list[str] = []

    def hang(_request: CommandRequest) -> None:
        begun.set()
        assert done.wait(PATIENCE_S)

    publisher = build(
        settings(broker.port), commands={"hang": hang}, on_delivered=delivered.append, stop_timeout_s=-1
    ).__enter__()
    wait_until(lambda: STATUS in delivered)
    listener.publish("emotion/hall/cmd/hang", '{"id": 1}')
    assert begun.wait(PATIENCE_S)
    left_behind = let_go(publisher)
    done.set()
    left_behind.join(PATIENCE_S)
    listener.publish("the/end", "")
    listener.wait_for(lambda: listener.on("the/end"))
    assert payloads(listener, STATUS) == ["online"]
    assert delivered == [STATUS]


def test_a_publisher_that_was_left_behind_at_the_disk_leaves_all_to_its_successor(
    broker: Mosquitto, build: Build, outbox: Outbox
) -> None:
    """Of four events that the broker acknowledges at once, it settles only the one at which it hung."""
    begun, done = threading.Event(), threading.Event()
    acknowledgements: list[bytes] = []
    delivered: list[str] = []

    def acknowledge_four_at_once(packet: bytes) -> bytes | None:
        acknowledgement = acknowledge(packet, reason=0)
        if acknowledgement is None:
            return None
        acknowledgements.append(acknowledgement)
        return b"".join(acknowledgements) if len(acknowledgements) == 4 else b"\xd0\x00"  # PINGRESP

    def hang(topic: str) -> None:
        delivered.append(topic)
        if topic == EVENT:
            begun.set()
            assert done.wait(PATIENCE_S)

    for number in range(4):
        outbox.put(event(number))
    with Relay(broker.port, answer=acknowledge_four_at_once) as relay:
        publisher = build(settings(relay.port), on_delivered=hang, stop_timeout_s=-1).__enter__()
        assert begun.wait(PATIENCE_S)
        left_behind = let_go(publisher)
        done.set()
        left_behind.join(PATIENCE_S)
    assert delivered.index(EVENT) == len(delivered) - 1
    assert outbox.depth == 3


def test_it_starts_without_a_broker_and_finds_it_later(
    tmp_path: Path, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent may run before the broker does: it says so once, and connects when the broker has come."""
    with ExitStack() as stack:
        broker = Mosquitto(tmp_path)
        stack.callback(broker.kill)
        publisher = stack.enter_context(build(settings(broker.port)))
        publisher.publish(event(1))
        wait_until(lambda: publisher.stats.last_error)
        assert "nothing listens on that port" in str(publisher.stats.last_error)
        broker.start()
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert publisher.stats.connected
    assert sum("no MQTT connection" in record.message for record in caplog.records) == 1


def test_mqtt_3_1_1_is_spoken_to_an_old_broker(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """With a broker that knows no MQTT 5, birth, states, events and goodbye work all the same."""
    with Relay(broker.port, last_word_to_mqtt5=NO_MQTT5) as relay, build(settings(relay.port)) as publisher:
        publisher.publish(state("happy"))
        publisher.publish(event(1))
        listener.wait_for(lambda: listener.on(EVENT))
        assert publisher.stats.protocol == "MQTT 3.1.1"
        assert payloads(listener, STATUS) == ["online"]
    listener.wait_for(lambda: payloads(listener, STATUS)[-1] == "offline")


@pytest.fixture
def hanging_up(broker: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """The way to a broker that hangs up at MQTT 5, which is tried again soon."""
    monkeypatch.setattr(mqtt5_trial, "_FIRST_PAUSE_S", 0.1)
    with Relay(broker.port, last_word_to_mqtt5=b"") as relay:
        yield relay


def test_mqtt_5_is_tried_again_after_a_weak_moment(hanging_up: Relay, listener: Listener, build: Build) -> None:
    """A broker that hung up while it started does not cost expiry and refusals for as long as the connection holds."""
    with build(settings(hanging_up.port)) as publisher:
        wait_until(lambda: publisher.stats.protocol == "MQTT 3.1.1")
        hanging_up.last_word_to_mqtt5 = None
        wait_until(lambda: publisher.stats.protocol == "MQTT 5")
        publisher.publish(event(1))
        listener.wait_for(lambda: listener.on(EVENT))
    assert set(payloads(listener, STATUS)[:-1]) == {"online"}


def test_trying_mqtt_5_costs_no_connection(
    hanging_up: Relay, broker: Mosquitto, listener: Listener, build: Build
) -> None:
    """A broker that hangs up at it each time keeps the connection that works."""
    with build(settings(hanging_up.port)) as publisher:
        wait_until(lambda: hanging_up.mqtt5_tried >= 4)
        publisher.publish(event(1))
        listener.wait_for(lambda: listener.on(EVENT))
        assert publisher.stats.reconnects == 0
    assert broker.log.count("as edge-test") == 1


def test_a_broker_that_is_silent_to_mqtt_5_is_not_waited_for_each_time(
    broker: Mosquitto, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is back at once after a break; it is asked again beside that, and changed over when it answers."""
    monkeypatch.setattr(publish, "CONNECT_TIMEOUT_S", 0.5)
    monkeypatch.setattr(mqtt5_trial, "_FIRST_PAUSE_S", 4.0)
    with Relay(broker.port) as relay:
        relay.silent_to_mqtt5 = True
        with build(settings(relay.port)) as publisher:
            wait_until(lambda: publisher.stats.protocol == "MQTT 3.1.1")
            relay.cut()
            wait_until(lambda: publisher.stats.connected and publisher.stats.reconnects == 1)
            assert (publisher.stats.protocol, relay.mqtt5_tried) == ("MQTT 3.1.1", 1)
            wait_until(lambda: relay.mqtt5_tried == 2)
            relay.silent_to_mqtt5 = False
            wait_until(lambda: publisher.stats.protocol == "MQTT 5")
            assert publisher.stats.reconnects == 2


def test_a_stop_does_not_wait_for_the_answer_to_mqtt_5(
    broker: Mosquitto, listener: Listener, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The goodbye is said while the broker is being asked, and it is not the will that says it."""
    monkeypatch.setattr(mqtt5_trial, "_FIRST_PAUSE_S", 0.1)
    with Relay(broker.port, last_word_to_mqtt5=b"") as relay:
        with build(settings(relay.port)) as publisher:
            wait_until(lambda: publisher.stats.protocol == "MQTT 3.1.1")
            relay.silent_to_mqtt5 = True
            tried = relay.mqtt5_tried
            wait_until(lambda: relay.mqtt5_tried > tried)
        listener.wait_for(lambda: payloads(listener, STATUS)[-1] == "offline")
    assert "edge-test disconnected" in broker.log


@pytest.mark.parametrize(("last_word", "makeshift"), [(b"", True), (b"\x20\x02\x00\x01", False)])
def test_only_a_broker_that_says_that_it_knows_no_mqtt_5_is_believed(
    broker: Mosquitto, last_word: bytes, *, makeshift: bool
) -> None:
    """One that hangs up instead is to be asked again before long."""
    with (
        Relay(broker.port, last_word_to_mqtt5=last_word) as relay,
        connect(settings(relay.port), timeout_s=PATIENCE_S) as connection,
    ):
        assert (connection.protocol, connection.makeshift) == ("MQTT 3.1.1", makeshift)


def test_a_full_outbox_keeps_the_newest(tmp_path: Path, build: Build) -> None:
    """In an outage that is too long for the outbox, the oldest events go first, and are counted."""
    with Outbox(folder=tmp_path / "small", capacity=10) as small, build(settings(1), outbox=small) as publisher:
        for number in range(1, 31):
            publisher.publish(event(number))
        assert (publisher.stats.queue_depth, publisher.stats.dropped) == (10, 20)


@contextmanager
def child(broker: Mosquitto, folder: Path, first: int, last: int) -> Iterator[subprocess.Popen[str]]:
    """An agent as a process of its own, publishing events; it stops cleanly unless it is killed."""
    command: list[str | Path] = [sys.executable, CHILD, str(broker.port), str(folder), str(first), str(last)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(PATIENCE_S)


def test_a_killed_agent_is_reported_by_its_last_will(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """When the agent dies without a word, the broker says `offline` for it."""
    with child(broker, tmp_path / "child", 1, 1) as process:
        listener.wait_for(lambda: listener.on(EVENT))
        process.kill()
        listener.wait_for(lambda: len(listener.on(STATUS)) == 2)
    assert payloads(listener, STATUS) == ["online", "offline"]


def test_kill_9_loses_no_event(broker: Mosquitto, listener: Listener, tmp_path: Path) -> None:
    """Of an agent that is killed in full flight, the next run delivers every event that it had taken."""
    with child(broker, tmp_path / "child", 1, 10_000) as process:
        assert process.stdout is not None
        listener.wait_for(lambda: len(listener.on(EVENT)) > 100)
        process.kill()
        last = int(process.stdout.read().split()[-1])
    with child(broker, tmp_path / "child", last + 2, last + 2):
        listener.wait_for(lambda: last + 2 in numbers(listener))
    arrived = list(dict.fromkeys(numbers(listener)))
    assert set(range(1, last + 1)) <= set(arrived)
    assert arrived == sorted(arrived)
