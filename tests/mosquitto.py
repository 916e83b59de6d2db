"""A real mosquitto broker on a free port, and an independent client that records all messages."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
"""Path of mosquitto, None if it is not installed."""

DYNAMIC_SECURITY = Path(f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}/mosquitto_dynamic_security.so")
"""A plugin of Debian's mosquitto that rejects subscriptions; an access list would only filter messages."""


def allow_only_subscription(topic_filter: str, config: Path) -> list[str]:
    """Returns mosquitto settings that reject all other subscriptions. Skips the test if the plugin is not installed.

    Args:
        topic_filter: The only filter that clients may subscribe to.
        config: Path of the plugin's configuration file, which is written.
    """
    if not DYNAMIC_SECURITY.exists():
        pytest.skip("mosquitto's dynamic security plugin is not installed")
    allowed = {"acltype": "subscribePattern", "topic": topic_filter, "allow": True}
    access = {
        "defaultACLAccess": {"publishClientSend": True, "publishClientReceive": True, "subscribe": False},
        "roles": [{"rolename": "device", "acls": [allowed]}],
        "groups": [{"groupname": "everybody", "roles": [{"rolename": "device"}]}],
        "anonymousGroup": "everybody",
    }
    config.write_text(json.dumps(access))
    return ["allow_anonymous true", f"plugin {DYNAMIC_SECURITY}", f"plugin_opt_config_file {config}"]


UNLIMITED_QUEUES = ("max_queued_messages 0", "max_inflight_messages 0")
"""Mosquitto settings with which a burst of messages is forwarded at once, and none is dropped for a slow subscriber."""

PATIENCE_S = 60.0
"""Timeout of the conditions that tests wait for; long, because only failing tests reach it, even on a busy machine."""


def wait_until(condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
    """Polls a condition until it holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not become true"
        time.sleep(0.01)


def free_port() -> int:
    """Returns an unused port outside the range of ephemeral ports."""
    rng = random.SystemRandom()  # the global generator may be seeded, so that parallel tests would get the same port
    while True:
        port = rng.randrange(10_000, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):  # the port is in use
            probe.bind(("127.0.0.1", port))
            return port


class Mosquitto:
    """A broker that can be killed and restarted on the same port. It has no persistence unless the settings enable it.

    Args:
        folder: Folder for its configuration and log.
        settings: Lines of its configuration. By default, anonymous clients are accepted.
        port: Port to listen on; a free one by default.
    """

    def __init__(
        self, folder: Path, settings: Sequence[str] = ("allow_anonymous true",), port: int | None = None
    ) -> None:
        self.port = port or free_port()
        self._folder = folder
        self._config = folder / f"mosquitto-{self.port}.conf"
        # If started as root, it would switch to a user who cannot read the test's files.
        user = ["user root"] if os.geteuid() == 0 else []
        lines = [*user, f"listener {self.port} 127.0.0.1", "log_type all", *settings]
        self._config.write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    @property
    def log(self) -> str:
        """The content of its log."""
        return self._config.with_suffix(".log").read_text()

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it accepts connections."""
        assert PROGRAM is not None
        with self._config.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen([PROGRAM, "-c", self._config], stdout=log, stderr=log)
        wait_until(self._accepts_connections)

    def _accepts_connections(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def kill(self) -> None:
        """Kills it (SIGKILL), as a crash or a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def start_again(self, listener: Listener) -> None:
        """Starts it after `kill`, and waits until the listener has subscribed again.

        The listener does not receive what is published before that, so other clients should connect only afterwards.
        """
        listener.wait_disconnected()
        self.start()
        listener.wait_subscribed()


@dataclass(frozen=True)
class ReceivedMessage:
    """A message that a `Listener` received."""

    topic: str
    payload: str
    qos: int
    retain: bool
    properties: dict[str, Any] = field(default_factory=dict)


class Listener:
    """An independent MQTT 5 client that records all messages, and reconnects within milliseconds.

    Args:
        port: The broker's port.
        login: User name and password; None to connect anonymously.
        topic_filter: The filter that it subscribes to.
    """

    def __init__(self, port: int, *, login: tuple[str, str] | None = None, topic_filter: str = "#") -> None:
        self.received: list[ReceivedMessage] = []
        self._port = port
        self._topic_filter = topic_filter
        self._changed = threading.Condition()
        self._subscribed = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        if login:
            self._client.username_pw_set(*login)
        self._client.reconnect_delay_set(min_delay=0.02, max_delay=0.02)  # type: ignore[arg-type]  # floats work
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        self.wait_subscribed()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_subscribed(self) -> None:
        """Waits until it has subscribed (again)."""
        assert self._subscribed.wait(PATIENCE_S)

    def wait_disconnected(self) -> None:
        """Waits until it has detected the loss of the connection."""
        wait_until(lambda: not self._subscribed.is_set())

    def wait_for(self, condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> None:
        """Waits until a condition on the received messages holds."""
        with self._changed:
            assert self._changed.wait_for(condition, timeout_s), (
                f"the condition did not become true; received {self.received}"
            )

    def take(self) -> list[ReceivedMessage]:
        """Returns and removes the messages received since the last call, in order."""
        with self._changed:
            received, self.received = self.received, []
        return received

    def on(self, topic: str) -> list[ReceivedMessage]:
        """Returns the messages received on a topic, in order."""
        return [message for message in self.received if message.topic == topic]

    def publish(
        self,
        topic: str,
        payload: str | bytes,
        *,
        retain: bool = False,
        response_topic: str | None = None,
        correlation_data: bytes | None = None,
        user_properties: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Publishes a message and waits until the broker has acknowledged it."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        if response_topic is not None:
            properties.ResponseTopic = response_topic
        if correlation_data is not None:
            properties.CorrelationData = correlation_data
        if user_properties:
            properties.UserProperty = list(user_properties)
        self._client.publish(topic, payload, 1, retain, properties).wait_for_publish(PATIENCE_S)

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        client.subscribe(self._topic_filter, options=SubscribeOptions(qos=1, retainAsPublished=True))

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        properties = message.properties.json() if message.properties else {}  # type: ignore[no-untyped-call]
        received = ReceivedMessage(
            message.topic, message.payload.decode(errors="replace"), message.qos, message.retain, properties
        )
        with self._changed:
            self.received.append(received)
            self._changed.notify_all()
