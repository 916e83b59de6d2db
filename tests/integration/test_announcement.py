"""The Home Assistant discovery message of a starting agent, with a real broker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge import system
from edge.bootstrap import open_agent
from edge.config import load_config
from tests.mosquitto import Listener, Mosquitto


@pytest.mark.parametrize("raspberry_pi", [True, False])
def test_the_discovery_message_describes_the_device(
    broker: Mosquitto,
    listener: Listener,
    bundle_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raspberry_pi: bool,
) -> None:
    """On a Raspberry Pi it contains model and serial number; without a device tree, neither."""
    if raspberry_pi:
        (tmp_path / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.4\0")
        (tmp_path / "serial-number").write_bytes(b"10000000abcdef01\0")
    monkeypatch.setattr(system, "_DEVICE_TREE", tmp_path)
    (tmp_path / "config.toml").write_text(f"""
[device]
name = "hall"
state_dir = "state"
[model]
path = "{bundle_path}"
[mqtt]
port = {broker.port}
[[camera]]
name = "door"
source = "demo"
""")
    topic = "homeassistant/device/emotion_hall/config"
    with open_agent(load_config(tmp_path / "config.toml", {})):
        listener.wait_for(lambda: listener.on(topic))
    device = json.loads(listener.on(topic)[0].payload)["device"]
    described = {key: device[key] for key in ("model", "serial_number") if key in device}
    pi = {"model": "Raspberry Pi 4 Model B Rev 1.4", "serial_number": "10000000abcdef01"}
    assert described == (pi if raspberry_pi else {})
