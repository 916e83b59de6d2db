"""`edge run` with a real broker, observed by an independent client."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge.contract.signature import new_signing_key, public_key
from tests.e2e import hall
from tests.e2e.process import Edge, suspended
from tests.mosquitto import PATIENCE_S, Listener, Mosquitto, free_port

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
UNIT = Path(__file__).parents[2] / "deploy" / "emotion-edge.service"


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, broker: Mosquitto) -> Path:
    """A device `hall` whose camera `door` uses the demo source."""
    return hall.configure(tmp_path, bundle=bundle_path, port=broker.port, camera='source = "demo"')


def payload_of(listener: Listener, topic: str) -> Any:
    """Returns the newest JSON payload of a topic."""
    return json.loads(listener.on(topic)[-1].payload)


def test_all_messages_arrive_from_start_to_stop(config: Path, listener: Listener) -> None:
    """Statuses, info, health, state and events arrive and match their schemas; SIGTERM gives a clean disconnect."""
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


def test_a_camera_slower_than_one_frame_per_second_works(
    config: Path, listener: Listener, tmp_path: Path, astronaut_path: Path
) -> None:
    """At 0.8 frames per second, a face and its emotion are published like those of any other camera."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").symlink_to(astronaut_path)
    slow = 'source = "pictures"\nfps = 0.8\nrealtime = true\nloop = true'
    config.write_text(config.read_text().replace('source = "demo"', slow))
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/door/event"))
        listener.wait_for(lambda: payload_of(listener, "emotion/hall/door/emotion")["face_count"] == 1)
        assert agent.stop() == 0, agent.output
    listener.wait_for(lambda: payload_of(listener, "emotion/hall/door/event")["event"] == "end")
    assert payload_of(listener, "emotion/hall/door/event")["emotion"] == "happy"


def test_ctrl_c_disconnects_cleanly(config: Path, listener: Listener) -> None:
    """After SIGINT, the status is `offline`, as after SIGTERM."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/status"))
        assert agent.stop(signal.SIGINT) == 0, agent.output
    listener.wait_for(lambda: listener.on("emotion/hall/status")[-1].payload == "offline")


def test_a_stop_is_in_time_although_broker_camera_and_update_server_hang(
    config: Path, broker: Mosquitto, listener: Listener, tmp_path: Path
) -> None:
    """A stop ends within the unit's timeout, although broker and update server do not respond and a camera hangs."""
    os.mkfifo(tmp_path / "pipe-that-nobody-writes-to")
    with closing(socket.create_server(("127.0.0.1", 0))) as unresponsive:
        url = f"http://127.0.0.1:{unresponsive.getsockname()[1]}/"
        config.write_text(
            config.read_text().replace('source = "demo"', 'source = "pipe-that-nobody-writes-to"')
            + f'[update]\nurl = "{url}"\npublic_keys = ["{public_key(new_signing_key())}"]\n'
            + f"[metrics]\nport = {free_port()}\n"
        )
        with Edge("run", "--config", config) as agent:
            listener.wait_for(lambda: listener.on("emotion/hall/status"))
            listener.publish("emotion/hall/cmd/update", '{"id": 1}')
            with closing(unresponsive.accept()[0]), suspended(broker.pid):
                began_s = time.monotonic()
                assert agent.stop() == 0, agent.output
                stopped_after_s = time.monotonic() - began_s
    [timeout_s] = re.findall(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.MULTILINE)
    assert stopped_after_s < float(timeout_s)


def test_a_killed_agent_is_reported_by_its_will(config: Path, listener: Listener) -> None:
    """After SIGKILL, the broker publishes the will."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/status"))
        agent.stop(signal.SIGKILL)
        listener.wait_for(lambda: listener.on("emotion/hall/status")[-1].payload == "offline")


def test_the_configured_log_level_applies(config: Path, listener: Listener) -> None:
    """Messages below the configured level are not logged."""
    config.write_text(config.read_text() + '[logging]\nlevel = "error"\n')
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/door/emotion"))
        agent.stop()
    assert not [line for line in agent.output if " INFO " in line or " WARNING" in line]


def test_a_reload_applies_a_valid_configuration_and_rejects_an_invalid_one(config: Path, listener: Listener) -> None:
    """After SIGHUP, an added camera works, and the retained topics of a removed one are cleared.

    An error in the file, or in a file that it refers to, is reported with its location and changes nothing.
    """
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/door/emotion"))
        valid = config.read_text()
        config.write_text(valid.replace("[mqtt]", "[mqtt]\nprot = 1"))
        agent.process.send_signal(signal.SIGHUP)
        assert "Perhaps you meant mqtt.port" in agent.wait_for("keeping the running configuration")
        config.write_text(valid + '[[camera]]\nname = "yard"\nsource = "rtmp://camera"\n')
        agent.process.send_signal(signal.SIGHUP)
        assert "rtmp:// streams are not supported" in agent.wait_for("keeping the running configuration")
        for fault, error in (
            ('host = "broker.lan"\nusername = "me"\npassword_file = "config.toml"', "mqtt.allow_plaintext_password"),
            ('ca_file = "config.toml"', "config.toml: the certificate authority cannot be read"),
            ("tls = true\ncert_file = 'config.toml'", "config.toml: the client certificate or its key cannot be read"),
        ):
            config.write_text(valid.replace("[mqtt]", f"[mqtt]\n{fault}"))
            agent.process.send_signal(signal.SIGHUP)
            assert error in agent.wait_for("keeping the running configuration")
        config.write_text(valid + '[[camera]]\nname = "yard"\nsource = "demo"\n')
        agent.process.send_signal(signal.SIGHUP)
        listener.wait_for(lambda: listener.on("emotion/hall/yard/emotion"))
        assert payload_of(listener, "emotion/hall/info")["session"] == hall.session(2)
        config.write_text(valid)
        agent.process.send_signal(signal.SIGHUP)
        listener.wait_for(lambda: [message.payload for message in listener.on("emotion/hall/yard/status")][-1:] == [""])
        assert agent.stop() == 0, agent.output
    assert not [line for line in agent.output if "Traceback" in line]


def test_a_reload_on_a_full_disk_changes_nothing(config: Path, listener: Listener) -> None:
    """The agent keeps running with its configuration, because it could not start again; a later reload works."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/door/emotion"))
        limits = resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        config.write_text(config.read_text() + '[[camera]]\nname = "yard"\nsource = "demo"\n')
        agent.process.send_signal(signal.SIGHUP)
        assert "state: is not writable" in agent.wait_for("keeping the running configuration")
        listener.publish("emotion/hall/cmd/report", '{"id": 1}')
        listener.wait_for(lambda: listener.on("emotion/hall/cmd/report/response"))
        resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, limits)
        agent.process.send_signal(signal.SIGHUP)
        listener.wait_for(lambda: listener.on("emotion/hall/yard/emotion"))
        assert agent.stop() == 0, agent.output


def test_a_stop_during_a_reload_takes_precedence(config: Path, listener: Listener) -> None:
    """SIGTERM during a reload ends the agent, without a second session."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/door/emotion"))
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("reloaded ")
        assert agent.stop() == 0, agent.output
    listener.publish("and then", "nothing")
    listener.wait_for(lambda: listener.on("and then"))
    assert [message.payload for message in listener.on("emotion/hall/status")] == ["online", "offline"]


def test_a_reload_during_a_reload_is_not_lost(config: Path, listener: Listener) -> None:
    """The configuration that was saved last takes effect."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/door/emotion"))
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for("reloaded ")
        agent.wait_for(": connected")  # the new agent, which is still being opened
        config.write_text(config.read_text() + '[[camera]]\nname = "yard"\nsource = "demo"\n')
        agent.process.send_signal(signal.SIGHUP)
        listener.wait_for(lambda: listener.on("emotion/hall/yard/emotion"))
        assert agent.stop() == 0, agent.output


SIGHUP_WHILE_LOADING = """
import os, signal, sys
from edge import classify
from edge.cli import main
load_bundle = classify.load_bundle
def load(*given, **named):
    os.kill(os.getpid(), signal.SIGHUP)
    return load_bundle(*given, **named)
classify.load_bundle = load
sys.exit(main())
"""
"""A program that runs the agent and sends itself SIGHUP whenever it loads a model."""


def test_a_reload_while_the_agent_starts_is_not_lost(config: Path) -> None:
    """A SIGHUP during the start does not end the process; the reload follows."""
    with Edge("run", "--config", config, program=(sys.executable, "-c", SIGHUP_WHILE_LOADING)) as agent:
        agent.wait_for("reloaded ")
        assert agent.stop() == 0, agent.output


BUSY_LOOP = """
import sys
from edge import agent
from edge.cli import main
agent._TICK_S = 0
sys.exit(main())
"""
"""A program that runs the agent without pauses in its main loop, so that signals interrupt its iterations."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT] * 2)
def test_a_signal_at_any_moment_stops_the_agent(config: Path, number: signal.Signals) -> None:
    """The agent stops cleanly, whatever it is doing."""
    config.write_text(config.read_text().replace('source = "demo"', 'source = "not-there"'))
    with Edge("run", "--config", config, program=(sys.executable, "-c", BUSY_LOOP)) as agent:
        agent.wait_for("camera door: ")
        assert agent.stop(number) == 0, agent.output


def test_reload_and_stop_notify_the_service_manager(config: Path, tmp_path: Path) -> None:
    """A reload is reported as RELOADING and READY, and only a stop as STOPPING.

    The watchdog is pinged before the old agent is closed, and again before the new one is opened.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.bind(str(tmp_path / "notify"))

        def receive_until(word: str) -> list[str]:
            """Returns the notifications up to this one, without the status lines."""
            received: list[str] = []
            while word not in received:
                received += [line for line in manager.recv(4096).decode().split("\n") if line.endswith("=1")]
            return received

        environ = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        with Edge("run", "--config", config, environ=environ) as agent:
            assert receive_until("READY=1") == ["READY=1"]
            agent.process.send_signal(signal.SIGHUP)
            assert receive_until("READY=1") == ["RELOADING=1", "WATCHDOG=1", "WATCHDOG=1", "READY=1"]
            assert agent.stop() == 0, agent.output
            assert receive_until("STOPPING=1") == ["WATCHDOG=1", "STOPPING=1"]
