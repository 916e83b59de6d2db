"""`edge demo`."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.commands import embedded_broker as module
from edge.commands.embedded_broker import embedded_broker
from edge.errors import RuntimeMissing
from edge.mqtt import BrokerSettings, probe_broker
from tests.e2e.process import EDGE, Edge
from tests.mosquitto import PROGRAM


def test_the_demo_shows_emotions_without_any_configuration(bundle_path: Path) -> None:
    """The demo prints the messages of all topics, and suggests next steps at the end."""
    with Edge("demo", "--model", bundle_path) as demo:
        for phrase in ("emotion/demo/status ", "emotion/demo/camera/event ", "1 face  happy"):
            demo.wait_for(phrase)
        assert demo.stop(signal.SIGINT) == 0, demo.output
    assert "public-domain photographs" in demo.output[0]
    assert "mosquitto_sub -V 5 -p" in demo.output[1]
    assert "edge run --config FILE" in demo.output[-1]


def test_a_demo_without_faces_ends_on_time_with_an_error(bundle_path: Path, tmp_path: Path) -> None:
    """If no face is detected until the time is up, the exit code is 1, and the error has a remedy."""
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((360, 640, 3), 200, np.uint8))
    command = [EDGE, "demo", "--seconds", "15", "--source", str(tmp_path / "wall.png"), "--model", str(bundle_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no emotion was detected. Sit in front of the camera in good light" in done.stderr
    assert "no face" in done.stdout


def test_a_source_that_cannot_be_opened_is_an_error(bundle_path: Path) -> None:
    """A missing webcam is an error with the exit code of an unavailable source."""
    command = [EDGE, "demo", "--model", str(bundle_path), "--source", "/dev/video99"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "/dev/video99: no such camera" in done.stderr


def test_an_unsupported_source_is_a_usage_error(bundle_path: Path) -> None:
    """An unsupported URL is rejected by the argument parser, with its password masked."""
    command = [EDGE, "demo", "--model", str(bundle_path), "--source", "rtmp://me:hunter2@camera"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--source: rtmp:// streams are not supported" in done.stderr
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(("option", "path"), [("--source", "~nobody-here/film.mp4"), ("--model", "~nobody-here")])
def test_a_home_folder_that_does_not_exist_is_reported(option: str, path: str) -> None:
    """A path with the home folder of an unknown user is reported in one line with a remedy."""
    done = subprocess.run([EDGE, "demo", option, path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"edge: error: {path}: there is no home folder ~nobody-here. "
        "Prefix a name that starts with ~ with ./, or use the full path.\n"
    )


@pytest.fixture(params=["rumqttd", "mosquitto"])
def broker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[int]:
    """The demo's broker: the Python package (rumqttd), or the mosquitto of the system."""
    if request.param == "mosquitto":
        if PROGRAM is None:
            pytest.skip("mosquitto is not installed")
        monkeypatch.setattr(module, "find_spec", lambda _name: None)
    return embedded_broker()


def test_the_broker_supports_mqtt_5_and_is_only_reachable_locally(broker: AbstractContextManager[int]) -> None:
    """The broker listens only on the loopback interface, and is stopped afterwards."""
    with broker as port:
        settings = BrokerSettings(host="127.0.0.1", port=port, client_id="test")
        assert probe_broker(settings) == "MQTT 5"
        listening = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line}
        assert f"0100007F:{port:04X}" in listening, "127.0.0.1 in the kernel's notation"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)


def test_without_a_broker_the_error_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install."""
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    monkeypatch.setattr(shutil, "which", lambda *_args, **_keywords: None)
    with pytest.raises(RuntimeMissing, match=r"pip install 'edge-emotion\[demo\]'"), embedded_broker():
        pass
