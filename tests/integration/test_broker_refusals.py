from __future__ import annotations

import json
import math
import os
import re
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.backoff import Backoff
from edge.domain import Message
from edge.errors import BrokerRefused, BrokerUnreachable, ConfigError
from edge.mqtt import BrokerSettings, Tls, probe_broker
from edge.mqtt import connection as mqtt_connection
from edge.mqtt.dial import connect
from edge.outbox import Outbox
from edge.payloads import CommandRequest
from tests.integration.conftest import Build, Certificates, StartBroker
from tests.mosquitto import PATIENCE_S, Listener, Mosquitto, free_port, wait_until
from tests.network import NO_MQTT5, Relay, acknowledge


def settings(port: int, *, host: str = "127.0.0.1", tls: Tls | None = None) -> BrokerSettings:
    """How to reach a broker on this machine."""
    return BrokerSettings(host=host, port=port, client_id="edge-test", tls=tls)


def login(port: int, password: str) -> BrokerSettings:
    """The same as a user."""
    return replace(settings(port), username="camera", password=password)


def refuse_first(count: int, reason: int) -> Callable[[bytes], bytes | None]:
    """What a broker answers that refuses so many events, and takes all that come after them."""
    refusals = iter(range(count))

    def refuse(packet: bytes) -> bytes | None:
        refusal = acknowledge(packet, reason=reason)
        return refusal if refusal and next(refusals, None) is not None else None

    return refuse


@pytest.fixture
def locked_broker(start_broker: StartBroker, password_file: Path) -> Mosquitto:
    """A broker that asks for a password."""
    return start_broker(["allow_anonymous false", f"password_file {password_file}"])


@pytest.fixture
def tls_broker(start_broker: StartBroker, certificates: Certificates) -> Mosquitto:
    """A broker that speaks TLS as localhost."""
    files = [f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"]
    return start_broker([*files, "allow_anonymous true"])


def test_a_working_broker_is_told_with_its_protocol(broker: Mosquitto) -> None:
    """`edge check` says which protocol the broker speaks."""
    assert probe_broker(settings(broker.port)) == "MQTT 5"
    with Relay(broker.port, last_word_to_mqtt5=NO_MQTT5) as old:
        assert probe_broker(settings(old.port)) == "MQTT 3.1.1"


def test_the_check_does_not_push_a_running_agent_out(broker: Mosquitto, build: Build) -> None:
    """`edge check` beside a running agent leaves the agent connected."""
    with build(settings(broker.port)) as publisher:
        wait_until(lambda: publisher.stats.connected)
        probe_broker(settings(broker.port))
        assert (publisher.stats.connected, publisher.stats.reconnects) == (True, 0)


def test_a_closed_port() -> None:
    """A broker that does not run is said to be not there."""
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:\d+: nothing listens on that port\. Check the port"):
        probe_broker(settings(free_port()))


@pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'x' * 64}.invalid"])
def test_an_unknown_name(host: str) -> None:
    """A misspelt host is said to be unknown."""
    with pytest.raises(BrokerUnreachable, match="cannot be resolved"):
        probe_broker(settings(1883, host=host))


def test_a_silent_port() -> None:
    """A service that is no broker and says nothing is not waited for without end."""
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        with pytest.raises(BrokerRefused, match="did not answer"):
            probe_broker(settings(silent.getsockname()[1]), timeout_s=0.2)
        with pytest.raises(BrokerUnreachable, match="no answer"):
            probe_broker(settings(silent.getsockname()[1], tls=Tls()), timeout_s=0.2)


def test_no_credentials(locked_broker: Mosquitto) -> None:
    """A broker that wants a password says so to a client that has none."""
    with pytest.raises(BrokerRefused, match=r"lets no anonymous client in\. Configure a user name"):
        probe_broker(settings(locked_broker.port))


def test_a_wrong_password(locked_broker: Mosquitto) -> None:
    """A wrong password is named as the likely fault, and is not shown."""
    probe_broker(login(locked_broker.port, "right"))
    with pytest.raises(BrokerRefused, match="does not let camera in: wrong password") as refusal:
        probe_broker(login(locked_broker.port, "hunter2"))
    assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in repr(login(locked_broker.port, "hunter2"))


def test_a_forgotten_password(locked_broker: Mosquitto) -> None:
    """A user name without its password is told from a wrong password."""
    with pytest.raises(BrokerRefused, match="let camera in, for whom there is no password here"):
        probe_broker(replace(settings(locked_broker.port), username="camera"))


def test_a_refused_connection_is_not_a_connection(
    locked_broker: Mosquitto, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """While the broker refuses the password, the agent counts as not connected, and says why once."""
    with build(login(locked_broker.port, "wrong")) as publisher:
        wait_until(lambda: locked_broker.log.count("New client connected") + locked_broker.log.count("not auth") >= 3)
        assert not publisher.stats.connected
        assert "wrong password" in str(publisher.stats.last_error)
    assert sum("wrong password" in record.message for record in caplog.records) == 1


class NotingBackoff(Backoff):
    """Notes the limits that it is given."""

    def __init__(self) -> None:
        super().__init__(first_s=0.1, limit_s=0.2)
        self.limits_s: list[float] = []

    def delay_s(self, *, at_most_s: float = math.inf) -> float:
        self.limits_s.append(at_most_s)
        return super().delay_s(at_most_s=at_most_s)


def test_a_proxy_whose_broker_is_away_is_asked_as_often_as_the_broker_itself(
    locked_broker: Mosquitto, build: Build
) -> None:
    """It lets connections in and closes them, which is no refusal: the broker is found soon after its return."""
    backoff = NotingBackoff()
    with Relay(free_port()) as proxy, build(settings(proxy.port), backoff=backoff) as publisher:
        wait_until(lambda: len(backoff.limits_s) >= 2)
        assert "the connection was closed before" in str(publisher.stats.last_error)
    assert backoff.limits_s[:2] == [8.0, 8.0]
    backoff = NotingBackoff()
    with build(login(locked_broker.port, "wrong"), backoff=backoff):
        wait_until(lambda: backoff.limits_s)
    assert backoff.limits_s[0] == math.inf


def event(camera: str, number: int) -> Message:
    """A durable message of a camera."""
    payload = json.dumps({"seq": number, "historical": False}).encode()
    return Message(f"emotion/hall/{camera}/event", payload, qos=1, durable=True)


def arrived(listener: Listener, camera: str) -> list[tuple[int, bool]]:
    """The numbers of a camera's events that were heard, and whether each is marked as historical."""
    payloads = [json.loads(message.payload) for message in listener.on(f"emotion/hall/{camera}/event")]
    return [(payload["seq"], payload["historical"]) for payload in payloads]


def test_events_without_a_right_wait_for_it_and_block_no_others(
    start_broker: StartBroker, password_file: Path, tmp_path: Path, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistake in the access list costs no event: they are counted and named, and arrive when it is put right."""
    acl = tmp_path / "acl"
    acl.touch(mode=0o600)
    acl.write_text("user watcher\ntopic readwrite #\nuser camera\ntopic write emotion/hall/door/event\n")
    broker = start_broker(["allow_anonymous false", f"password_file {password_file}", f"acl_file {acl}"])
    with (
        Listener(broker.port, login=("watcher", "right")) as listener,
        build(login(broker.port, "right")) as publisher,
    ):
        wait_until(lambda: publisher.stats.connected)
        for number in range(1, 31):
            publisher.publish(event("cellar", number))
        publisher.publish(event("door", 1))
        listener.wait_for(lambda: arrived(listener, "door") == [(1, False)])
        wait_until(lambda: publisher.stats.rejected > 30)  # they are tried again
        assert (publisher.stats.queue_depth, publisher.stats.lost) == (30, 0)
        acl.write_text(acl.read_text() + "topic write emotion/hall/cellar/event\n")
        os.kill(broker.pid, signal.SIGHUP)
        listener.wait_for(lambda: len(arrived(listener, "cellar")) == 30)
        wait_until(lambda: publisher.stats.queue_depth == 0)
        publisher.publish(event("cellar", 31))
        listener.wait_for(lambda: len(arrived(listener, "cellar")) == 31)
    assert arrived(listener, "cellar") == [*((number, True) for number in range(1, 31)), (31, False)]
    [complaint] = [record.message for record in caplog.records if "cellar" in record.message]
    assert complaint == (
        "emotion/hall/cellar/event: the broker rejects messages on this topic (Not authorized); check its access "
        "list and limits; they wait for that"
    )


@pytest.mark.parametrize("reason", [0x80, 0x83, 0x87, 0x90, 0x97])
def test_what_the_broker_refuses_for_a_while_is_delivered_later(
    broker: Mosquitto, listener: Listener, build: Build, reason: int
) -> None:
    """Five events that meet a quota are neither lost nor forgotten."""
    with Relay(broker.port, answer=refuse_first(5, reason)) as relay, build(settings(relay.port)) as publisher:
        for number in range(1, 6):
            publisher.publish(event("door", number))
        listener.wait_for(lambda: len(arrived(listener, "door")) == 5)
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert (publisher.stats.rejected, publisher.stats.lost, publisher.stats.dropped) == (5, 0, 0)
    assert sorted(arrived(listener, "door")) == [(number, True) for number in range(1, 6)]


def test_an_event_is_sent_again_though_the_one_after_it_was_taken(
    broker: Mosquitto, listener: Listener, build: Build
) -> None:
    """A quota that is full for one and free for the next, both of which the broker answers at once."""
    refused: list[bytes] = []

    def refuse_one_and_take_one(packet: bytes) -> bytes | None:
        if acknowledge(packet, reason=0) is None or len(refused) == 2:
            return None
        refused.append(acknowledge(packet, reason=0 if refused else 0x97) or b"")
        return b"".join(refused) if len(refused) == 2 else PINGRESP

    with Relay(broker.port, answer=refuse_one_and_take_one) as relay, build(settings(relay.port)) as publisher:
        for number in (1, 2):
            publisher.publish(event("door", number))
        listener.wait_for(lambda: arrived(listener, "door") == [(1, True)])
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert (publisher.stats.rejected, publisher.stats.lost) == (1, 0)


def test_what_the_broker_takes_just_before_it_leaves_is_not_sent_again(
    broker: Mosquitto, listener: Listener, build: Build, outbox: Outbox
) -> None:
    """A restart of the broker brings subscribers no event twice that it had acknowledged."""
    acknowledgements: list[bytes] = []

    def take_two_of_four_and_leave(packet: bytes) -> bytes | None:
        acknowledgement = acknowledge(packet, reason=0)
        if acknowledgement is None or len(acknowledgements) == 4:
            return None
        acknowledgements.append(acknowledgement)
        if len(acknowledgements) < 4:
            return b"\xd0\x00"  # PINGRESP, which says nothing of the event
        return acknowledgements[0] + acknowledgements[1] + b"\xe0\x02\x8b\x00"  # DISCONNECT: server shutting down

    for number in range(1, 5):
        outbox.put(event("door", number))
    with Relay(broker.port, answer=take_two_of_four_and_leave) as relay, build(settings(relay.port)) as publisher:
        wait_until(lambda: publisher.stats.reconnects == 1)
        listener.wait_for(lambda: arrived(listener, "door"))
        wait_until(lambda: publisher.stats.queue_depth == 0)
    assert [number for number, _ in arrived(listener, "door")] == [3, 4]


def test_what_the_broker_drops_without_a_word_is_sent_again(
    broker: Mosquitto,
    listener: Listener,
    build: Build,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A broker that throttles does not take the agent's room bit by bit, until nothing goes out any more."""
    dropped: list[bytes] = []

    def drop_the_first_event(packet: bytes) -> bytes | None:
        if dropped or acknowledge(packet, reason=0) is None:
            return None
        dropped.append(packet)
        return PINGRESP

    monkeypatch.setattr(mqtt_connection, "_ANSWER_TIMEOUT_S", 1.0)
    with Relay(broker.port, answer=drop_the_first_event) as relay, build(settings(relay.port)) as publisher:
        publisher.publish(event("door", 1))
        listener.wait_for(lambda: arrived(listener, "door"))
        wait_until(lambda: publisher.stats.queue_depth == 0)
    assert arrived(listener, "door")[0] == (1, True)
    assert "the broker has not answered a message or a subscription for 1 s. Look into the broker's log" in caplog.text
    assert {message.payload for message in listener.on("emotion/hall/status")[:-1]} == {"online"}


def test_the_birth_is_said_again_when_the_broker_did_not_take_it(
    broker: Mosquitto, listener: Listener, build: Build
) -> None:
    """A quota that was full for a moment does not leave the device offline for as long as the connection holds."""
    refused: list[bytes] = []

    def refuse_the_first_birth(packet: bytes) -> bytes | None:
        refusal = acknowledge(packet, "emotion/hall/status", reason=0x97)
        if refusal is None or refused:
            return None
        refused.append(packet)
        return refusal

    with Relay(broker.port, answer=refuse_the_first_birth) as relay, build(settings(relay.port)) as publisher:
        listener.wait_for(lambda: listener.on("emotion/hall/status"))
        assert listener.on("emotion/hall/status")[-1].payload == "online"
        assert (publisher.stats.rejected, publisher.stats.reconnects) == (1, 0)


def test_what_no_broker_would_take_is_given_up_and_counted(
    broker: Mosquitto, listener: Listener, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that is refused for what it is does not come again at every connection; health and log say so."""
    with Relay(broker.port, answer=refuse_first(2, 0x99)) as relay, build(settings(relay.port)) as publisher:
        for number in range(1, 4):
            publisher.publish(event("door", number))
        listener.wait_for(lambda: arrived(listener, "door"))
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert (publisher.stats.rejected, publisher.stats.lost, publisher.stats.dropped) == (2, 2, 0)
    assert [number for number, _ in arrived(listener, "door")] == [3]
    assert sum("they are given up" in record.message for record in caplog.records) == 1


def test_an_event_that_is_too_large_for_the_broker_is_given_up(
    start_broker: StartBroker, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """It does not break the connection again and again, in front of all others; a state that is too large neither."""
    broker = start_broker(["allow_anonymous true", "max_packet_size 1000"])
    large = replace(event("door", 1), payload=b"x" * 1000)
    with Listener(broker.port) as listener, build(settings(broker.port)) as publisher:
        publisher.publish(large)
        publisher.publish(Message("emotion/hall/door/emotion", large.payload, retain=True))
        publisher.publish(event("door", 2))
        listener.wait_for(lambda: arrived(listener, "door"))
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert (publisher.stats.rejected, publisher.stats.lost, publisher.stats.reconnects) == (2, 1, 0)
    assert [number for number, _ in arrived(listener, "door")] == [2]
    assert any("larger than the 1000 bytes that it takes" in record.message for record in caplog.records)


@pytest.mark.parametrize("payload_bytes", [850, 851])
def test_the_largest_message_is_just_taken(start_broker: StartBroker, build: Build, payload_bytes: int) -> None:
    """Not one byte is given away, and the broker is never sent one too many."""
    broker = start_broker(["allow_anonymous true", "max_packet_size 900"])
    message = replace(event("door", 1), payload=b"x" * payload_bytes)  # around it are 50 bytes
    with Listener(broker.port) as listener, build(settings(broker.port)) as publisher:
        publisher.publish(message)
        wait_until(lambda: publisher.stats.connected and publisher.stats.queue_depth == 0)
        assert publisher.stats.reconnects == 0
        assert publisher.stats.lost == (payload_bytes > 850)
        if payload_bytes == 850:
            listener.wait_for(lambda: listener.on(message.topic))


def test_a_last_will_that_is_not_allowed_is_named(broker: Mosquitto) -> None:
    """So ejabberd refuses the connection over it, with "topic name invalid"."""
    will = Message("emotion/hall/status", b"offline", qos=1, retain=True)
    with (
        Relay(broker.port, last_word_to_mqtt5=b"\x20\x03\x00\x90\x00") as relay,
        pytest.raises(BrokerRefused, match=r"publish its last will\. Allow it in the broker's access list"),
    ):
        connect(settings(relay.port), will=will, timeout_s=PATIENCE_S)


def test_only_the_version_that_was_tried_is_said_to_be_missing(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """With --verbose, a broker that speaks MQTT 3.1.1 is not said to speak none."""
    caplog.set_level("DEBUG")
    with Relay(broker.port, last_word_to_mqtt5=NO_MQTT5) as old:
        probe_broker(settings(old.port))
    assert "the broker speaks no MQTT 5." in caplog.text
    assert "neither" not in caplog.text


@pytest.mark.parametrize("lacking", ["retain_available false", "max_qos 0"])
def test_a_broker_that_lacks_what_the_agent_needs(start_broker: StartBroker, lacking: str) -> None:
    """The error says what to allow there."""
    settings = BrokerSettings(port=start_broker(["allow_anonymous true", lacking]).port, client_id="edge-test")
    will = Message("emotion/hall/status", b"offline", qos=1, retain=True)
    with pytest.raises(BrokerRefused, match="Allow retained messages and QoS 1 there"):
        connect(settings, will=will, timeout_s=PATIENCE_S)


def test_no_more_is_under_way_than_the_broker_takes(start_broker: StartBroker) -> None:
    """It may break the connection over one more."""
    for lines, room in ([], 20), (["max_inflight_messages 1"], 1):
        broker = start_broker(["allow_anonymous true", *lines])
        with connect(BrokerSettings(port=broker.port, client_id="edge-test"), timeout_s=PATIENCE_S) as connection:
            assert connection.room == room
            connection.send(Message("emotion/hall/status", b"online", qos=1))
            assert connection.room == room - 1


PUBLISH, PUBACK = 3, 4
PINGRESP = b"\xd0\x00"


def test_an_answer_waits_until_the_broker_takes_one_more(start_broker: StartBroker, build: Build) -> None:
    """While a backlog drains, a command is answered when there is room, before the next event, and nothing is lost."""
    broker = start_broker(["allow_anonymous true", "max_inflight_messages 1"])
    passed: list[str] = []
    obeyed = threading.Event()
    held_back: list[bytes] = []

    def acknowledge_the_first_event_late(packet: bytes) -> bytes | None:
        """The broker's answer to it comes in place of its taking note that the second command has arrived."""
        kind = packet[0] >> 4
        if kind == PUBACK and held_back:
            passed.append("command")
            return held_back.pop() if passed.count("command") == 2 else None
        if kind == PUBLISH and packet[0] & 0b110:
            passed.append("answer" if b"/response" in packet else "event" if b"/event" in packet else "other")
        if passed.count("event") == 1 and (acknowledgement := acknowledge(packet, reason=0)):
            held_back.append(acknowledgement)
            return PINGRESP
        return None

    def obey(_request: CommandRequest) -> None:
        obeyed.set()

    with (
        Listener(broker.port) as listener,
        Relay(broker.port, answer=acknowledge_the_first_event_late) as relay,
        build(settings(relay.port), commands={"obey": obey}) as publisher,
    ):
        listener.wait_for(lambda: listener.on("emotion/hall/status"))
        for number in (1, 2):
            publisher.publish(event("door", number))
        wait_until(lambda: held_back)
        listener.publish("emotion/hall/cmd/obey", '{"id": 1}')
        assert obeyed.wait(PATIENCE_S)
        listener.publish("emotion/hall/cmd/obey", '{"id": 2}')
        listener.wait_for(lambda: len(listener.on("emotion/hall/cmd/obey/response")) == 2)
        listener.wait_for(lambda: arrived(listener, "door"))
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert publisher.stats.reconnects == 0
    assert passed[:5] == ["other", "event", "command", "command", "answer"]
    assert [number for number, _ in arrived(listener, "door")] == [2]


def test_a_device_that_has_no_room_for_its_goodbye_is_offline_all_the_same(
    start_broker: StartBroker, build: Build
) -> None:
    """Instead of one message too many, the broker gets none, and publishes the last will."""
    broker = start_broker(["allow_anonymous true", "max_inflight_messages 1"])
    sent: list[bytes] = []

    def never_acknowledge(packet: bytes) -> bytes | None:
        sent.append(packet)
        return PINGRESP if acknowledge(packet, reason=0) else None

    with Listener(broker.port) as listener, Relay(broker.port, answer=never_acknowledge) as relay:
        with build(settings(relay.port), stop_timeout_s=0.3) as publisher:
            publisher.publish(event("door", 1))
            wait_until(lambda: any(b"/event" in packet for packet in sent))
        listener.wait_for(lambda: len(listener.on("emotion/hall/status")) == 2)
        assert listener.on("emotion/hall/status")[-1].payload == "offline"
    assert not any(packet.endswith(b"offline") for packet in sent)


def test_a_device_whose_goodbye_is_refused_is_offline_all_the_same(broker: Mosquitto, build: Build) -> None:
    """A broker that takes nothing more (its quota, say) still has the last will."""

    def refuse_goodbye(packet: bytes) -> bytes | None:
        if not packet.endswith(b"offline"):
            return None
        number = 4 + packet[3]
        return b"\x40\x04" + packet[number : number + 2] + bytes([0x97, 0])

    with Listener(broker.port) as listener, Relay(broker.port, answer=refuse_goodbye) as relay:
        with build(settings(relay.port), stop_timeout_s=0.3) as publisher:
            wait_until(lambda: publisher.stats.connected)
            listener.wait_for(lambda: listener.on("emotion/hall/status"))
        listener.wait_for(lambda: listener.on("emotion/hall/status")[-1].payload == "offline")


def test_two_devices_with_one_client_id(
    broker: Mosquitto, build: Build, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two devices that push each other out for ever name the likely cause, though not every mosquitto tells it."""
    with (
        Outbox(folder=tmp_path / "twin", capacity=1_000) as outbox,
        build(settings(broker.port)) as publisher,
        build(settings(broker.port), outbox=outbox),
    ):
        cause = "another device has the client id edge-test too|another client connected as edge-test"
        wait_until(lambda: re.search(cause, str(publisher.stats.last_error)))
    assert sum(re.search(cause, record.message) is not None for record in caplog.records) <= 2


def test_a_broker_that_goes_away_is_not_taken_for_a_twin(broker: Mosquitto, build: Build) -> None:
    """After three connections that soon broke, a broker that is not there is said to be just that."""
    with Relay(broker.port) as relay, build(settings(relay.port)) as publisher:
        for number in range(3):
            wait_until(lambda number=number: publisher.stats.connected and publisher.stats.reconnects == number)  # type: ignore[misc]
            relay.cut()
        wait_until(lambda: publisher.stats.reconnects == 3)
        broker.kill()
        wait_until(lambda: "before the broker had let the client in" in str(publisher.stats.last_error))
        assert "another device" not in str(publisher.stats.last_error)


def test_a_broker_that_tells_of_a_taken_client_id(build: Build) -> None:
    """When an MQTT 5 broker says that another client took the id over, so does the agent, and what to do."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        build(settings(server.getsockname()[1])) as publisher,
    ):
        with closing(server.accept()[0]) as link:
            link.recv(4096)
            link.sendall(b"\x20\x03\x00\x00\x00" + b"\xe0\x02\x8e\x00")  # welcome, and out
            wait_until(lambda: publisher.stats.last_error)
        server.close()  # or the publisher waits for its next connection
        assert "another client connected as edge-test" in str(publisher.stats.last_error)
        assert "Give each device its own client id" in str(publisher.stats.last_error)


@pytest.mark.parametrize(
    "garbage", [b"\x20\x03\x00\x00\x00\x00\xff", b"\x20\x03\x00\x00\x00\x40\x01\x00", b"HTTP/1.1 400 Bad"]
)
def test_a_broker_that_talks_nonsense_does_not_stop_the_agent(build: Build, garbage: bytes) -> None:
    """Whatever comes from the other side, the agent tries again."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        build(settings(server.getsockname()[1])) as publisher,
    ):
        for _ in range(3):
            with closing(server.accept()[0]) as link:
                link.recv(4096)
                link.sendall(garbage)
                link.shutdown(socket.SHUT_WR)
        wait_until(lambda: publisher.stats.last_error)
        server.close()


def test_tls_works(tls_broker: Mosquitto, certificates: Certificates, build: Build) -> None:
    """With the right authority the agent connects, encrypted, and delivers."""
    with build(settings(tls_broker.port, host="localhost", tls=Tls(ca_file=certificates.ca))) as publisher:
        for _ in range(200):
            publisher.publish(Message("emotion/hall/door/event", b"{}" * 200, qos=1, durable=True))
        wait_until(lambda: publisher.stats.connected and publisher.stats.queue_depth == 0)


def test_an_authority_as_manuals_have_it_made_will_do_with_any_python(
    tls_broker: Mosquitto, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.13 asks by itself for fields that such certificates lack; that is stood in for here."""

    def strict(**given: Any) -> ssl.SSLContext:
        context = plain(**given)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    plain = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", strict)
    with pytest.raises(ssl.SSLCertVerificationError, match="CA cert does not include key usage"):
        shake_hands(tls_broker.port, ssl.create_default_context(cafile=certificates.ca))
    probe_broker(settings(tls_broker.port, host="localhost", tls=Tls(ca_file=certificates.ca)))


def shake_hands(port: int, context: ssl.SSLContext) -> None:
    """Opens an encrypted connection, and closes it."""
    with (
        socket.create_connection(("localhost", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass


def test_a_client_certificate_works(start_broker: StartBroker, certificates: Certificates) -> None:
    """A broker that asks for a client certificate lets in who has one, and nobody else."""
    files = [f"cafile {certificates.ca}", f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"]
    broker = start_broker([*files, "require_certificate true", "allow_anonymous true"])
    bare = Tls(ca_file=certificates.ca)
    probe_broker(
        settings(
            broker.port,
            host="localhost",
            tls=replace(bare, cert_file=certificates.client, key_file=certificates.client_key),
        )
    )
    with pytest.raises(BrokerRefused, match="client certificate"):
        probe_broker(settings(broker.port, host="localhost", tls=bare))


def test_an_untrusted_certificate(tls_broker: Mosquitto) -> None:
    """A broker whose authority is unknown is not trusted, and the error names the setting that helps."""
    with pytest.raises(BrokerRefused, match=r"certificate is not trusted .* as the CA file"):
        probe_broker(settings(tls_broker.port, host="localhost", tls=Tls()))


def test_a_certificate_for_another_name(tls_broker: Mosquitto, certificates: Certificates) -> None:
    """A certificate that is made out to another host is said to be so."""
    with pytest.raises(BrokerRefused, match="made out to another address"):
        probe_broker(settings(tls_broker.port, host="127.0.0.1", tls=Tls(ca_file=certificates.ca)))


def test_tls_on_a_plain_port(broker: Mosquitto) -> None:
    """TLS to a port without TLS is said to be so."""
    with pytest.raises(BrokerRefused, match="does not speak TLS on that port"):
        probe_broker(settings(broker.port, host="localhost", tls=Tls()))


def test_no_tls_on_a_tls_port(tls_broker: Mosquitto) -> None:
    """A forgotten TLS setting is guessed from the broker's silence."""
    with pytest.raises(BrokerRefused, match="whether it expects TLS"):
        probe_broker(settings(tls_broker.port, host="localhost"))


@pytest.mark.parametrize(
    "tls", [lambda p: Tls(ca_file=p / "none.pem"), lambda p: Tls(cert_file=p / "none.pem")], ids=["ca", "cert"]
)
def test_a_missing_tls_file(tmp_path: Path, build: Build, tls: Callable[[Path], Tls]) -> None:
    """A TLS file that is not there stops the start, with its name."""
    with pytest.raises(ConfigError, match=r"none\.pem: .*No such file"):
        build(settings(1, tls=tls(tmp_path)))


@pytest.mark.parametrize("host", ["broker.example.org", "192.168.1.10", "2001:db8::1"])
def test_a_password_does_not_cross_the_network_in_the_open(host: str) -> None:
    """A password for a remote broker without TLS is refused, unless that is allowed on purpose."""
    with pytest.raises(ConfigError, match="the password would cross the network unencrypted"):
        BrokerSettings(host=host, client_id="x", username="u", password="secret")  # noqa: S106
    BrokerSettings(host=host, client_id="x", username="u", password="secret", allow_plaintext_password=True)  # noqa: S106
    BrokerSettings(host=host, client_id="x", username="u", password="secret", tls=Tls())  # noqa: S106


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "broker.localhost"])
def test_a_password_may_go_to_this_machine(host: str) -> None:
    """A broker on the device itself needs no TLS for its password."""
    assert BrokerSettings(host=host, client_id="x", username="u", password="secret").password == "secret"  # noqa: S105, S106
