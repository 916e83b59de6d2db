"""Fixtures of the integration tests: brokers, their certificates and password files, and publishers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from edge.backoff import Backoff
from edge.mqtt import BrokerSettings, CommandHandler
from edge.outbox import Outbox
from edge.publish import MqttPublisher
from edge.topics import Topics
from tests.mosquitto import PROGRAM, Listener, Mosquitto
from tests.programs import require_program

StartBroker = Callable[[Sequence[str]], Mosquitto]


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[StartBroker]:
    """A function that starts brokers with given configuration lines; they are stopped after the test."""
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    with ExitStack() as stack:
        yield lambda settings: stack.enter_context(Mosquitto(tmp_path, settings))


@pytest.fixture
def broker(start_broker: StartBroker) -> Mosquitto:
    """A broker that accepts anonymous clients."""
    return start_broker(["allow_anonymous true"])


@pytest.fixture
def listener(broker: Mosquitto) -> Iterator[Listener]:
    """A subscriber that records all messages of `broker`."""
    with Listener(broker.port) as listener:
        yield listener


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    """An empty outbox."""
    with Outbox(folder=tmp_path / "state", capacity=100_000) as outbox:
        yield outbox


class MakePublisher(Protocol):
    """Creates a publisher for the device `hall` with short reconnect delays."""

    def __call__(
        self,
        settings: BrokerSettings,
        *,
        outbox: Outbox = ...,
        commands: Mapping[str, CommandHandler] = ...,
        groups: Sequence[str] = ...,
        home_assistant_status: str = ...,
        on_delivered: Callable[[str], None] = ...,
        backoff: Backoff = ...,
        stop_timeout_s: float = ...,
    ) -> MqttPublisher: ...


@pytest.fixture
def make_publisher(outbox: Outbox) -> MakePublisher:
    """A factory of publishers."""

    def make_publisher(
        settings: BrokerSettings, *, commands: Mapping[str, CommandHandler] | None = None, **overrides: Any
    ) -> MqttPublisher:
        arguments: dict[str, Any] = {
            "topics": Topics("emotion", "hall"),
            "session": 7,
            "outbox": outbox,
            "announce_within_s": 0.2,
            "backoff": Backoff(first_s=0.1, limit_s=0.2),
        }
        publisher = MqttPublisher(settings=settings, **arguments | overrides)
        publisher.set_command_handlers(commands or {})
        return publisher

    return make_publisher


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """A password file for mosquitto with the users `camera` and `watcher`, both with the password `right`."""
    path = tmp_path / "passwords"
    path.touch(mode=0o600)
    for user in ("camera", "watcher"):
        subprocess.run(["mosquitto_passwd", "-b", path, user, "right"], check=True, capture_output=True)
    return path


@dataclass(frozen=True)
class Certificates:
    """A certificate authority, and certificates that it signed for the broker (as localhost) and for a client."""

    ca: Path
    broker: Path
    broker_key: Path
    client: Path
    client_key: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates created with openssl, as for a real broker."""
    require_program("openssl", "openssl")
    folder = tmp_path_factory.mktemp("certificates")
    _new_certificate(folder, "ca", subject="/CN=Test authority")
    for name, extension in (("broker", "subjectAltName=DNS:localhost"), ("client", "extendedKeyUsage=clientAuth")):
        _new_certificate(folder, name, subject=f"/CN={name}", signed_by="ca", extension=extension)
    return Certificates(
        folder / "ca.crt", folder / "broker.crt", folder / "broker.key", folder / "client.crt", folder / "client.key"
    )


def _new_certificate(
    folder: Path, name: str, *, subject: str, signed_by: str | None = None, extension: str | None = None
) -> None:
    command: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        subject,
    ]
    command += ["-keyout", folder / f"{name}.key", "-out", folder / f"{name}.crt"]
    if extension:
        command += ["-addext", extension, "-addext", "basicConstraints=critical,CA:FALSE"]
    if signed_by:
        command += ["-CA", folder / f"{signed_by}.crt", "-CAkey", folder / f"{signed_by}.key"]
    subprocess.run(command, check=True, capture_output=True)
