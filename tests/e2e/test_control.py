"""Commands to a running agent (rate, snapshot, groups), and its metrics over HTTP."""

from __future__ import annotations

import base64
import itertools
import json
import re
import socket
import sys
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import cv2
import jsonschema
import numpy as np
import pytest

from edge.detect import create_detector
from tests.e2e import hall
from tests.e2e.process import Edge
from tests.mosquitto import PATIENCE_S, Listener, Mosquitto, free_port, wait_until

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"


@pytest.fixture
def metrics_port() -> int:
    """The port on which the agent serves its metrics."""
    return free_port()


@pytest.fixture
def face(tmp_path: Path, astronaut_path: Path) -> Path:
    """A small photograph of a face, which is fast to decode repeatedly."""
    photograph = cv2.imread(str(astronaut_path))
    assert photograph is not None
    path = tmp_path / "face.jpg"
    assert cv2.imwrite(str(path), cv2.resize(photograph, (320, 320), interpolation=cv2.INTER_AREA))
    return path


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, broker: Mosquitto, face: Path, metrics_port: int) -> Path:
    """A device `hall` in the group `ground-floor`, whose camera `door` sees a face five times a second."""
    hall.create_state(tmp_path / "state")
    path = tmp_path / "config.toml"
    path.write_text(f"""
[device]
name = "hall"
groups = ["ground-floor"]
state_dir = "state"

[model]
path = "{bundle_path}"

[mqtt]
port = {broker.port}

[publish]
health_interval_s = 1
snapshots = false

[adaptation]
enabled = false

[metrics]
port = {metrics_port}

[[camera]]
name = "door"
source = "{face}"
fps = 5
realtime = true
loop = true
""")
    return path


class Remote:
    """Sends commands to the device and waits for the responses."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._ids = itertools.count(1)

    def request(self, name: str, *, to: str = "hall", **fields: object) -> dict[str, Any]:
        """Sends a command and returns its response, validated against the published schema."""
        number = next(self._ids)
        self._listener.publish(f"emotion/{to}/cmd/{name}", json.dumps({"id": number, **fields}))
        topic = f"emotion/hall/cmd/{name}/response"

        def responses() -> list[dict[str, Any]]:
            return [
                response
                for received in self._listener.on(topic)
                if (response := json.loads(received.payload))["id"] == number
            ]

        self._listener.wait_for(responses)
        (response,) = responses()
        jsonschema.validate(response, json.loads((SCHEMAS / "response.json").read_text()))
        assert not self._listener.on(topic)[-1].retain
        return response

    def health(self) -> dict[str, Any]:
        """Returns the latest health report, validated against the published schema."""
        report: dict[str, Any] = json.loads(self._listener.on("emotion/hall/health")[-1].payload)
        jsonschema.validate(report, json.loads((SCHEMAS / "health.json").read_text()))
        return report

    def await_health(self, session: int, **expected: object) -> None:
        """Waits until a health report of a session (1 is the first) has the expected fields for the camera."""
        number = hall.session(session)

        def matches() -> bool:
            report = self.health()
            return report["session"] == number and bool(expected.items() <= report["cameras"]["door"].items())

        self._listener.wait_for(lambda: self._listener.on("emotion/hall/health"))
        self._listener.wait_for(matches)


def test_rate_and_snapshot_commands_control_the_device(config: Path, listener: Listener, metrics_port: int) -> None:
    """A frame rate limit persists across a restart, snapshots are sent only if enabled, and the metrics agree."""
    remote = Remote(listener)
    with Edge("run", "--config", config) as agent:
        remote.await_health(1, status="online", max_fps=None)
        assert "at least 0.1" in remote.request("rate", value="fast")["error"]
        assert remote.request("rate", to="fleet/ground-floor", value=1)["result"] == {"max_fps": {"door": 1.0}}
        remote.await_health(1, max_fps=1.0)
        wait_until(lambda: 0 < sample(metrics_port, 'emotion_edge_camera_fps{camera="door"}') < 1.2)
        rejected = remote.request("snapshot", camera="door")
        assert (rejected["ok"], rejected["result"]) == (False, None)
        assert "publish.snapshots" in rejected["error"]
        assert agent.stop() == 0, agent.output
    with pytest.raises(URLError):
        scrape(metrics_port)
    config.write_text(config.read_text().replace("snapshots = false", "snapshots = true"))
    with Edge("run", "--config", config) as agent:
        remote.await_health(2, status="online", max_fps=1.0)
        listener.wait_for(lambda: face_is_detected(listener))
        assert shows_a_face(remote.request("snapshot")["result"])
        assert remote.request("rate", value=0)["result"] == {"max_fps": {"door": None}}
        wait_until(lambda: sample(metrics_port, 'emotion_edge_camera_fps{camera="door"}') > 1.5)
        assert agent.stop() == 0, agent.output
    assert not [line for line in agent.output if "Traceback" in line]


def test_the_metrics_report_a_lost_broker_connection(config: Path, broker: Mosquitto, metrics_port: int) -> None:
    """The metric of the broker connection becomes 0 when the broker is killed."""
    with Edge("run", "--config", config) as agent:
        agent.wait_for("serving metrics on")
        wait_until(lambda: sample(metrics_port, "emotion_edge_mqtt_connected") == 1)
        broker.kill()
        wait_until(lambda: sample(metrics_port, "emotion_edge_mqtt_connected") == 0)
        assert agent.stop() == 0, agent.output


HOT = """
import sys
from pathlib import Path
from edge import system
from edge.cli import main
system._THERMAL = Path(sys.argv.pop(1))
sys.exit(main())
"""
"""A program that runs the agent with the temperature read from the file in the first argument."""


def test_a_hot_device_reduces_its_load(config: Path, listener: Listener, metrics_port: int, tmp_path: Path) -> None:
    """A hot device raises the adaptation level; the health report, the metrics and the log show it, with the reason."""
    config.write_text(config.read_text().replace("enabled = false", "enabled = true"))
    thermometer = tmp_path / "temp"
    thermometer.write_text("85000")
    remote = Remote(listener)
    with Edge(thermometer, "run", "--config", config, program=(sys.executable, "-c", HOT)) as agent:
        assert "less often (hot, 85 °C)" in agent.wait_for("adaptation level 1 of 5")
        listener.wait_for(lambda: listener.on("emotion/hall/health") and remote.health()["adaptation"]["level"] >= 1)
        assert "hot" in remote.health()["adaptation"]["reasons"]
        assert sample(metrics_port, "emotion_edge_adaptation_level") >= 1
        assert sample(metrics_port, "emotion_edge_temperature_celsius") == 85
        assert agent.stop() == 0, agent.output


def test_a_metrics_port_in_use_is_a_configuration_error(config: Path, metrics_port: int) -> None:
    """The error names the key and the port."""
    with socket.create_server(("127.0.0.1", metrics_port)), Edge("run", "--config", config) as agent:
        assert str(metrics_port) in agent.wait_for("edge: error: metrics.port:")
        assert agent.process.wait(PATIENCE_S) == 3


def scrape(port: int) -> str:
    """Fetches the metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return text


def sample(port: int, name: str) -> float:
    """Returns the value of a metric."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", scrape(port), re.MULTILINE)
    assert found
    return float(found[1])


def face_is_detected(listener: Listener) -> bool:
    """Whether the agent has detected the face in its second session."""
    states = [json.loads(message.payload) for message in listener.on("emotion/hall/door/emotion")]
    return any(state["session"] == hall.session(2) and state["face_count"] == 1 for state in states)


def shows_a_face(snapshot: dict[str, Any]) -> bool:
    """Whether a face is detected in a snapshot."""
    image = cv2.imdecode(np.frombuffer(base64.b64decode(snapshot["jpeg"]), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    assert image.shape == (snapshot["height"], snapshot["width"], 3)
    return len(create_detector("auto", min_score=0.6, min_face_px=32, runtime="auto", threads=1).detect(image)) == 1
