"""`edge run` against a real broker: an independent client sees the device come, speak and go."""

from __future__ import annotations

import json
import os
import signal
import time
from inspect import signature
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge import agent as supervisor
from edge import publish
from edge.publish import MqttPublisher
from tests.e2e import hall
from tests.e2e.process import Edge, frozen
from tests.mosquitto import Listener, Mosquitto

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, broker: Mosquitto) -> Path:
    """A device `hall` whose camera `door` films the photographs."""
    return hall.configure(tmp_path, bundle=bundle_path, port=broker.port, camera='source = "demo"')


def payload_of(listener: Listener, topic: str) -> Any:
    """The newest JSON payload of a topic."""
    return json.loads(listener.on(topic)[-1].payload)


def test_a_life_of_the_agent(config: Path, listener: Listener) -> None:
    """Online, info, the camera, an emotion, its event and health arrive; after SIGTERM the device says goodbye."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/door/event"))
        listener.wait_for(lambda: listener.on("emotion/hall/health"))
        assert agent.stop() == 0, agent.output
    for kind, topic in (("info", "info"), ("health", "health"), ("state", "door/emotion"), ("event", "door/event")):
        schema = json.loads((SCHEMAS / f"{kind}.json").read_text())
        jsonschema.validate(payload_of(listener, f"emotion/hall/{topic}"), schema)
    listener.wait_for(lambda: len(listener.on("emotion/hall/status")) >= 2)
    assert [message.payload for message in listener.on("emotion/hall/status")] == ["online", "offline"]
    assert listener.on("emotion/hall/door/status")[-1].payload == "offline"
    assert not [line for line in agent.output if "Traceback" in line]


def test_ctrl_c_stops_it_as_orderly(config: Path, listener: Listener) -> None:
    """Somebody who tries the agent in a terminal leaves no device behind that looks alive."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/status"))
        assert agent.stop(signal.SIGINT) == 0, agent.output
    listener.wait_for(lambda: listener.on("emotion/hall/status")[-1].payload == "offline")


def test_it_ends_within_five_seconds_though_broker_and_camera_hang(
    config: Path, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A stop does not wait for what never answers: a broker that is frozen, a camera whose driver hangs."""
    os.mkfifo(tmp_path / "pipe-that-nobody-writes-to")
    config.write_text(config.read_text().replace('source = "demo"', 'source = "pipe-that-nobody-writes-to"'))
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/status"))
        with frozen(broker.pid):
            began_s = time.monotonic()
            assert agent.stop() == 0, agent.output
            took_s = time.monotonic() - began_s
    assert took_s < 10, "the unit's TimeoutStopSec, with room for a busy machine"


def test_what_the_parts_of_a_stop_may_take_is_less_than_five_seconds() -> None:
    """The supervisor's tick, the cameras, the goodbye and what may hold the publisher up come one after the other."""
    goodbye_s = signature(MqttPublisher).parameters["stop_timeout_s"].default
    assert supervisor._TICK_S + supervisor._STOP_WITHIN_S + goodbye_s + publish._LONGEST_WAIT_S < 5


def test_a_killed_agent_is_reported_by_its_will(config: Path, listener: Listener) -> None:
    """After a crash, the broker says within seconds that the device is gone."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/status"))
        agent.stop(signal.SIGKILL)
        listener.wait_for(lambda: listener.on("emotion/hall/status")[-1].payload == "offline")


def test_the_log_level_is_the_configured_one(config: Path, listener: Listener) -> None:
    """A device that is to be quiet is."""
    config.write_text(config.read_text() + '[logging]\nlevel = "error"\n')
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/door/emotion"))
        agent.stop()
    assert not [line for line in agent.output if " INFO " in line or " WARNING" in line]


def test_a_reload_takes_a_good_configuration_and_survives_a_bad_one(config: Path, listener: Listener) -> None:
    """After SIGHUP, a camera that was added looks; a mistake in the file is told with its line and changes nothing."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/door/emotion"))
        good = config.read_text()
        config.write_text(good.replace("[mqtt]", "[mqtt]\nprot = 1"))
        agent.process.send_signal(signal.SIGHUP)
        assert "Perhaps you meant mqtt.port" in agent.wait_for("the running configuration stays")
        config.write_text(good + '[[camera]]\nname = "yard"\nsource = "demo"\n')
        agent.process.send_signal(signal.SIGHUP)
        listener.wait_for(lambda: listener.on("emotion/hall/yard/emotion"))
        assert payload_of(listener, "emotion/hall/info")["session"] == 2
        assert agent.stop() == 0, agent.output
    assert not [line for line in agent.output if "Traceback" in line]
