"""The agent as it is put together, beside a real broker: what meets it at the start, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.bootstrap import open_agent
from edge.config import Config
from edge.state import DeviceState
from edge.topics import Topics
from tests.mosquitto import Listener, Mosquitto, free_port, wait_until

Configure = Callable[..., Config]


@pytest.fixture
def configure(tmp_path: Path, bundle_path: Path, broker: Mosquitto) -> Configure:
    """A configuration of this machine's device, with a broker's port, the device's name, cameras, and keys of MQTT."""

    def configure(*, port: int | None = None, name: str = "hall", cameras: str = "door", **mqtt: Any) -> Config:
        return Config.model_validate(
            {
                "device": {"name": name, "state_dir": tmp_path / "state"},
                "model": {"path": bundle_path},
                "mqtt": {"host": "127.0.0.1", "port": port or broker.port, **mqtt},
                "camera": [{"name": camera, "source": "demo"} for camera in cameras.split()],
            }
        )

    return configure


def leave_a_session(port: int, client_id: str, subscription: str) -> None:
    """What is left of a client that was cut off: the broker keeps its session, and messages with QoS 1 for it."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)

    def subscribe(*_: object) -> None:
        client.subscribe(subscription, qos=1)

    def leave(*_: object) -> None:
        client.disconnect()

    client.on_connect, client.on_subscribe = subscribe, leave
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    client.connect("127.0.0.1", port, clean_start=False, properties=properties)
    client.loop_forever()


def test_commands_that_waited_find_a_whole_agent(
    configure: Configure, tmp_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """What was asked while the device was cut off for a moment is carried out at once, for every camera."""
    with DeviceState(tmp_path / "state") as state:
        leave_a_session(broker.port, state.client_id, "emotion/hall/cmd/+")
    listener.publish("emotion/hall/cmd/pause", '{"id": 1}')
    with open_agent(configure(cameras="door yard")):
        listener.wait_for(lambda: listener.on("emotion/hall/cmd/pause/response"))
    [answer] = listener.on("emotion/hall/cmd/pause/response")
    assert json.loads(answer.payload)["result"] == {"paused": ["door", "yard"]}


def kept(broker: Mosquitto) -> set[str]:
    """The topics on which somebody who comes now finds a message."""
    with Listener(broker.port) as newcomer:
        newcomer.publish("the/end", "-")
        newcomer.wait_for(lambda: newcomer.on("the/end"))
        return {message.topic for message in newcomer.heard if message.payload} - {"the/end"}


def leave_everything(listener: Listener, config: Config) -> None:
    """Leaves on the broker what this device would leave there."""
    with open_agent(config):
        listener.wait_for(lambda: listener.on(f"emotion/{config.device.name}/info"))
    topics = Topics("emotion", config.device.name)
    for topic in topics.retained(camera.name for camera in config.camera):
        listener.publish(topic, "-", retain=True)


def test_a_device_leaves_no_ghost_under_its_old_name(
    configure: Configure, broker: Mosquitto, listener: Listener
) -> None:
    """All of the old name is cleared when the broker is there again, however often the agent started before."""
    leave_everything(listener, configure(name="hall", cameras="door yard"))
    assert len(kept(broker)) == 8
    for name in ("landing", "kitchen"):
        with open_agent(configure(name=name, port=free_port())):
            pass
    with open_agent(configure(name="kitchen")):
        mine = {"emotion/kitchen/status", "emotion/kitchen/info", "homeassistant/device/emotion_kitchen/config"}
        wait_until(lambda: kept(broker) == mine)
        listener.publish("emotion/hall/status", "online", retain=True)  # of another device, which has that name now
    with open_agent(configure(name="kitchen", prefix="home/emotion")):
        mine = {topic.replace("emotion/k", "home/emotion/k").replace("emotion_k", "home_emotion_k") for topic in mine}
        wait_until(lambda: kept(broker) == mine | {"emotion/hall/status"})


def test_a_camera_that_is_removed_leaves_no_ghost(configure: Configure, broker: Mosquitto, listener: Listener) -> None:
    """Its topics are cleared, and Home Assistant is told to remove it, at every start until the broker has heard it."""
    leave_everything(listener, configure(cameras="door yard"))
    with open_agent(configure(cameras="door", port=free_port())):
        pass
    for removed in ({"platform": "sensor"}, None):
        listener.take()
        with open_agent(configure(cameras="door")):
            listener.wait_for(lambda: listener.on("homeassistant/device/emotion_hall/config"))
            wait_until(lambda: not any("/yard/" in topic for topic in kept(broker)))
        [announcement] = listener.on("homeassistant/device/emotion_hall/config")
        assert json.loads(announcement.payload)["components"].get("yard_emotion") == removed


def test_home_assistant_forgets_a_device_that_is_not_announced(
    configure: Configure, broker: Mosquitto, listener: Listener
) -> None:
    """Switching the announcement off removes the device there, once the broker has heard it."""
    leave_everything(listener, configure())
    with open_agent(configure(homeassistant=False, port=free_port())):
        pass
    with open_agent(configure(homeassistant=False)):
        wait_until(lambda: not any(topic.startswith("homeassistant/") for topic in kept(broker)))
