from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from edge.contract.errors import UserError
from edge.domain import Message
from edge.mqtt import BrokerSettings
from edge.mqtt.commands import Commands
from edge.mqtt.packets import is_topic
from edge.payloads import CommandRequest, CommandResponse
from edge.topics import Topics
from tests.integration.conftest import Build, StartBroker
from tests.mosquitto import Listener, Mosquitto, wait_until
from tests.network import NO_MQTT5, Relay, acknowledge

STATUS = "emotion/hall/status"


def refuse(request: CommandRequest) -> None:
    """A command that cannot be carried out just now."""
    raise UserError(f"{request.camera} is no camera here")


def fail(request: CommandRequest) -> None:
    """A command with a fault in the program."""
    raise ZeroDivisionError(request.id)


HANDLERS = {
    "echo": lambda request: {"camera": request.camera, "value": request.value},
    "refuse": refuse,
    "fail": fail,
    "mute": lambda _request: "\ud800",
    "big": lambda _request: "x" * 2000,
}


@pytest.fixture
def publisher(broker: Mosquitto, listener: Listener, build: Build) -> Any:
    """An agent that listens to commands."""
    settings = BrokerSettings(port=broker.port, client_id="edge-test")
    with build(settings, commands=HANDLERS, groups=("ground-floor",)) as publisher:
        listener.wait_for(lambda: listener.on(STATUS))
        yield publisher


def ask(listener: Listener, name: str, payload: str | bytes, **more: Any) -> dict[str, Any]:
    """Sends a command and returns the answer."""
    topic = f"emotion/hall/cmd/{name}/response"
    before = len(listener.on(topic))
    listener.publish(f"emotion/hall/cmd/{name}", payload, **more)
    listener.wait_for(lambda: len(listener.on(topic)) > before)
    answer: dict[str, Any] = json.loads(listener.on(topic)[-1].payload)
    return answer


@pytest.mark.usefixtures("publisher")
def test_a_command_is_answered_with_its_id(listener: Listener) -> None:
    """Who sends a command learns that it was carried out, and what came of it."""
    answer = ask(listener, "echo", '{"id": "a1", "camera": "door", "value": true}')
    assert (answer["id"], answer["ok"], answer["error"]) == ("a1", True, None)
    assert answer["result"] == {"camera": "door", "value": True}


@pytest.mark.usefixtures("publisher")
def test_a_command_to_a_group_reaches_its_devices(listener: Listener) -> None:
    """A whole group obeys one message, and each device answers for itself."""
    listener.publish("emotion/fleet/ground-floor/cmd/echo", '{"id": 5}')
    listener.wait_for(lambda: listener.on("emotion/hall/cmd/echo/response"))
    assert json.loads(listener.on("emotion/hall/cmd/echo/response")[0].payload)["id"] == 5


@pytest.mark.usefixtures("publisher")
def test_mqtt5_requesters_are_answered_where_they_ask(listener: Listener) -> None:
    """A response topic and correlation data come back as MQTT 5 wants it."""
    ask(listener, "echo", '{"id": "1"}', response_topic="my/answers", correlation_data=b"\x01\x02")
    listener.wait_for(lambda: listener.on("my/answers"))
    assert listener.on("my/answers")[0].properties["CorrelationData"] == "0102"
    assert listener.on("my/answers")[0].properties["MessageExpiryInterval"] <= 60  # it may hold a snapshot


@pytest.mark.parametrize("name", ["my/+/answers", "my/#", ""])
def test_nothing_is_published_on_what_is_no_topic(name: str) -> None:
    """Some brokers pass on such a response topic, and all close the connection that publishes on it."""
    assert not is_topic(name)


@pytest.mark.usefixtures("publisher")
def test_who_asks_for_the_usual_place_gets_one_answer(listener: Listener) -> None:
    """A response topic that is the default one does not double the answer, which has the correlation data."""
    topic = "emotion/hall/cmd/echo/response"
    ask(listener, "echo", '{"id": "1"}', response_topic=topic, correlation_data=b"\x01\x02")
    ask(listener, "echo", '{"id": "2"}')
    first, second = listener.on(topic)
    assert (json.loads(first.payload)["id"], json.loads(second.payload)["id"]) == ("1", "2")
    assert first.properties["CorrelationData"] == "0102"


@pytest.mark.usefixtures("publisher")
def test_what_goes_wrong_is_answered_too(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    """Unknown, malformed, refused and failing commands each get an error, and the next command works."""
    assert ask(listener, "dance", '{"id": "1"}')["error"] == (
        "no command is called dance. Commands here: big, echo, fail, mute, refuse."
    )
    assert "Invalid JSON" in ask(listener, "echo", "{")["error"]
    assert ask(listener, "echo", '{"id": "2", "vlaue": 1}')["error"].startswith("vlaue: Extra inputs")
    assert ask(listener, "echo", '{"id": "2", "vlaue": 1}')["id"] == "2"
    assert ask(listener, "echo", '{"id": true}')["id"] is None
    for half_a_pair in ('{"id": "\\ud800"}', b'{"id": "\xed\xa0\x80"}'):
        answer = ask(listener, "echo", half_a_pair)
        assert (answer["id"], answer["ok"]) == (None, False)
    assert ask(listener, "echo", '{"id": null}')["error"].startswith("id: Input should be")
    assert ask(listener, "echo", '{"id": true}')["error"].startswith("id: Input should be")
    assert ask(listener, "mute", '{"id": "2"}')["error"] == "the agent failed to carry this out; its log says more"
    assert "at most 4096 are read" in ask(listener, "echo", "x" * 5000)["error"]
    assert ask(listener, "refuse", '{"id": "3", "camera": "roof"}')["error"] == "roof is no camera here."
    assert "its log says more" in ask(listener, "fail", '{"id": "4"}')["error"]
    assert any(record.exc_info for record in caplog.records)
    assert ask(listener, "echo", '{"id": "5"}')["ok"]


@pytest.mark.usefixtures("publisher")
def test_a_retained_command_is_ignored(listener: Listener, caplog: pytest.LogCaptureFixture) -> None:
    """A command that somebody published as retained is carried out neither now nor at the next start."""
    listener.publish("emotion/hall/cmd/echo", '{"id": "stale"}', retain=True)
    assert ask(listener, "echo", '{"id": "fresh"}')["id"] == "fresh"
    assert len(listener.on("emotion/hall/cmd/echo/response")) == 1
    assert any("a retained command is ignored" in record.message for record in caplog.records)


@pytest.mark.parametrize("old_broker", [False, True])
def test_a_kept_command_is_ignored_at_the_start(
    broker: Mosquitto, listener: Listener, build: Build, *, old_broker: bool
) -> None:
    """A command that the broker had kept from long ago does nothing when the agent connects."""
    listener.publish("emotion/hall/cmd/echo", '{"id": "stale"}', retain=True)
    with (
        Relay(broker.port, last_word_to_mqtt5=NO_MQTT5 if old_broker else None) as relay,
        build(BrokerSettings(port=relay.port, client_id="edge-test"), commands=HANDLERS),
    ):
        listener.wait_for(lambda: listener.on(STATUS))
        assert ask(listener, "echo", '{"id": "fresh"}')["id"] == "fresh"
    assert len(listener.on("emotion/hall/cmd/echo/response")) == 1


def test_what_no_request_can_be_never_arrives(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """A message of megabytes would cost a small device its memory, again after each restart: the broker drops it."""
    with build(BrokerSettings(port=broker.port, client_id="edge-test"), commands=HANDLERS) as publisher:
        listener.wait_for(lambda: listener.on(STATUS))
        listener.publish("emotion/hall/cmd/echo", "x" * 2_000_000)
        assert ask(listener, "echo", '{"id": "1"}')["ok"]
        assert len(listener.on("emotion/hall/cmd/echo/response")) == 1
        assert publisher.stats.reconnects == 0


def test_an_answer_that_is_too_large_for_the_broker_is_told(
    start_broker: StartBroker, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks for a picture that the broker would not take gets an error, and the connection stands."""
    broker = start_broker(["allow_anonymous true", "max_packet_size 1500"])
    with (
        Listener(broker.port) as listener,
        build(BrokerSettings(port=broker.port, client_id="edge-test"), commands=HANDLERS) as publisher,
    ):
        listener.wait_for(lambda: listener.on(STATUS))
        answer = ask(listener, "big", '{"id": "1"}', response_topic="my/answers", correlation_data=b"\x01")
        assert (answer["id"], answer["ok"], answer["result"]) == ("1", False, None)
        assert answer["error"] == "the answer is too large for the broker, which takes 1500 bytes"
        listener.wait_for(lambda: listener.on("my/answers"))
        assert ask(listener, "echo", '{"id": "2"}')["ok"]
        assert publisher.stats.reconnects == 0
    assert any("is too large for the broker" in record.message for record in caplog.records)


def test_deep_nesting_is_an_error_too() -> None:
    """A request that is nested thousands deep is answered like any other malformed one."""
    commands = Commands(topics=Topics("emotion", "hall"), handlers=HANDLERS)
    answer = commands.answer("emotion/hall/cmd/echo", b"[" * 4000, wall_s=0.0)
    assert not CommandResponse.model_validate_json(answer.payload).ok


def test_commands_during_the_goodbye_are_answered(broker: Mosquitto, listener: Listener, build: Build) -> None:
    """What comes while the last events are delivered is not carried out any more, and whoever asked learns it."""

    def swallow_events(packet: bytes) -> bytes | None:
        return b"\xd0\x00" if acknowledge(packet, reason=0) is not None else None

    with Relay(broker.port, answer=swallow_events) as relay:
        publisher = build(BrokerSettings(port=relay.port, client_id="edge-test"), commands=HANDLERS)
        with publisher:
            listener.wait_for(lambda: listener.on(STATUS))
            publisher.publish(Message("emotion/hall/door/event", b"{}", qos=1, durable=True))
            leaving = threading.Thread(target=publisher.__exit__)
            leaving.start()
            answer = ask(listener, "echo", '{"id": "1"}')
            leaving.join()
    assert (answer["id"], answer["ok"], answer["error"]) == ("1", False, "the agent is just ending; ask again")


def test_a_flood_of_commands_does_not_fill_the_memory(
    broker: Mosquitto, listener: Listener, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    """Of those that come faster than the broker takes the answers, some are passed over, and the log says so once."""
    snapshots = 0

    def take_a_snapshot(_request: CommandRequest) -> str:
        nonlocal snapshots
        snapshots += 1
        return "x" * 100_000

    def swallow_answers(packet: bytes) -> bytes | None:
        return b"\xd0\x00" if acknowledge(packet, "/response", reason=0) is not None else None

    with Relay(broker.port, answer=swallow_answers) as relay:
        caplog.set_level("INFO")
        settings = BrokerSettings(port=relay.port, client_id="edge-test")
        with build(settings, commands={"snapshot": take_a_snapshot}):
            listener.wait_for(lambda: listener.on(STATUS))
            for _ in range(500):
                listener.publish("emotion/hall/cmd/snapshot", '{"id": 1}')
            wait_until(lambda: "some are passed over" in caplog.text)
            listener.publish("emotion/hall/status", "offline", retain=False)  # what else comes is heard
            wait_until(lambda: "a late will" in caplog.text)
            assert snapshots < 100
    assert caplog.text.count("some are passed over") == 1
