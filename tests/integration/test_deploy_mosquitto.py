"""The example broker configuration in deploy/mosquitto with a real mosquitto: TLS, access list, websockets."""

from __future__ import annotations

import base64
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from edge.mqtt.commands import Commands
from edge.snapshot import MAX_BYTES
from edge.topics import Topics
from tests.mosquitto import PATIENCE_S, PROGRAM, Mosquitto, free_port
from tests.programs import require_program

EXAMPLE = Path(__file__).parents[2] / "deploy/mosquitto"
USERS = ("pi-door", "homeassistant", "nodered", "telegraf", "viewer")


def run(*command: str | Path) -> None:
    """Runs a command and raises an error if it fails."""
    subprocess.run(command, capture_output=True, check=True)


@dataclass(frozen=True)
class Broker:
    """The ports of the running example broker, and the folder with its certificates."""

    mqtt_port: int
    websockets_port: int
    certificates: Path


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The example broker, set up as its header describes, but with other folders and ports."""
    if PROGRAM is None or shutil.which("openssl") is None:
        pytest.skip("mosquitto or openssl is not installed (apt-get install mosquitto openssl)")
    folder = tmp_path_factory.mktemp("mosquitto")
    broker = Broker(free_port(), free_port(), folder / "certs")
    run(EXAMPLE / "make-certificates.sh", "localhost", broker.certificates)
    shutil.copy(EXAMPLE / "emotion.acl", folder)
    (folder / "passwd").touch(mode=0o600)
    for user in USERS:
        run("mosquitto_passwd", "-b", folder / "passwd", user, f"secret of {user}")
    text = (EXAMPLE / "emotion.conf").read_text(encoding="utf-8").replace("/etc/mosquitto/", f"{folder}/")
    text = text.replace("listener 8883", f"listener {broker.mqtt_port} 127.0.0.1")
    text = text.replace("listener 9001", f"listener {broker.websockets_port} 127.0.0.1")
    with Mosquitto(folder, [f"persistence_location {folder}/", *text.splitlines()]):
        yield broker


class Client:
    """An MQTT 5 client that connects to the example broker over TLS, and waits for acknowledgements."""

    def __init__(self, broker: Broker, user: str | None, transport: Literal["tcp", "websockets"] = "tcp") -> None:
        self.received: list[str] = []
        self.refusal: str | None = None
        self._port = broker.mqtt_port if transport == "tcp" else broker.websockets_port
        self._changed = threading.Condition()
        self._connected: ReasonCode | None = None
        self._acknowledgements: dict[int, ReasonCode] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, transport=transport)
        context = ssl.create_default_context(cafile=broker.certificates / "ca.crt")
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
        self._client.tls_set_context(context)
        if user is not None:
            self._client.username_pw_set(user, f"secret of {user}")
        self._client.on_connect = lambda *arguments: self._on_connect(arguments[3])
        self._client.on_publish = lambda *arguments: self._on_acknowledgement(arguments[2], arguments[3])
        self._client.on_subscribe = lambda *arguments: self._on_acknowledgement(arguments[2], arguments[3][0])
        self._client.on_message = lambda *arguments: self._on_message(arguments[2].topic)

    def __enter__(self) -> Self:
        self._client.connect("localhost", self._port)
        self._client.loop_start()
        self._wait_for(lambda: self._connected is not None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # Breaks the reference cycle with its callbacks, so that its sockets do not wait for the garbage collector.
        del self._client

    def may_publish(self, topic: str, payload: bytes = b"x") -> bool:
        """Publishes a message. Returns whether the broker accepted it."""
        return not self._reason_code(self._client.publish(topic, payload, qos=1).mid).is_failure

    def subscribe(self, topic_filter: str) -> None:
        """Subscribes, and waits until the broker has accepted the subscription."""
        _, mid = self._client.subscribe(topic_filter, qos=1)
        assert mid is not None
        assert not self._reason_code(mid).is_failure

    def wait_for_message(self, topic: str) -> None:
        """Waits until a message on `topic` is received."""
        self._wait_for(lambda: topic in self.received)

    def _reason_code(self, mid: int) -> ReasonCode:
        self._wait_for(lambda: mid in self._acknowledgements)
        return self._acknowledgements[mid]

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S)

    def _on_connect(self, code: ReasonCode) -> None:
        with self._changed:
            self._connected = code
            self.refusal = str(code) if code.is_failure else None
            self._changed.notify_all()

    def _on_acknowledgement(self, mid: int, code: ReasonCode) -> None:
        with self._changed:
            self._acknowledgements[mid] = code
            self._changed.notify_all()

    def _on_message(self, topic: str) -> None:
        with self._changed:
            self.received.append(topic)
            self._changed.notify_all()


@pytest.mark.parametrize(
    ("user", "topic", "allowed"),
    [
        ("pi-door", "emotion/pi-door/door/event", True),
        ("pi-door", "emotion/pi-door/cmd/pause/response", True),
        ("pi-door", "homeassistant/device/pi-door/config", True),
        ("pi-door", "emotion/pi-hall/door/event", False),
        ("pi-door", "emotion/pi-hall/cmd/pause", False),
        ("pi-door", "emotion/fleet/all/cmd/pause", False),
        ("homeassistant", "emotion/pi-door/cmd/pause", True),
        ("homeassistant", "emotion/pi-door/door/event", False),
        ("homeassistant", "homeassistant/status", True),
        ("homeassistant", "homeassistant/device/emotion_pi-door/config", True),
        ("homeassistant", "emotion/homeassistant/door/event", False),
        ("nodered", "emotion/fleet/all/cmd/pause", True),
        ("nodered", "emotion/pi-door/cmd/pause", True),
        ("nodered", "emotion/nodered/door/event", False),
        ("nodered", "homeassistant/device/emotion_pi-door/config", False),
        ("telegraf", "emotion/pi-door/cmd/pause", False),
        ("telegraf", "emotion/telegraf/door/event", False),
        ("telegraf", "homeassistant/device/emotion_pi-door/config", False),
        ("viewer", "emotion/pi-door/status", False),
        ("viewer", "emotion/viewer/door/event", False),
        ("viewer", "homeassistant/device/emotion_pi-door/config", False),
    ],
)
def test_each_user_may_publish_only_on_its_own_topics(broker: Broker, user: str, topic: str, *, allowed: bool) -> None:
    """A device publishes on its own branch, Home Assistant and Node-RED send commands, all others are read-only."""
    with Client(broker, user) as client:
        assert client.may_publish(topic) == allowed


@pytest.mark.parametrize(
    ("user", "topic"),
    [
        ("homeassistant", "emotion/pi-door/door/emotion"),
        ("nodered", "emotion/pi-door/door/event"),
        ("telegraf", "emotion/pi-door/health"),
        ("viewer", "emotion/pi-door/door/event"),
    ],
)
def test_messages_of_a_device_are_received(broker: Broker, user: str, topic: str) -> None:
    """Home Assistant, Node-RED, Telegraf and dashboards receive the messages of a device."""
    with Client(broker, user) as client, Client(broker, "pi-door") as device:
        client.subscribe("emotion/#")
        assert device.may_publish(topic)
        client.wait_for_message(topic)


@pytest.mark.parametrize("user", ["telegraf", "viewer"])
def test_read_only_users_receive_no_responses(broker: Broker, user: str) -> None:
    """A response to a command may contain a picture, so only users who send commands receive it."""
    response = "emotion/pi-door/cmd/snapshot/response"
    with Client(broker, user) as reader, Client(broker, "nodered") as controller, Client(broker, "pi-door") as device:
        reader.subscribe("emotion/#")
        controller.subscribe("emotion/#")
        assert device.may_publish(response)
        assert device.may_publish("emotion/pi-door/status")
        controller.wait_for_message(response)
        reader.wait_for_message("emotion/pi-door/status")
        assert response not in reader.received


def test_the_largest_response_arrives(broker: Broker) -> None:
    """The response with the largest picture that `snapshot` allows is received by its requester."""
    picture = base64.b64encode(bytes(MAX_BYTES)).decode()
    commands = Commands(topics=Topics("emotion", "pi-door"), handlers={"snapshot": lambda _: {"jpeg": picture}})
    response = commands.respond("emotion/pi-door/cmd/snapshot", b'{"id": 1}', wall_s=0.0)
    with Client(broker, "nodered") as controller, Client(broker, "pi-door") as device:
        controller.subscribe("emotion/#")
        assert device.may_publish(response.topic, response.payload)
        controller.wait_for_message(response.topic)


def test_incomplete_certificates_are_completed(tmp_path: Path) -> None:
    """A run after an interrupted one succeeds with what that left: the CA's key alone, or an empty file."""
    run(EXAMPLE / "make-certificates.sh", "localhost", tmp_path)
    for path in tmp_path.iterdir():
        if path.name != "ca.key":
            path.unlink()
    (tmp_path / "ca.crt").touch()
    run(EXAMPLE / "make-certificates.sh", "localhost", tmp_path)
    run("openssl", "verify", "-CAfile", tmp_path / "ca.crt", tmp_path / "server.crt")


def test_a_certificate_is_renewed_only_with_the_key_of_the_ca(tmp_path: Path) -> None:
    """Without ca.key, a second run reports that and changes nothing; with it, the broker's certificate is renewed."""
    run(EXAMPLE / "make-certificates.sh", "localhost", tmp_path)
    ca, offline_key = (tmp_path / "ca.crt").read_bytes(), tmp_path / "safe"
    (tmp_path / "ca.key").rename(offline_key)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(subprocess.CalledProcessError) as error:
        run(EXAMPLE / "make-certificates.sh", "localhost", tmp_path)
    assert b"ca.key is missing" in error.value.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    offline_key.rename(tmp_path / "ca.key")
    run(EXAMPLE / "make-certificates.sh", "broker.lan", tmp_path)
    assert (tmp_path / "ca.crt").read_bytes() == ca


def test_a_device_receives_only_its_own_commands(broker: Broker) -> None:
    """A command reaches the device that it is for, and no other."""
    with Client(broker, "pi-door") as device, Client(broker, "homeassistant") as home:
        device.subscribe("emotion/#")
        assert home.may_publish("emotion/pi-hall/cmd/pause")
        assert home.may_publish("emotion/pi-door/cmd/pause")
        device.wait_for_message("emotion/pi-door/cmd/pause")
        assert "emotion/pi-hall/cmd/pause" not in device.received


def test_only_the_user_of_a_device_may_clear_its_topics(broker: Broker) -> None:
    """The commands in deploy/README.md for removing a device work for its own user, and for no other."""

    def call(program: str, user: str, *arguments: str) -> str:
        server = ["-h", "localhost", "-p", str(broker.mqtt_port), "--cafile", str(broker.certificates / "ca.crt")]
        login = ["-u", user, "-P", f"secret of {user}"]
        command = [require_program(program, "mosquitto-clients"), *server, *login, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def clear(user: str) -> str:
        topics = ("-t", "emotion/pi-door/#")
        return call("mosquitto_sub", user, *topics, "--retained-only", "--remove-retained", "-v", "-W", "2")

    retained = "emotion/pi-door/status offline\n"
    call("mosquitto_pub", "pi-door", "-t", "emotion/pi-door/status", "-m", "offline", "-q", "1", "--retain")
    assert [clear(user) for user in ("homeassistant", "pi-door", "pi-door")] == [retained, retained, ""]


def test_a_web_page_subscribes_over_websockets(broker: Broker) -> None:
    """Browsers receive messages over a websocket with TLS."""
    with Client(broker, "viewer", "websockets") as page, Client(broker, "pi-door") as device:
        page.subscribe("emotion/+/+/event")
        assert device.may_publish("emotion/pi-door/door/event")
        page.wait_for_message("emotion/pi-door/door/event")


def test_anonymous_clients_are_refused(broker: Broker) -> None:
    """The broker refuses a connection without user name and password."""
    with Client(broker, None) as client:
        assert client.refusal == "Not authorized"


def test_renewing_the_certificate_keeps_the_ca(broker: Broker, tmp_path: Path) -> None:
    """A second run creates a new broker certificate with the CA that the devices trust already."""
    folder = tmp_path / "certs"
    shutil.copytree(broker.certificates, folder)
    run(EXAMPLE / "make-certificates.sh", "192.0.2.7", folder)
    assert (folder / "ca.crt").read_bytes() == (broker.certificates / "ca.crt").read_bytes()
    assert (folder / "server.crt").read_bytes() != (broker.certificates / "server.crt").read_bytes()
    run("openssl", "verify", "-x509_strict", "-CAfile", folder / "ca.crt", folder / "server.crt")
