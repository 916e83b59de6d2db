"""Brokers that cannot be reached, or reject connections, messages or credentials; TLS and MQTT limits."""

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
from edge.mqtt.connect import connect
from edge.outbox import Outbox
from edge.payloads import CommandRequest
from tests.integration.conftest import Certificates, MakePublisher, StartBroker
from tests.mosquitto import PATIENCE_S, Listener, Mosquitto, free_port, wait_until
from tests.network import NO_MQTT5, Relay, puback


def settings(port: int, *, host: str = "127.0.0.1", tls: Tls | None = None) -> BrokerSettings:
    """Settings for a broker on this machine."""
    return BrokerSettings(host=host, port=port, client_id="edge-test", tls=tls)


def settings_with_password(port: int, password: str) -> BrokerSettings:
    """Settings with the user name `camera` and a password."""
    return replace(settings(port), username="camera", password=password)


def reject_first(count: int, reason: int) -> Callable[[bytes], bytes | None]:
    """Returns a relay's `intercept` that rejects the first events and lets all others pass."""
    rejections = iter(range(count))

    def reject(packet: bytes) -> bytes | None:
        rejection = puback(packet, reason=reason)
        return rejection if rejection and next(rejections, None) is not None else None

    return reject


@pytest.fixture
def password_broker(start_broker: StartBroker, password_file: Path) -> Mosquitto:
    """A broker that requires a password."""
    return start_broker(["allow_anonymous false", f"password_file {password_file}"])


@pytest.fixture
def tls_broker(start_broker: StartBroker, certificates: Certificates) -> Mosquitto:
    """A broker with TLS, whose certificate is for localhost."""
    files = [f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"]
    return start_broker([*files, "allow_anonymous true"])


def test_the_probe_returns_the_protocol(broker: Mosquitto) -> None:
    """`edge check` reports the broker's protocol version."""
    assert probe_broker(settings(broker.port)) == "MQTT 5"
    with Relay(broker.port, mqtt5_reply=NO_MQTT5) as old:
        assert probe_broker(settings(old.port)) == "MQTT 3.1.1"


def test_the_probe_does_not_disconnect_a_running_agent(broker: Mosquitto, make_publisher: MakePublisher) -> None:
    """It uses another client id."""
    with make_publisher(settings(broker.port)) as publisher:
        wait_until(lambda: publisher.stats.connected)
        probe_broker(settings(broker.port))
        assert (publisher.stats.connected, publisher.stats.reconnects) == (True, 0)


def test_a_closed_port() -> None:
    """The error says that nothing listens on the port."""
    with pytest.raises(BrokerUnreachable, match=r"127\.0\.0\.1:\d+: nothing listens on that port\. Check the port"):
        probe_broker(settings(free_port()))


@pytest.mark.parametrize("host", ["no-such-host.invalid", f"{'x' * 64}.invalid"])
def test_an_unknown_host(host: str) -> None:
    """The error says that the host name cannot be resolved, even if it is too long to be valid."""
    with pytest.raises(BrokerUnreachable, match="cannot be resolved"):
        probe_broker(settings(1883, host=host))


def test_an_unresponsive_port() -> None:
    """A service that accepts connections and sends nothing causes a timeout."""
    with closing(socket.create_server(("127.0.0.1", 0))) as unresponsive:
        with pytest.raises(BrokerRefused, match=r"sent no MQTT reply \(CONNACK\)"):
            probe_broker(settings(unresponsive.getsockname()[1]), timeout_s=0.2)
        with pytest.raises(BrokerUnreachable, match="the connection timed out"):
            probe_broker(settings(unresponsive.getsockname()[1], tls=Tls()), timeout_s=0.2)


def test_no_credentials(password_broker: Mosquitto) -> None:
    """The error says that the broker requires a password."""
    with pytest.raises(BrokerRefused, match=r"does not accept anonymous clients\. Configure a user name"):
        probe_broker(settings(password_broker.port))


def test_a_wrong_password(password_broker: Mosquitto) -> None:
    """The error names a wrong password as the cause, and does not contain the password."""
    probe_broker(settings_with_password(password_broker.port, "right"))
    with pytest.raises(BrokerRefused, match="rejected the user camera: wrong password") as refusal:
        probe_broker(settings_with_password(password_broker.port, "hunter2"))
    assert "hunter2" not in str(refusal.value)
    assert "hunter2" not in repr(settings_with_password(password_broker.port, "hunter2"))


def test_a_missing_password(password_broker: Mosquitto) -> None:
    """A missing password is distinguished from a wrong one."""
    with pytest.raises(BrokerRefused, match="rejected the user camera, for whom no password is configured"):
        probe_broker(replace(settings(password_broker.port), username="camera"))


def test_a_refused_connection_does_not_count_as_connected(
    password_broker: Mosquitto, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """While the broker rejects the password, the agent counts as not connected, and logs the reason once."""
    with make_publisher(settings_with_password(password_broker.port, "wrong")) as publisher:
        wait_until(
            lambda: password_broker.log.count("New client connected") + password_broker.log.count("not auth") >= 3
        )
        assert not publisher.stats.connected
        assert "wrong password" in str(publisher.stats.last_error)
    assert sum("wrong password" in record.message for record in caplog.records) == 1


class RecordingBackoff(Backoff):
    """Records the limits that it is called with."""

    def __init__(self) -> None:
        super().__init__(first_s=0.1, limit_s=0.2)
        self.limits_s: list[float] = []

    def delay_s(self, *, at_most_s: float = math.inf) -> float:
        self.limits_s.append(at_most_s)
        return super().delay_s(at_most_s=at_most_s)


def test_a_proxy_without_its_broker_is_retried_as_often_as_an_unreachable_broker(
    password_broker: Mosquitto, make_publisher: MakePublisher
) -> None:
    """Accepting and closing connections is not a refusal: the agent reconnects soon after the broker is back."""
    backoff = RecordingBackoff()
    with Relay(free_port()) as proxy, make_publisher(settings(proxy.port), backoff=backoff) as publisher:
        wait_until(lambda: len(backoff.limits_s) >= 2)
        assert "the connection was closed before" in str(publisher.stats.last_error)
    assert backoff.limits_s[:2] == [8.0, 8.0]
    backoff = RecordingBackoff()
    with make_publisher(settings_with_password(password_broker.port, "wrong"), backoff=backoff):
        wait_until(lambda: backoff.limits_s)
    assert backoff.limits_s[0] == math.inf


def event(camera: str, number: int) -> Message:
    """A numbered event of a camera."""
    payload = json.dumps({"seq": number, "historical": False}).encode()
    return Message(f"emotion/hall/{camera}/event", payload, qos=1, durable=True)


def received_events(listener: Listener, camera: str) -> list[tuple[int, bool]]:
    """The numbers of the events received from a camera, and whether each is marked as historical."""
    payloads = [json.loads(message.payload) for message in listener.on(f"emotion/hall/{camera}/event")]
    return [(payload["seq"], payload["historical"]) for payload in payloads]


def test_forbidden_events_are_retried_and_block_no_others(
    start_broker: StartBroker,
    password_file: Path,
    tmp_path: Path,
    make_publisher: MakePublisher,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A mistake in the access list loses no event: rejections are counted, logged, and retried until it is fixed."""
    acl = tmp_path / "acl"
    acl.touch(mode=0o600)
    acl.write_text("user watcher\ntopic readwrite #\nuser camera\ntopic write emotion/hall/door/event\n")
    broker = start_broker(["allow_anonymous false", f"password_file {password_file}", f"acl_file {acl}"])
    with (
        Listener(broker.port, login=("watcher", "right")) as listener,
        make_publisher(settings_with_password(broker.port, "right")) as publisher,
    ):
        wait_until(lambda: publisher.stats.connected)
        for number in range(1, 31):
            publisher.publish(event("cellar", number))
        publisher.publish(event("door", 1))
        listener.wait_for(lambda: received_events(listener, "door") == [(1, False)])
        wait_until(lambda: publisher.stats.rejected > 30)  # they are retried
        assert (publisher.stats.queue_depth, publisher.stats.lost) == (30, 0)
        acl.write_text(acl.read_text() + "topic write emotion/hall/cellar/event\n")
        os.kill(broker.pid, signal.SIGHUP)
        listener.wait_for(lambda: len(received_events(listener, "cellar")) == 30)
        wait_until(lambda: publisher.stats.queue_depth == 0)
        publisher.publish(event("cellar", 31))
        listener.wait_for(lambda: len(received_events(listener, "cellar")) == 31)
    assert received_events(listener, "cellar") == [*((number, True) for number in range(1, 31)), (31, False)]
    [warning] = [record.message for record in caplog.records if "cellar" in record.message]
    assert warning == (
        "emotion/hall/cellar/event: the broker rejects messages on this topic (Not authorized); they are retried; "
        "check its access list and limits"
    )


@pytest.mark.parametrize("reason", [0x80, 0x83, 0x87, 0x90, 0x97])
def test_temporarily_rejected_events_are_delivered_later(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher, reason: int
) -> None:
    """Five events that are rejected for a quota or a missing permission are not lost."""
    with (
        Relay(broker.port, intercept=reject_first(5, reason)) as relay,
        make_publisher(settings(relay.port)) as publisher,
    ):
        for number in range(1, 6):
            publisher.publish(event("door", number))
        listener.wait_for(lambda: len(received_events(listener, "door")) == 5)
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert (publisher.stats.rejected, publisher.stats.lost, publisher.stats.dropped) == (5, 0, 0)
    assert sorted(received_events(listener, "door")) == [(number, True) for number in range(1, 6)]


def test_a_rejected_event_is_sent_again_after_the_next_was_accepted(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """The PUBACKs of both, the first with "quota exceeded", arrive together."""
    rejected: list[bytes] = []

    def reject_one_and_accept_one(packet: bytes) -> bytes | None:
        if puback(packet, reason=0) is None or len(rejected) == 2:
            return None
        rejected.append(puback(packet, reason=0 if rejected else 0x97) or b"")
        return b"".join(rejected) if len(rejected) == 2 else PINGRESP

    with (
        Relay(broker.port, intercept=reject_one_and_accept_one) as relay,
        make_publisher(settings(relay.port)) as publisher,
    ):
        for number in (1, 2):
            publisher.publish(event("door", number))
        listener.wait_for(lambda: received_events(listener, "door") == [(1, True)])
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert (publisher.stats.rejected, publisher.stats.lost) == (1, 0)


def test_acknowledgements_just_before_the_disconnect_count(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher, outbox: Outbox
) -> None:
    """Events that a broker acknowledges right before its shutdown are not sent again."""
    acknowledgements: list[bytes] = []

    def accept_two_of_four_and_disconnect(packet: bytes) -> bytes | None:
        acknowledgement = puback(packet, reason=0)
        if acknowledgement is None or len(acknowledgements) == 4:
            return None
        acknowledgements.append(acknowledgement)
        if len(acknowledgements) < 4:
            return PINGRESP
        return acknowledgements[0] + acknowledgements[1] + b"\xe0\x02\x8b\x00"  # DISCONNECT: server shutting down

    for number in range(1, 5):
        outbox.put(event("door", number))
    with (
        Relay(broker.port, intercept=accept_two_of_four_and_disconnect) as relay,
        make_publisher(settings(relay.port)) as publisher,
    ):
        wait_until(lambda: publisher.stats.reconnects == 1)
        listener.wait_for(lambda: received_events(listener, "door"))
        wait_until(lambda: publisher.stats.queue_depth == 0)
    assert [number for number, _ in received_events(listener, "door")] == [3, 4]


def test_silently_discarded_messages_are_sent_again(
    broker: Mosquitto,
    listener: Listener,
    make_publisher: MakePublisher,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Messages that the broker discards do not occupy the send quota until nothing can be sent any more."""
    discarded: list[bytes] = []

    def discard_the_first_event(packet: bytes) -> bytes | None:
        if discarded or puback(packet, reason=0) is None:
            return None
        discarded.append(packet)
        return PINGRESP

    monkeypatch.setattr(mqtt_connection, "_ACK_TIMEOUT_S", 1.0)
    with (
        Relay(broker.port, intercept=discard_the_first_event) as relay,
        make_publisher(settings(relay.port)) as publisher,
    ):
        publisher.publish(event("door", 1))
        listener.wait_for(lambda: received_events(listener, "door"))
        wait_until(lambda: publisher.stats.queue_depth == 0)
    assert received_events(listener, "door")[0] == (1, True)
    assert "the broker has not acknowledged a message or a subscription for 1 s. Check the broker's log" in caplog.text
    assert {message.payload for message in listener.on("emotion/hall/status")[:-1]} == {"online"}


def test_a_rejected_birth_is_sent_again(broker: Mosquitto, listener: Listener, make_publisher: MakePublisher) -> None:
    """A temporarily exceeded quota does not leave the device offline for the rest of the connection."""
    rejected: list[bytes] = []

    def reject_the_first_birth(packet: bytes) -> bytes | None:
        rejection = puback(packet, "emotion/hall/status", reason=0x97)
        if rejection is None or rejected:
            return None
        rejected.append(packet)
        return rejection

    with (
        Relay(broker.port, intercept=reject_the_first_birth) as relay,
        make_publisher(settings(relay.port)) as publisher,
    ):
        listener.wait_for(lambda: listener.on("emotion/hall/status"))
        assert listener.on("emotion/hall/status")[-1].payload == "online"
        assert (publisher.stats.rejected, publisher.stats.reconnects) == (1, 0)


def test_permanently_rejected_events_are_discarded_and_counted(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that is rejected for its content is not sent again over each connection; stats and log report it."""
    with (
        Relay(broker.port, intercept=reject_first(2, 0x99)) as relay,
        make_publisher(settings(relay.port)) as publisher,
    ):
        for number in range(1, 4):
            publisher.publish(event("door", number))
        listener.wait_for(lambda: received_events(listener, "door"))
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert (publisher.stats.rejected, publisher.stats.lost, publisher.stats.dropped) == (2, 2, 0)
    assert [number for number, _ in received_events(listener, "door")] == [3]
    assert sum("they are discarded" in record.message for record in caplog.records) == 1


def test_an_event_that_is_too_large_for_the_broker_is_discarded(
    start_broker: StartBroker, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither it nor a state that is too large breaks every connection and so blocks other messages."""
    broker = start_broker(["allow_anonymous true", "max_packet_size 1000"])
    large = replace(event("door", 1), payload=b"x" * 1000)
    with Listener(broker.port) as listener, make_publisher(settings(broker.port)) as publisher:
        publisher.publish(large)
        publisher.publish(Message("emotion/hall/door/emotion", large.payload, retain=True))
        publisher.publish(event("door", 2))
        listener.wait_for(lambda: received_events(listener, "door"))
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert (publisher.stats.rejected, publisher.stats.lost, publisher.stats.reconnects) == (2, 1, 0)
    assert [number for number, _ in received_events(listener, "door")] == [2]
    assert any("larger than its limit of 1000 bytes" in record.message for record in caplog.records)


@pytest.mark.parametrize("payload_bytes", [850, 851])
def test_the_largest_message_that_fits_is_sent(
    start_broker: StartBroker, make_publisher: MakePublisher, payload_bytes: int
) -> None:
    """A packet may be exactly as large as the broker's limit, and not one byte larger."""
    broker = start_broker(["allow_anonymous true", "max_packet_size 900"])
    message = replace(event("door", 1), payload=b"x" * payload_bytes)  # the rest of the packet takes 50 bytes
    with Listener(broker.port) as listener, make_publisher(settings(broker.port)) as publisher:
        publisher.publish(message)
        wait_until(lambda: publisher.stats.connected and publisher.stats.queue_depth == 0)
        assert publisher.stats.reconnects == 0
        assert publisher.stats.lost == (payload_bytes > 850)
        if payload_bytes == 850:
            listener.wait_for(lambda: listener.on(message.topic))


def test_a_forbidden_last_will(broker: Mosquitto) -> None:
    """Ejabberd then refuses the connection with "topic name invalid"; the error names the missing permission."""
    will = Message("emotion/hall/status", b"offline", qos=1, retain=True)
    with (
        Relay(broker.port, mqtt5_reply=b"\x20\x03\x00\x90\x00") as relay,
        pytest.raises(BrokerRefused, match=r"publish its last will\. Allow it in the broker's access list"),
    ):
        connect(settings(relay.port), will=will, timeout_s=PATIENCE_S)


def test_only_the_version_that_was_tried_is_reported_as_unsupported(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    """The debug log does not claim that a broker with MQTT 3.1.1 supports neither version."""
    caplog.set_level("DEBUG")
    with Relay(broker.port, mqtt5_reply=NO_MQTT5) as old:
        probe_broker(settings(old.port))
    assert "the broker does not support MQTT 5." in caplog.text
    assert "neither" not in caplog.text


@pytest.mark.parametrize("restriction", ["retain_available false", "max_qos 0"])
def test_a_broker_without_retained_messages_or_qos_1(start_broker: StartBroker, restriction: str) -> None:
    """The error says which features to allow."""
    settings = BrokerSettings(port=start_broker(["allow_anonymous true", restriction]).port, client_id="edge-test")
    will = Message("emotion/hall/status", b"offline", qos=1, retain=True)
    with pytest.raises(BrokerRefused, match="Allow retained messages and QoS 1 there"):
        connect(settings, will=will, timeout_s=PATIENCE_S)


def test_the_send_quota_respects_the_receive_maximum(start_broker: StartBroker) -> None:
    """A broker may drop the connection of a client that exceeds it."""
    for extra_settings, quota in ([], 20), (["max_inflight_messages 1"], 1):
        broker = start_broker(["allow_anonymous true", *extra_settings])
        with connect(BrokerSettings(port=broker.port, client_id="edge-test"), timeout_s=PATIENCE_S) as connection:
            assert connection.send_quota == quota
            connection.send(Message("emotion/hall/status", b"online", qos=1))
            assert connection.send_quota == quota - 1


PUBLISH, PUBACK = 3, 4
PINGRESP = b"\xd0\x00"
"""A reply that acknowledges nothing."""


def test_a_response_waits_for_send_quota(start_broker: StartBroker, make_publisher: MakePublisher) -> None:
    """While a backlog is sent, a response is sent as soon as there is send quota, before the next event."""
    broker = start_broker(["allow_anonymous true", "max_inflight_messages 1"])
    packets: list[str] = []
    executed = threading.Event()
    withheld: list[bytes] = []

    def acknowledge_the_first_event_late(packet: bytes) -> bytes | None:
        """Sends the PUBACK for it when the client sends its PUBACK for the second command, which is not forwarded."""
        kind = packet[0] >> 4
        if kind == PUBACK and withheld:
            packets.append("command")
            return withheld.pop() if packets.count("command") == 2 else None
        if kind == PUBLISH and packet[0] & 0b110:
            packets.append("response" if b"/response" in packet else "event" if b"/event" in packet else "other")
        if packets.count("event") == 1 and (acknowledgement := puback(packet, reason=0)):
            withheld.append(acknowledgement)
            return PINGRESP
        return None

    def execute(_request: CommandRequest) -> None:
        executed.set()

    with (
        Listener(broker.port) as listener,
        Relay(broker.port, intercept=acknowledge_the_first_event_late) as relay,
        make_publisher(settings(relay.port), commands={"execute": execute}) as publisher,
    ):
        listener.wait_for(lambda: listener.on("emotion/hall/status"))
        for number in (1, 2):
            publisher.publish(event("door", number))
        wait_until(lambda: withheld)
        listener.publish("emotion/hall/cmd/execute", '{"id": 1}')
        assert executed.wait(PATIENCE_S)
        listener.publish("emotion/hall/cmd/execute", '{"id": 2}')
        listener.wait_for(lambda: len(listener.on("emotion/hall/cmd/execute/response")) == 2)
        listener.wait_for(lambda: received_events(listener, "door"))
        wait_until(lambda: publisher.stats.queue_depth == 0)
        assert publisher.stats.reconnects == 0
    assert packets[:5] == ["other", "event", "command", "command", "response"]
    assert [number for number, _ in received_events(listener, "door")] == [2]


def test_without_send_quota_for_the_offline_status_the_will_is_published(
    start_broker: StartBroker, make_publisher: MakePublisher
) -> None:
    """The agent does not exceed the Receive Maximum to publish `offline`; the broker publishes the last will."""
    broker = start_broker(["allow_anonymous true", "max_inflight_messages 1"])
    sent: list[bytes] = []

    def never_acknowledge(packet: bytes) -> bytes | None:
        sent.append(packet)
        return PINGRESP if puback(packet, reason=0) else None

    with Listener(broker.port) as listener, Relay(broker.port, intercept=never_acknowledge) as relay:
        with make_publisher(settings(relay.port), stop_timeout_s=0.3) as publisher:
            publisher.publish(event("door", 1))
            wait_until(lambda: any(b"/event" in packet for packet in sent))
        listener.wait_for(lambda: len(listener.on("emotion/hall/status")) == 2)
        assert listener.on("emotion/hall/status")[-1].payload == "offline"
    assert not any(packet.endswith(b"offline") for packet in sent)


def test_if_the_offline_status_is_rejected_the_will_is_published(
    broker: Mosquitto, make_publisher: MakePublisher
) -> None:
    """A broker that accepts no more messages, for example due to a quota, publishes the last will."""

    def reject_offline(packet: bytes) -> bytes | None:
        if not packet.endswith(b"offline"):
            return None
        begin = 4 + packet[3]
        return b"\x40\x04" + packet[begin : begin + 2] + bytes([0x97, 0])

    with Listener(broker.port) as listener, Relay(broker.port, intercept=reject_offline) as relay:
        with make_publisher(settings(relay.port), stop_timeout_s=0.3) as publisher:
            wait_until(lambda: publisher.stats.connected)
            listener.wait_for(lambda: listener.on("emotion/hall/status"))
        listener.wait_for(lambda: listener.on("emotion/hall/status")[-1].payload == "offline")


def test_two_devices_with_the_same_client_id(
    broker: Mosquitto, make_publisher: MakePublisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They disconnect each other, and the error names the likely cause, which not every mosquitto version reports."""
    with (
        Outbox(folder=tmp_path / "other", capacity=1_000) as outbox,
        make_publisher(settings(broker.port)) as publisher,
        make_publisher(settings(broker.port), outbox=outbox),
    ):
        cause = "another device has the client id edge-test too|another client connected as edge-test"
        wait_until(lambda: re.search(cause, str(publisher.stats.last_error)))
    assert sum(re.search(cause, record.message) is not None for record in caplog.records) <= 2


def test_a_stopped_broker_is_not_mistaken_for_a_second_client(broker: Mosquitto, make_publisher: MakePublisher) -> None:
    """Even after three connections that soon broke, an unreachable broker is reported as such."""
    with Relay(broker.port) as relay, make_publisher(settings(relay.port)) as publisher:
        for number in range(3):
            wait_until(lambda number=number: publisher.stats.connected and publisher.stats.reconnects == number)  # type: ignore[misc]
            relay.drop_connections()
        wait_until(lambda: publisher.stats.reconnects == 3)
        broker.kill()
        wait_until(lambda: "before the broker sent an MQTT reply" in str(publisher.stats.last_error))
        assert "another device" not in str(publisher.stats.last_error)


def test_a_session_takeover_is_reported(make_publisher: MakePublisher) -> None:
    """The reason code in the broker's DISCONNECT leads to an error with a remedy."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        make_publisher(settings(server.getsockname()[1])) as publisher,
    ):
        with closing(server.accept()[0]) as link:
            link.recv(4096)
            link.sendall(b"\x20\x03\x00\x00\x00" + b"\xe0\x02\x8e\x00")  # CONNACK, then DISCONNECT: session taken over
            wait_until(lambda: publisher.stats.last_error)
        server.close()  # otherwise the publisher's next connection has to time out
        assert "another client connected as edge-test" in str(publisher.stats.last_error)
        assert "Give each device its own client id" in str(publisher.stats.last_error)


@pytest.mark.parametrize(
    "data", [b"\x20\x03\x00\x00\x00\x00\xff", b"\x20\x03\x00\x00\x00\x40\x01\x00", b"HTTP/1.1 400 Bad"]
)
def test_invalid_packets_do_not_stop_the_agent(make_publisher: MakePublisher, data: bytes) -> None:
    """Whatever the server sends, the agent reconnects."""
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        make_publisher(settings(server.getsockname()[1])) as publisher,
    ):
        for _ in range(3):
            with closing(server.accept()[0]) as link:
                link.recv(4096)
                link.sendall(data)
                link.shutdown(socket.SHUT_WR)
        wait_until(lambda: publisher.stats.last_error)
        server.close()


def test_events_are_delivered_over_tls(
    tls_broker: Mosquitto, certificates: Certificates, make_publisher: MakePublisher
) -> None:
    """With the broker's CA file, the agent connects and delivers two hundred events."""
    with make_publisher(settings(tls_broker.port, host="localhost", tls=Tls(ca_file=certificates.ca))) as publisher:
        for _ in range(200):
            publisher.publish(Message("emotion/hall/door/event", b"{}" * 200, qos=1, durable=True))
        wait_until(lambda: publisher.stats.connected and publisher.stats.queue_depth == 0)


def test_a_ca_certificate_without_key_usage_works_with_any_python(
    tls_broker: Mosquitto, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broker manuals create such certificates, which Python 3.13 rejects by default, as emulated here."""

    def strict_context(**arguments: Any) -> ssl.SSLContext:
        context = create_default_context(**arguments)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    create_default_context = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", strict_context)
    with pytest.raises(ssl.SSLCertVerificationError, match="CA cert does not include key usage"):
        tls_handshake(tls_broker.port, ssl.create_default_context(cafile=certificates.ca))
    probe_broker(settings(tls_broker.port, host="localhost", tls=Tls(ca_file=certificates.ca)))


def tls_handshake(port: int, context: ssl.SSLContext) -> None:
    """Opens a TLS connection and closes it."""
    with (
        socket.create_connection(("localhost", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass


def test_a_broker_that_requires_a_client_certificate(start_broker: StartBroker, certificates: Certificates) -> None:
    """The client is accepted with its certificate, and refused without one."""
    files = [f"cafile {certificates.ca}", f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"]
    broker = start_broker([*files, "require_certificate true", "allow_anonymous true"])
    without_certificate = Tls(ca_file=certificates.ca)
    probe_broker(
        settings(
            broker.port,
            host="localhost",
            tls=replace(without_certificate, cert_file=certificates.client, key_file=certificates.client_key),
        )
    )
    with pytest.raises(BrokerRefused, match="client certificate"):
        probe_broker(settings(broker.port, host="localhost", tls=without_certificate))


def test_an_untrusted_certificate(tls_broker: Mosquitto) -> None:
    """A broker certificate from an unknown CA is rejected, and the error names the setting to change."""
    with pytest.raises(BrokerRefused, match=r"certificate is not trusted .* as the CA file"):
        probe_broker(settings(tls_broker.port, host="localhost", tls=Tls()))


def test_a_certificate_for_another_name(tls_broker: Mosquitto, certificates: Certificates) -> None:
    """The error says that the certificate is not for this address."""
    with pytest.raises(BrokerRefused, match="certificate is not for this IP address"):
        probe_broker(settings(tls_broker.port, host="127.0.0.1", tls=Tls(ca_file=certificates.ca)))


def test_tls_on_a_plain_port(broker: Mosquitto) -> None:
    """The error says that the port does not use TLS."""
    with pytest.raises(BrokerRefused, match="does not speak TLS on that port"):
        probe_broker(settings(broker.port, host="localhost", tls=Tls()))


def test_no_tls_on_a_tls_port(tls_broker: Mosquitto) -> None:
    """The error suggests that the broker expects TLS, because it sent nothing."""
    with pytest.raises(BrokerRefused, match="whether it expects TLS"):
        probe_broker(settings(tls_broker.port, host="localhost"))


@pytest.mark.parametrize(
    "tls", [lambda p: Tls(ca_file=p / "none.pem"), lambda p: Tls(cert_file=p / "none.pem")], ids=["ca", "cert"]
)
def test_a_missing_tls_file(tmp_path: Path, make_publisher: MakePublisher, tls: Callable[[Path], Tls]) -> None:
    """The start fails with an error that names the file."""
    with pytest.raises(ConfigError, match=r"none\.pem: .*No such file"):
        make_publisher(settings(1, tls=tls(tmp_path)))


@pytest.mark.parametrize("host", ["broker.example.org", "192.168.1.10", "2001:db8::1"])
def test_a_password_is_not_sent_unencrypted_over_the_network(host: str) -> None:
    """Settings with a password for a remote broker without TLS are rejected, unless allowed explicitly."""
    with pytest.raises(ConfigError, match="the password would be sent unencrypted over the network"):
        BrokerSettings(host=host, client_id="x", username="u", password="secret")  # noqa: S106
    BrokerSettings(host=host, client_id="x", username="u", password="secret", allow_plaintext_password=True)  # noqa: S106
    BrokerSettings(host=host, client_id="x", username="u", password="secret", tls=Tls())  # noqa: S106


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1", "broker.localhost"])
def test_a_password_for_this_machine_needs_no_tls(host: str) -> None:
    """A password for a broker on the device itself is accepted without TLS."""
    assert BrokerSettings(host=host, client_id="x", username="u", password="secret").password == "secret"  # noqa: S105, S106
