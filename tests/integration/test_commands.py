"""Commands received over a real broker, and their responses."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from edge.contract.errors import UserError
from edge.domain import Message
from edge.mqtt import BrokerSettings
from edge.mqtt.commands import Commands
from edge.mqtt.packets import is_valid_topic
from edge.payloads import CommandRequest, CommandResponse
from edge.topics import Topics
from tests.integration.conftest import MakePublisher, StartBroker
from tests.mosquitto import Listener, Mosquitto, wait_until
from tests.network import NO_MQTT5, Relay, puback

STATUS = "emotion/hall/status"


def refuse(request: CommandRequest) -> None:
    """Handler of a command that cannot be executed."""
    raise UserError(f"{request.camera} is no camera here")


def fail(request: CommandRequest) -> None:
    """Handler with a bug."""
    raise ZeroDivisionError(request.id)


HANDLERS = {
    "echo": lambda request: {"camera": request.camera, "value": request.value},
    "refuse": refuse,
    "fail": fail,
    "unencodable": lambda _request: "\ud800",
    "big": lambda _request: "x" * 2000,
}


@pytest.fixture
def publisher(broker: Mosquitto, listener: Listener, make_publisher: MakePublisher) -> Any:
    """A publisher that is subscribed to commands."""
    settings = BrokerSettings(port=broker.port, client_id="edge-test")
    with make_publisher(settings, commands=HANDLERS, groups=("ground-floor",)) as publisher:
        listener.wait_for(lambda: listener.on(STATUS))
        yield publisher


def send_command(listener: Listener, name: str, payload: str | bytes, **options: Any) -> dict[str, Any]:
    """Sends a command and returns the decoded response."""
    topic = f"emotion/hall/cmd/{name}/response"
    before = len(listener.on(topic))
    listener.publish(f"emotion/hall/cmd/{name}", payload, **options)
    listener.wait_for(lambda: len(listener.on(topic)) > before)
    response: dict[str, Any] = json.loads(listener.on(topic)[-1].payload)
    return response


@pytest.mark.usefixtures("publisher")
def test_the_response_has_the_id_of_the_command(listener: Listener) -> None:
    """The response also says that the command was executed, and contains its result."""
    response = send_command(listener, "echo", '{"id": "a1", "camera": "door", "value": true}')
    assert (response["id"], response["ok"], response["error"]) == ("a1", True, None)
    assert response["result"] == {"camera": "door", "value": True}


@pytest.mark.usefixtures("publisher")
def test_a_command_to_a_group_reaches_its_devices(listener: Listener) -> None:
    """One message reaches all devices of the group, and each responds on its own topic."""
    listener.publish("emotion/fleet/ground-floor/cmd/echo", '{"id": 5}')
    listener.wait_for(lambda: listener.on("emotion/hall/cmd/echo/response"))
    assert json.loads(listener.on("emotion/hall/cmd/echo/response")[0].payload)["id"] == 5


@pytest.mark.usefixtures("publisher")
def test_the_mqtt_5_response_topic_is_used(listener: Listener) -> None:
    """The response is also sent there, with the correlation data."""
    send_command(listener, "echo", '{"id": "1"}', response_topic="my/responses", correlation_data=b"\x01\x02")
    listener.wait_for(lambda: listener.on("my/responses"))
    assert listener.on("my/responses")[0].properties["CorrelationData"] == "0102"
    assert listener.on("my/responses")[0].properties["MessageExpiryInterval"] <= 60  # it may contain a snapshot


@pytest.mark.parametrize("name", ["my/+/responses", "my/#", ""])
def test_an_invalid_response_topic_is_not_used(name: str) -> None:
    """Some brokers forward such a response topic, but all drop a connection that publishes on it."""
    assert not is_valid_topic(name)


@pytest.mark.usefixtures("publisher")
def test_the_default_topic_as_response_topic_gets_one_response(listener: Listener) -> None:
    """The response is not sent twice, and has the correlation data."""
    topic = "emotion/hall/cmd/echo/response"
    send_command(listener, "echo", '{"id": "1"}', response_topic=topic, correlation_data=b"\x01\x02")
    send_command(listener, "echo", '{"id": "2"}')
    first, second = listener.on(topic)
    assert (json.loads(first.payload)["id"], json.loads(second.payload)["id"]) == ("1", "2")
    assert first.properties["CorrelationData"] == "0102"


@pytest.mark.usefixtures("publisher")
def test_invalid_and_failing_commands_have_a_response(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown, malformed, refused and failing commands each get an error, and the next command works."""
    assert send_command(listener, "dance", '{"id": "1"}')["error"] == (
        "unknown command dance. Available commands: big, echo, fail, refuse, unencodable."
    )
    assert "Invalid JSON" in send_command(listener, "echo", "{")["error"]
    assert send_command(listener, "echo", '{"id": "2", "vlaue": 1}')["error"].startswith("vlaue: Extra inputs")
    assert send_command(listener, "echo", '{"id": "2", "vlaue": 1}')["id"] == "2"
    assert send_command(listener, "echo", '{"id": true}')["id"] is None
    for lone_surrogate in ('{"id": "\\ud800"}', b'{"id": "\xed\xa0\x80"}'):
        response = send_command(listener, "echo", lone_surrogate)
        assert (response["id"], response["ok"]) == (None, False)
    assert send_command(listener, "echo", '{"id": null}')["error"].startswith("id: Input should be")
    assert send_command(listener, "echo", '{"id": true}')["error"].startswith("id: Input should be")
    assert send_command(listener, "unencodable", '{"id": "2"}')["error"] == "the command failed; see the agent's log"
    assert "the limit is 4096" in send_command(listener, "echo", "x" * 5000)["error"]
    assert send_command(listener, "refuse", '{"id": "3", "camera": "roof"}')["error"] == "roof is no camera here."
    assert "see the agent's log" in send_command(listener, "fail", '{"id": "4"}')["error"]
    assert any(record.exc_info for record in caplog.records)
    assert send_command(listener, "echo", '{"id": "5"}')["ok"]


@pytest.mark.usefixtures("publisher")
def test_a_retained_command_is_ignored(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    """A command that is published as retained is executed neither now nor at the next start."""
    listener.publish("emotion/hall/cmd/echo", '{"id": "stale"}', retain=True)
    assert send_command(listener, "echo", '{"id": "fresh"}')["id"] == "fresh"
    assert len(listener.on("emotion/hall/cmd/echo/response")) == 1
    assert any("a retained command is ignored" in record.message for record in caplog.records)


@pytest.mark.parametrize("old_broker", [False, True])
def test_a_retained_command_is_ignored_at_the_start(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher, *, old_broker: bool
) -> None:
    """A command that the broker has retained is not executed when the agent connects."""
    listener.publish("emotion/hall/cmd/echo", '{"id": "stale"}', retain=True)
    with (
        Relay(broker.port, mqtt5_reply=NO_MQTT5 if old_broker else None) as relay,
        make_publisher(BrokerSettings(port=relay.port, client_id="edge-test"), commands=HANDLERS),
    ):
        listener.wait_for(lambda: listener.on(STATUS))
        assert send_command(listener, "echo", '{"id": "fresh"}')["id"] == "fresh"
    assert len(listener.on("emotion/hall/cmd/echo/response")) == 1


def test_oversized_messages_are_discarded_by_the_broker(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """With a Maximum Packet Size, no message can exhaust a small device's memory, again after each restart."""
    with make_publisher(BrokerSettings(port=broker.port, client_id="edge-test"), commands=HANDLERS) as publisher:
        listener.wait_for(lambda: listener.on(STATUS))
        listener.publish("emotion/hall/cmd/echo", "x" * 2_000_000)
        assert send_command(listener, "echo", '{"id": "1"}')["ok"]
        assert len(listener.on("emotion/hall/cmd/echo/response")) == 1
        assert publisher.stats.reconnects == 0


def test_a_response_that_is_too_large_for_the_broker_becomes_an_error(
    start_broker: StartBroker, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """The sender gets an error response instead, and the connection is kept."""
    broker = start_broker(["allow_anonymous true", "max_packet_size 1500"])
    with (
        Listener(broker.port) as listener,
        make_publisher(BrokerSettings(port=broker.port, client_id="edge-test"), commands=HANDLERS) as publisher,
    ):
        listener.wait_for(lambda: listener.on(STATUS))
        response = send_command(listener, "big", '{"id": "1"}', response_topic="my/responses", correlation_data=b"\x01")
        assert (response["id"], response["ok"], response["result"]) == ("1", False, None)
        assert response["error"] == "the response exceeds the broker's limit of 1500 bytes"
        listener.wait_for(lambda: listener.on("my/responses"))
        assert send_command(listener, "echo", '{"id": "2"}')["ok"]
        assert publisher.stats.reconnects == 0
    assert any("exceeds the broker's limit" in record.message for record in caplog.records)


def test_deeply_nested_json_has_an_error_response() -> None:
    """A request with thousands of nested arrays gets the same response as any other malformed one."""
    commands = Commands(topics=Topics("emotion", "hall"), handlers=HANDLERS)
    response = commands.respond("emotion/hall/cmd/echo", b"[" * 4000, wall_s=0.0)
    assert not CommandResponse.model_validate_json(response.payload).ok


def test_commands_during_the_shutdown_are_refused(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher
) -> None:
    """Commands that arrive while the last events are delivered get an error response."""

    def discard_events(packet: bytes) -> bytes | None:
        return b"\xd0\x00" if puback(packet, reason=0) is not None else None

    with Relay(broker.port, intercept=discard_events) as relay:
        publisher = make_publisher(BrokerSettings(port=relay.port, client_id="edge-test"), commands=HANDLERS)
        with publisher:
            listener.wait_for(lambda: listener.on(STATUS))
            publisher.publish(Message("emotion/hall/door/event", b"{}", qos=1, durable=True))
            stopping = threading.Thread(target=publisher.__exit__)
            stopping.start()
            response = send_command(listener, "echo", '{"id": "1"}')
            stopping.join()
    assert (response["id"], response["ok"], response["error"]) == ("1", False, "the agent is shutting down; try again")


def test_a_flood_of_commands_does_not_exhaust_the_memory(
    broker: Mosquitto, listener: Listener, make_publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    """Commands that arrive faster than the broker acknowledges responses are skipped, which is logged once."""
    snapshots = 0

    def take_a_snapshot(_request: CommandRequest) -> str:
        nonlocal snapshots
        snapshots += 1
        return "x" * 100_000

    def discard_responses(packet: bytes) -> bytes | None:
        return b"\xd0\x00" if puback(packet, "/response", reason=0) is not None else None

    with Relay(broker.port, intercept=discard_responses) as relay:
        caplog.set_level("INFO")
        settings = BrokerSettings(port=relay.port, client_id="edge-test")
        with make_publisher(settings, commands={"snapshot": take_a_snapshot}):
            listener.wait_for(lambda: listener.on(STATUS))
            for _ in range(500):
                listener.publish("emotion/hall/cmd/snapshot", '{"id": 1}')
            wait_until(lambda: "some are skipped" in caplog.text)
            listener.publish("emotion/hall/status", "offline", retain=False)  # other messages are still handled
            wait_until(lambda: "a delayed last will" in caplog.text)
            assert snapshots < 100
    assert caplog.text.count("some are skipped") == 1
