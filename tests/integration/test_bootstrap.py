"""The assembled agent with a real broker: queued commands, systemd notifications, configuration, clearing of topics."""

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
    """A function that creates configurations: `cameras` are names, and further arguments are keys of [mqtt]."""

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


def leave_session(port: int, client_id: str, subscription: str) -> None:
    """Leaves a persistent session, as of a client that lost its connection: the broker queues QoS 1 messages for it."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)

    def subscribe(*_: object) -> None:
        client.subscribe(subscription, qos=1)

    def disconnect(*_: object) -> None:
        client.disconnect()

    client.on_connect, client.on_subscribe = subscribe, disconnect
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    client.connect("127.0.0.1", port, clean_start=False, properties=properties)
    client.loop_forever()


def test_queued_commands_are_executed_for_every_camera(
    configure: Configure, tmp_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """Commands that were queued while the device was disconnected are executed after the start, for every camera."""
    with DeviceState(tmp_path / "state") as state:
        leave_session(broker.port, state.client_id, "emotion/hall/cmd/+")
    listener.publish("emotion/hall/cmd/pause", '{"id": 1}')
    with open_agent(configure(cameras="door yard")):
        listener.wait_for(lambda: listener.on("emotion/hall/cmd/pause/response"))
    [response] = listener.on("emotion/hall/cmd/pause/response")
    assert json.loads(response.payload)["result"] == {"paused": ["door", "yard"]}


def test_commands_on_topics_of_a_former_configuration_are_ignored(
    configure: Configure, tmp_path: Path, broker: Mosquitto, listener: Listener
) -> None:
    """The broker may resume a session with subscriptions to the commands of a former group or a former name."""
    with DeviceState(tmp_path / "state") as state:
        for subscription in ("emotion/fleet/shop/cmd/+", "emotion/porch/cmd/+"):
            leave_session(broker.port, state.client_id, subscription)
    listener.publish("emotion/fleet/shop/cmd/pause", '{"id": 1}')
    listener.publish("emotion/porch/cmd/pause", '{"id": 2}')
    with open_agent(configure()):
        listener.wait_for(lambda: listener.on("emotion/hall/info"))
        listener.publish("emotion/hall/cmd/resume", '{"id": 3}')
        listener.wait_for(lambda: listener.on("emotion/hall/cmd/resume/response"))
    assert not listener.on("emotion/hall/cmd/pause/response")
    with DeviceState(tmp_path / "state") as state:
        assert not state.paused


def test_the_last_state_of_a_killed_agent_is_replaced(configure: Configure, listener: Listener) -> None:
    """A camera that cannot be opened after the restart has a state without faces, not the retained one with a face."""
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
def test_the_watchdog_is_pinged_before_closing_unless_a_camera_hangs(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, hung_after_s: float, pinged: bool
) -> None:
    """A last ping when supervision ends leaves closing the full watchdog timeout, if every camera makes progress."""
    monkeypatch.setattr(supervisor, "_HUNG_AFTER_S", hung_after_s)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        with open_agent(configure()) as agent:
            agent.run(until=lambda: True)
        notify.stopping("the end")
        notifications: list[str] = []
        while "STOPPING=1" not in notifications:
            notifications += manager.recv(4096).decode().split("\n")
    assert ("WATCHDOG=1" in notifications) == pinged


def test_a_hung_camera_is_logged_if_there_is_no_watchdog(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a container or when started by hand, where systemd does not restart the agent, the log names the camera."""
    monkeypatch.setattr(supervisor, "_HUNG_AFTER_S", -1.0)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    deadline_s = time.monotonic() + PATIENCE_S
    with open_agent(configure()) as agent:
        agent.run(until=lambda: "is not responding" in caplog.text or time.monotonic() > deadline_s)
    assert time.monotonic() < deadline_s
    [message] = [record.getMessage() for record in caplog.records if "is not responding" in record.message]
    assert message == "camera door is not responding"


def test_the_status_text_contains_the_connection_error(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`systemctl status` shows why the agent is not connected to the broker."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notifications: list[str] = []
    deadline_s = time.monotonic() + PATIENCE_S
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(0)

        def error_reported() -> bool:
            with contextlib.suppress(BlockingIOError):
                notifications.append(manager.recv(4096).decode())
            return (
                any("nothing listens on that port" in text for text in notifications) or time.monotonic() > deadline_s
            )

        with open_agent(configure(port=free_port())) as agent:
            agent.run(until=error_reported)
    assert "; not connected to the broker (127.0.0.1:" in notifications[-1]


TESTED_ELSEWHERE = {
    "device.name", "device.state_dir", "device.groups", "camera.name",  # topics: here, test_publish.py
    "camera.source", "logging.level", "metrics.port",  # tests/e2e/test_run.py
    "mqtt.host", "mqtt.port", "mqtt.username", "mqtt.password_file", "mqtt.prefix", "mqtt.homeassistant",
    "mqtt.homeassistant_prefix", "mqtt.tls", "mqtt.ca_file", "mqtt.cert_file", "mqtt.key_file",
    "mqtt.allow_plaintext_password", "metrics.host",  # below
    "publish.snapshots", "update.ca_file",  # tests/e2e/test_control.py, test_update.py
}  # fmt: skip
"""Keys that have tests of their own."""


def keys(tables: dict[str, Any]) -> set[str]:
    """Returns the keys in the tables of a configuration, as `table.key`."""
    return {
        f"{name}.{key}" for name, table in tables.items() for key in (table[0] if isinstance(table, list) else table)
    }


def test_every_configuration_key_is_passed_on(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, bundle_path: Path
) -> None:
    """No key is validated and documented but then ignored: its value is an argument of the part that it configures."""
    passed: dict[str, Any] = {}

    def record_arguments(name: str) -> None:
        module = adapters if hasattr(adapters, name) else bootstrap
        original = getattr(module, name)

        def wrapper(*arguments: Any, **keywords: Any) -> Any:
            passed.update({f"{name}.{key}": value for key, value in keywords.items()})
            return original(*arguments, **keywords)

        monkeypatch.setattr(module, name, wrapper)

    for name in (
        "Composer", "Governor", "Outbox", "Pipeline", "SmoothingRules", "Tracker", "Updater", "create_detector",
        "load_bundle", "open_source", "BundleClassifier", "Agent",
    ):  # fmt: skip
        record_arguments(name)
    configured: dict[str, Any] = {
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
    assert keys(configured) | TESTED_ELSEWHERE == {
        f"{table}.{key}" for table, model in tables().items() for key in model.model_fields
    }
    with open_agent(Config.model_validate(configure().model_dump() | configured)):
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
        assert (key, passed[key]) == (key, value)
    passed.clear()
    with open_agent(configure(homeassistant=False).model_copy(update={"adaptation": AdaptationConfig(enabled=False)})):
        assert "Governor.hot_c" not in passed
    manifest = json.loads((bundle_path / "manifest.json").read_text())
    assert passed["SmoothingRules.unknown_below"] == manifest["calibration"]["unknown_below"]


def test_the_broker_settings_are_the_configured_ones(configure: Configure, tmp_path: Path) -> None:
    """The keys of [mqtt] for address, authentication and TLS are all used."""
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
    plaintext = broker_settings(configure(**login, allow_plaintext_password=True), "edge-1")
    assert (plaintext.tls, plaintext.allow_plaintext_password) == (None, True)


def test_home_assistant_may_use_another_prefix(configure: Configure, listener: Listener) -> None:
    """Discovery is published under the configured prefix, and Home Assistant's birth message is received there."""
    with open_agent(configure(homeassistant_prefix="ha")):
        listener.wait_for(lambda: listener.on("ha/device/emotion_hall/config"))
        listener.take()
        listener.publish("ha/status", "online")
        listener.wait_for(lambda: listener.on("ha/device/emotion_hall/config"))


def test_metrics_are_served_at_the_configured_address(configure: Configure) -> None:
    """The metrics server listens on the address and the port in [metrics]."""
    port = free_port()
    metrics = {"metrics": {"host": "127.0.0.2", "port": port}}
    with open_agent(Config.model_validate(configure().model_dump() | metrics)):
        assert urllib.request.urlopen(f"http://127.0.0.2:{port}/metrics", timeout=PATIENCE_S).status == 200


def retained_topics(broker: Mosquitto) -> set[str]:
    """Returns the topics with a retained message, as a new subscriber receives them."""
    with Listener(broker.port) as subscriber:
        subscriber.publish("the/end", "-")
        subscriber.wait_for(lambda: subscriber.on("the/end"))
        return {message.topic for message in subscriber.received if message.payload} - {"the/end"}


def leave_retained_messages(listener: Listener, config: Config) -> None:
    """Runs the agent, then leaves a retained message on each of its topics."""
    with open_agent(config):
        listener.wait_for(lambda: listener.on(f"emotion/{config.device.name}/info"))
    topics = Topics("emotion", config.device.name)
    for topic in topics.retained(camera.name for camera in config.camera):
        listener.publish(topic, "-", retain=True)


def test_a_renamed_device_clears_its_former_topics(configure: Configure, broker: Mosquitto, listener: Listener) -> None:
    """The topics of every former name and prefix are cleared once the broker is reached, even after several starts."""
    leave_retained_messages(listener, configure(name="hall", cameras="door yard"))
    assert len(retained_topics(broker)) == 8
    for name in ("landing", "kitchen"):
        with open_agent(configure(name=name, port=free_port())):
            pass
    with open_agent(configure(name="kitchen")):
        own = {"emotion/kitchen/status", "emotion/kitchen/info", "homeassistant/device/emotion_kitchen/config"}
        wait_until(lambda: retained_topics(broker) == own)
        listener.publish("emotion/hall/status", "online", retain=True)  # of another device that now has this name
    with open_agent(configure(name="kitchen", prefix="home/emotion")):
        own = {topic.replace("emotion/k", "home/emotion/k").replace("emotion_k", "home_emotion_k") for topic in own}
        wait_until(lambda: retained_topics(broker) == own | {"emotion/hall/status"})


def test_the_topics_of_a_removed_camera_are_cleared(
    configure: Configure, broker: Mosquitto, listener: Listener
) -> None:
    """At each start, until acknowledged, its topics are cleared and discovery removes it from Home Assistant."""
    leave_retained_messages(listener, configure(cameras="door yard"))
    with open_agent(configure(cameras="door", port=free_port())):
        pass
    for component in ({"platform": "sensor"}, None):
        listener.take()
        with open_agent(configure(cameras="door")):
            listener.wait_for(lambda: listener.on("homeassistant/device/emotion_hall/config"))
            wait_until(lambda: not any("/yard/" in topic for topic in retained_topics(broker)))
        [announcement] = listener.on("homeassistant/device/emotion_hall/config")
        assert json.loads(announcement.payload)["components"].get("yard_emotion") == component


def test_disabling_discovery_removes_the_device_from_home_assistant(
    configure: Configure, broker: Mosquitto, listener: Listener
) -> None:
    """Once the broker is reached, the retained discovery message is cleared."""
    leave_retained_messages(listener, configure())
    with open_agent(configure(homeassistant=False, port=free_port())):
        pass
    with open_agent(configure(homeassistant=False)):
        wait_until(lambda: not any(topic.startswith("homeassistant/") for topic in retained_topics(broker)))
