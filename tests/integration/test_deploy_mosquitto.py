"""The example broker configuration in deploy/mosquitto, run by a real mosquitto: TLS, rights, websockets."""

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
from tests.programs import need

EXAMPLE = Path(__file__).parents[2] / "deploy/mosquitto"
USERS = ("pi-door", "homeassistant", "nodered", "telegraf", "viewer")


def run(*command: str | Path) -> None:
    """Runs a command that must succeed."""
    subprocess.run(command, capture_output=True, check=True)


@dataclass(frozen=True)
class Broker:
    """The running example: where it listens, and the authority that vouches for it."""

    mqtt_port: int
    websockets_port: int
    certificates: Path


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The example broker, set up by the steps in its head. Only its folders and ports are other ones."""
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
    """An MQTT 5 client of the example broker over TLS that waits for the answers to what it asks."""

    def __init__(self, broker: Broker, user: str | None, transport: Literal["tcp", "websockets"] = "tcp") -> None:
        self.received: list[str] = []
        self.refusal: str | None = None
        self._port = broker.mqtt_port if transport == "tcp" else broker.websockets_port
        self._news = threading.Condition()
        self._connected: ReasonCode | None = None
        self._answers: dict[int, ReasonCode] = {}
        self._client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5, transport=transport)
        context = ssl.create_default_context(cafile=broker.certificates / "ca.crt")
        context.verify_flags |= ssl.VERIFY_X509_STRICT  # what Python 3.13 asks of certificates by itself
        self._client.tls_set_context(context)
        if user is not None:
            self._client.username_pw_set(user, f"secret of {user}")
        self._client.on_connect = lambda *given: self._on_connect(given[3])
        self._client.on_publish = lambda *given: self._on_answer(given[2], given[3])
        self._client.on_subscribe = lambda *given: self._on_answer(given[2], given[3][0])
        self._client.on_message = lambda *given: self._on_message(given[2].topic)

    def __enter__(self) -> Self:
        self._client.connect("localhost", self._port)
        self._client.loop_start()
        self._wait_for(lambda: self._connected is not None)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        # Its callbacks hold this object: together they would be left to the garbage collector, with sockets open.
        del self._client

    def may_publish(self, topic: str, payload: bytes = b"x") -> bool:
        """Whether the broker takes a message on `topic`."""
        return not self._answer(self._client.publish(topic, payload, qos=1).mid).is_failure

    def subscribe(self, topic_filter: str) -> None:
        """Subscribes, and waits until the broker has agreed."""
        _, mid = self._client.subscribe(topic_filter, qos=1)
        assert mid is not None
        assert not self._answer(mid).is_failure

    def wait_for_message(self, topic: str) -> None:
        """Waits until there is a message on `topic`."""
        self._wait_for(lambda: topic in self.received)

    def _answer(self, mid: int) -> ReasonCode:
        self._wait_for(lambda: mid in self._answers)
        return self._answers[mid]

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        with self._news:
            assert self._news.wait_for(condition, PATIENCE_S)

    def _on_connect(self, code: ReasonCode) -> None:
        with self._news:
            self._connected = code
            self.refusal = str(code) if code.is_failure else None
            self._news.notify_all()

    def _on_answer(self, mid: int, code: ReasonCode) -> None:
        with self._news:
            self._answers[mid] = code
            self._news.notify_all()

    def _on_message(self, topic: str) -> None:
        with self._news:
            self.received.append(topic)
            self._news.notify_all()


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
def test_everyone_says_just_what_is_theirs(broker: Broker, user: str, topic: str, *, allowed: bool) -> None:
    """A device speaks for itself alone, who steers sends commands, and who looks cannot touch."""
    with Client(broker, user) as client:
        assert client.may_publish(topic) == allowed


@pytest.mark.parametrize(
    ("listener", "topic"),
    [
        ("homeassistant", "emotion/pi-door/door/emotion"),
        ("nodered", "emotion/pi-door/door/event"),
        ("telegraf", "emotion/pi-door/health"),
        ("viewer", "emotion/pi-door/door/event"),
    ],
)
def test_what_a_device_says_is_heard(broker: Broker, listener: str, topic: str) -> None:
    """Home Assistant, flows, Telegraf and dashboards get a device's messages."""
    with Client(broker, listener) as client, Client(broker, "pi-door") as device:
        client.subscribe("emotion/#")
        assert device.may_publish(topic)
        client.wait_for_message(topic)


@pytest.mark.parametrize("listener", ["telegraf", "viewer"])
def test_who_only_watches_sees_no_answers(broker: Broker, listener: str) -> None:
    """An answer to a command may hold a picture; it reaches those who send commands."""
    answer = "emotion/pi-door/cmd/snapshot/response"
    with Client(broker, listener) as watcher, Client(broker, "nodered") as asker, Client(broker, "pi-door") as device:
        watcher.subscribe("emotion/#")
        asker.subscribe("emotion/#")
        assert device.may_publish(answer)
        assert device.may_publish("emotion/pi-door/status")
        asker.wait_for_message(answer)
        watcher.wait_for_message("emotion/pi-door/status")
        assert answer not in watcher.received


def test_the_largest_answer_arrives(broker: Broker) -> None:
    """A picture of as many bytes as `snapshot` allows reaches who asked for it."""
    picture = base64.b64encode(bytes(MAX_BYTES)).decode()
    commands = Commands(topics=Topics("emotion", "pi-door"), handlers={"snapshot": lambda _: {"jpeg": picture}})
    answer = commands.respond("emotion/pi-door/cmd/snapshot", b'{"id": 1}', wall_s=0.0)
    with Client(broker, "nodered") as asker, Client(broker, "pi-door") as device:
        asker.subscribe("emotion/#")
        assert device.may_publish(answer.topic, answer.payload)
        asker.wait_for_message(answer.topic)


def test_half_made_certificates_are_finished(tmp_path: Path) -> None:
    """What an interrupted run leaves is completed by the next: an authority's key alone, or an empty file."""
    run(EXAMPLE / "make-certificates.sh", "localhost", tmp_path)
    for path in tmp_path.iterdir():
        if path.name != "ca.key":
            path.unlink()
    (tmp_path / "ca.crt").touch()
    run(EXAMPLE / "make-certificates.sh", "localhost", tmp_path)
    run("openssl", "verify", "-CAfile", tmp_path / "ca.crt", tmp_path / "server.crt")


def test_the_authority_is_renewed_only_with_its_key(tmp_path: Path) -> None:
    """While ca.key is in its safe, a second run says so and leaves everything as it was; with the key, it renews."""
    run(EXAMPLE / "make-certificates.sh", "localhost", tmp_path)
    authority, safe = (tmp_path / "ca.crt").read_bytes(), tmp_path / "safe"
    (tmp_path / "ca.key").rename(safe)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(subprocess.CalledProcessError) as refusal:
        run(EXAMPLE / "make-certificates.sh", "localhost", tmp_path)
    assert b"ca.key is missing" in refusal.value.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    safe.rename(tmp_path / "ca.key")
    run(EXAMPLE / "make-certificates.sh", "broker.lan", tmp_path)
    assert (tmp_path / "ca.crt").read_bytes() == authority


def test_a_device_hears_its_own_commands_only(broker: Broker) -> None:
    """A command to one device reaches that device, and one to another does not."""
    with Client(broker, "pi-door") as device, Client(broker, "homeassistant") as home:
        device.subscribe("emotion/#")
        assert home.may_publish("emotion/pi-hall/cmd/pause")
        assert home.may_publish("emotion/pi-door/cmd/pause")
        device.wait_for_message("emotion/pi-door/cmd/pause")
        assert "emotion/pi-hall/cmd/pause" not in device.received


def test_only_a_device_itself_clears_what_it_said(broker: Broker) -> None:
    """What deploy/README.md says of a device that goes: its own user makes the broker forget, and no other."""

    def call(program: str, user: str, *arguments: str) -> str:
        server = ["-h", "localhost", "-p", str(broker.mqtt_port), "--cafile", str(broker.certificates / "ca.crt")]
        command = [need(program, "mosquitto-clients"), *server, "-u", user, "-P", f"secret of {user}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def clear(user: str) -> str:
        topics = ("-t", "emotion/pi-door/#")
        return call("mosquitto_sub", user, *topics, "--retained-only", "--remove-retained", "-v", "-W", "2")

    said = "emotion/pi-door/status offline\n"
    call("mosquitto_pub", "pi-door", "-t", "emotion/pi-door/status", "-m", "offline", "-q", "1", "--retain")
    assert [clear(user) for user in ("homeassistant", "pi-door", "pi-door")] == [said, said, ""]


def test_a_web_page_listens_over_websockets(broker: Broker) -> None:
    """A browser gets the messages over an encrypted websocket."""
    with Client(broker, "viewer", "websockets") as page, Client(broker, "pi-door") as device:
        page.subscribe("emotion/+/+/event")
        assert device.may_publish("emotion/pi-door/door/event")
        page.wait_for_message("emotion/pi-door/door/event")


def test_strangers_are_refused(broker: Broker) -> None:
    """Without a name and a password nobody gets in."""
    with Client(broker, None) as stranger:
        assert stranger.refusal == "Not authorized"


def test_renewing_the_certificate_keeps_the_authority(broker: Broker, tmp_path: Path) -> None:
    """A second run changes what the broker shows, and not what the devices trust."""
    folder = tmp_path / "certs"
    shutil.copytree(broker.certificates, folder)
    run(EXAMPLE / "make-certificates.sh", "192.0.2.7", folder)
    assert (folder / "ca.crt").read_bytes() == (broker.certificates / "ca.crt").read_bytes()
    assert (folder / "server.crt").read_bytes() != (broker.certificates / "server.crt").read_bytes()
    run("openssl", "verify", "-x509_strict", "-CAfile", folder / "ca.crt", folder / "server.crt")
