"""The agent as it is put together, beside a real broker: what meets it at the start, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge import adapters, bootstrap, notify
from edge import agent as supervisor
from edge.adapters import broker_settings
from edge.bootstrap import open_agent
from edge.config import Config
from edge.config.sections import AdaptationConfig, tables
from edge.contract.signature import new_signing_key, public_key
from edge.mqtt import BrokerSettings, Tls
from edge.state import DeviceState
from edge.topics import Topics
from tests.mosquitto import PATIENCE_S, Listener, Mosquitto, free_port, wait_until

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


def test_commands_to_a_group_that_the_device_has_left_do_nothing(
    configure: Configure, tmp_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """The broker may go on with a session in which the device still listened to a group or under another name."""
    with DeviceState(tmp_path / "state") as state:
        for subscription in ("emotion/fleet/shop/cmd/+", "emotion/porch/cmd/+"):
            leave_a_session(broker.port, state.client_id, subscription)
    listener.publish("emotion/fleet/shop/cmd/pause", '{"id": 1}')
    listener.publish("emotion/porch/cmd/pause", '{"id": 2}')
    with open_agent(configure()):
        listener.wait_for(lambda: listener.on("emotion/hall/info"))
        listener.publish("emotion/hall/cmd/resume", '{"id": 3}')
        listener.wait_for(lambda: listener.on("emotion/hall/cmd/resume/response"))
    assert not listener.on("emotion/hall/cmd/pause/response")
    with DeviceState(tmp_path / "state") as state:
        assert not state.paused


def test_what_a_killed_agent_saw_last_does_not_stand(configure: Configure, listener: Listener) -> None:
    """A camera that cannot be opened after it shows nobody, rather than the face that was there before."""
    listener.publish("emotion/hall/door/emotion", '{"emotion": "happy", "face_count": 1}', retain=True)
    config = configure()
    config = config.model_copy(update={"camera": [config.camera[0].model_copy(update={"source": "/dev/video63"})]})
    with open_agent(config) as agent:
        stop_s = time.monotonic() + 1
        agent.run(until=lambda: time.monotonic() > stop_s)
        listener.wait_for(lambda: len(listener.on("emotion/hall/door/emotion")) > 1)
    state = json.loads(listener.on("emotion/hall/door/emotion")[-1].payload)
    assert (state["emotion"], state["face_count"], state["seq"]) == (None, 0, 0)


@pytest.mark.parametrize(("hung_after_s", "pinged"), [(60.0, True), (-1.0, False)])
def test_the_watchdog_gives_its_whole_time_to_closing_unless_a_camera_hangs(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, hung_after_s: float, pinged: bool
) -> None:
    """The watchdog is pinged when supervision ends too, but only if every camera thread makes progress."""
    monkeypatch.setattr(supervisor, "_HUNG_AFTER_S", hung_after_s)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        with open_agent(configure()) as agent:
            agent.run(until=lambda: True)
        notify.stopping("the end")
        heard: list[str] = []
        while "STOPPING=1" not in heard:
            heard += manager.recv(4096).decode().split("\n")
    assert ("WATCHDOG=1" in heard) == pinged


def test_a_hung_camera_is_told_where_no_watchdog_bites(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a container, or started by hand, the log is all that there is to see of it."""
    monkeypatch.setattr(supervisor, "_HUNG_AFTER_S", -1.0)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    give_up_s = time.monotonic() + PATIENCE_S
    with open_agent(configure()) as agent:
        agent.run(until=lambda: "is not responding" in caplog.text or time.monotonic() > give_up_s)
    assert time.monotonic() < give_up_s
    [told] = [record.getMessage() for record in caplog.records if "is not responding" in record.message]
    assert told == "camera door is not responding"


def test_the_status_line_says_why_there_is_no_broker(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`systemctl status` answers the first question."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    heard: list[str] = []
    give_up_s = time.monotonic() + PATIENCE_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0)

        def told() -> bool:
            with contextlib.suppress(BlockingIOError):
                heard.append(manager.recv(4096).decode())
            return any("nothing listens on that port" in text for text in heard) or time.monotonic() > give_up_s

        with open_agent(configure(port=free_port())) as agent:
            agent.run(until=told)
    assert "; not connected to the broker (127.0.0.1:" in heard[-1]


HELD_ELSEWHERE = {
    "device.name", "device.state_dir", "device.groups", "camera.name",  # topics: here, test_publish.py
    "camera.source", "logging.level", "metrics.port",  # tests/e2e/test_run.py
    "mqtt.host", "mqtt.port", "mqtt.username", "mqtt.password_file", "mqtt.prefix", "mqtt.homeassistant",
    "mqtt.homeassistant_prefix", "mqtt.tls", "mqtt.ca_file", "mqtt.cert_file", "mqtt.key_file",
    "mqtt.allow_plaintext_password", "metrics.host",  # below
    "publish.snapshots", "update.ca_file",  # tests/e2e/test_control.py, test_update.py
}  # fmt: skip
"""Keys with tests of their own."""


def keys(tables: dict[str, Any]) -> set[str]:
    """The keys in tables of a configuration."""
    return {f"{name}.{key}" for name, of in tables.items() for key in (of[0] if isinstance(of, list) else of)}


def test_every_key_reaches_what_it_is_about(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, bundle_path: Path
) -> None:
    """None is read, checked, documented and then forgotten."""
    given: dict[str, Any] = {}

    def watch(name: str) -> None:
        room = adapters if hasattr(adapters, name) else bootstrap
        make = getattr(room, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            given.update({f"{name}.{key}": value for key, value in named.items()})
            return make(*arguments, **named)

        monkeypatch.setattr(room, name, noted)

    for name in (
        "Composer", "Governor", "Outbox", "Pipeline", "SmoothingRules", "Tracker", "Updater", "create_detector",
        "load_bundle", "open_source", "BundleClassifier", "Agent",
    ):  # fmt: skip
        watch(name)
    chosen: dict[str, Any] = {
        "camera": [{"name": "door", "source": "0", "width_px": 1280, "height_px": 720, "fps": 12.0, "realtime": True,
                    "loop": True}],
        "model": {"path": bundle_path, "runtime": "litert", "threads": 2},
        "detector": {"name": "haar", "min_score": 0.71, "min_face_px": 41, "interval_s": 0.31},
        "tracking": {"max_gap_s": 0.91, "min_iou": 0.21},
        "smoothing": {"time_constant_s": 0.51, "min_dwell_s": 0.61, "margin": 0.11, "unknown_below": 0.41},
        "publish": {"heartbeat_s": 31, "min_interval_s": 1.1, "health_interval_s": 61, "outbox_limit": 20_001},
        "adaptation": {"enabled": True, "hot_c": 79, "cool_c": 71},
        "update": {"url": "https://updates.example", "public_keys": [public_key(new_signing_key())], "interval_h": 25,
                   "automatic": False},
    }  # fmt: skip
    assert keys(chosen) | HELD_ELSEWHERE == {
        f"{table}.{key}" for table, of in tables().items() for key in of.model_fields
    }
    with open_agent(Config.model_validate(configure().model_dump() | chosen)):
        pass
    for key, value in {
        "open_source.width": 1280, "open_source.height": 720, "open_source.fps": 12.0, "open_source.realtime": True,
        "open_source.loop": True, "BundleClassifier.runtime": "litert", "BundleClassifier.threads": 2,
        "create_detector.min_score": 0.71, "create_detector.min_face_px": 41, "create_detector.threads": 2,
        "create_detector.runtime": "litert", "Pipeline.detection_interval_s": 0.31, "Tracker.max_gap_s": 0.91,
        "Tracker.min_iou": 0.21, "SmoothingRules.time_constant_s": 0.51, "SmoothingRules.min_dwell_s": 0.61,
        "SmoothingRules.margin": 0.11, "SmoothingRules.unknown_below": 0.41, "Composer.heartbeat_s": 31,
        "Composer.min_interval_s": 1.1, "Agent.health_interval_s": 61, "Outbox.capacity": 20_001,
        "Governor.hot_c": 79, "Governor.cool_c": 71, "Updater.interval_s": 25 * 3600, "Updater.automatic": False,
    }.items():  # fmt: skip
        assert (key, given[key]) == (key, value)
    given.clear()
    with open_agent(configure(homeassistant=False).model_copy(update={"adaptation": AdaptationConfig(enabled=False)})):
        assert "Governor.hot_c" not in given
    manifest = json.loads((bundle_path / "manifest.json").read_text())
    assert given["SmoothingRules.unknown_below"] == manifest["calibration"]["unknown_below"]


def test_the_way_to_the_broker_is_the_configured_one(configure: Configure, tmp_path: Path) -> None:
    """With every key of [mqtt] that says how to be let in."""
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    (tmp_path / "password").write_text("s3cret\n")
    (tmp_path / "password").chmod(0o600)
    files = {"ca_file": tmp_path / "ca.pem", "cert_file": tmp_path / "cert.pem", "key_file": tmp_path / "key.pem"}
    login = {"host": "broker.lan", "username": "hall", "password_file": tmp_path / "password"}
    over_tls = broker_settings(configure(port=8884, **login, **files), "edge-1")
    assert over_tls == BrokerSettings(
        host="broker.lan", port=8884, client_id="edge-1", username="hall", password="s3cret",  # noqa: S106
        tls=Tls(**files),
    )  # fmt: skip
    assert broker_settings(configure(tls=True), "edge-1").tls == Tls()
    in_the_open = broker_settings(configure(**login, allow_plaintext_password=True), "edge-1")
    assert (in_the_open.tls, in_the_open.allow_plaintext_password) == (None, True)


def test_home_assistant_may_listen_elsewhere(configure: Configure, listener: Listener) -> None:
    """Under another prefix than its own it is told of the device, and its birth is heard there."""
    with open_agent(configure(homeassistant_prefix="ha")):
        listener.wait_for(lambda: listener.on("ha/device/emotion_hall/config"))
        listener.take()
        listener.publish("ha/status", "online")
        listener.wait_for(lambda: listener.on("ha/device/emotion_hall/config"))


def test_metrics_are_served_where_they_are_wanted(configure: Configure) -> None:
    """At the address and the port of [metrics]."""
    port = free_port()
    wanted = {"metrics": {"host": "127.0.0.2", "port": port}}
    with open_agent(Config.model_validate(configure().model_dump() | wanted)):
        assert urllib.request.urlopen(f"http://127.0.0.2:{port}/metrics", timeout=PATIENCE_S).status == 200


def kept(broker: Mosquitto) -> set[str]:
    """The topics on which somebody who comes now finds a message."""
    with Listener(broker.port) as newcomer:
        newcomer.publish("the/end", "-")
        newcomer.wait_for(lambda: newcomer.on("the/end"))
        return {message.topic for message in newcomer.received if message.payload} - {"the/end"}


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
