"""`edge watch` with a real broker."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.process import EDGE, Edge
from tests.mosquitto import PATIENCE_S, PROGRAM, Listener, Mosquitto, allow_only_subscription, free_port

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that accepts anonymous clients."""
    with Mosquitto(tmp_path) as broker:
        yield broker


STATE = json.dumps(
    {
        "face_count": 1,
        "emotion": "sad",
        "confidence": 0.8,
        "faces": [{"track_id": 1, "emotion": "sad", "confidence": 0.8, "probs": {"sad": 0.8}}],
    }
)


def test_retained_and_new_messages_are_printed_line_by_line(broker: Mosquitto) -> None:
    """Retained messages are printed first, then new ones as they arrive."""
    with Listener(broker.port) as publisher:
        publisher.publish("emotion/pi/status", "online", retain=True)
        with Edge("watch", "--port", str(broker.port)) as watch:
            watch.wait_for("emotion/pi/status  online")
            publisher.publish("emotion/pi/door/emotion", STATE)
            assert "sad 80%" in watch.wait_for("emotion/pi/door/emotion")
            publisher.publish("elsewhere/pi/status", "online")
            publisher.publish("emotion/pi/door/status", "paused")
            watch.wait_for("emotion/pi/door/status  paused")
    assert not [line for line in watch.output if "elsewhere" in line]


def test_malformed_payloads_do_not_end_the_command(broker: Mosquitto) -> None:
    """Retained messages with malformed payloads end neither the plain output nor the table."""
    with Listener(broker.port) as publisher:
        publisher.publish("emotion/a/door/emotion", "[" * 100_000, retain=True)
        publisher.publish("emotion/b/door/emotion", '{"face_count": 1, "confidence": ' + "9" * 400 + "}", retain=True)
        publisher.publish("emotion/c/door/emotion", STATE, retain=True)
        with Edge("watch", "--plain", "--port", str(broker.port)) as watch:
            assert "sad 80%" in watch.wait_for("emotion/c/door/emotion")
            publisher.publish("emotion/pi/status", "online")
            watch.wait_for("emotion/pi/status  online")
        _output_in_terminal([EDGE, "watch", "--port", str(broker.port)], until="sad 80%")


def test_connecting_to_an_unreachable_broker_is_retried(tmp_path: Path) -> None:
    """While the broker is unreachable, the error is printed and connecting is retried."""
    port = free_port()
    with Edge("watch", "--port", str(port)) as watch:
        watch.wait_for("nothing listens on that port. Check the port, and that the broker is running. Trying again")
        with Mosquitto(tmp_path, port=port):
            watch.wait_for("connected to localhost")
        watch.wait_for("Trying again")


def test_connecting_is_retried_while_a_proxy_closes_connections(tmp_path: Path) -> None:
    """A proxy that closes connections while its broker is down does not end the command."""
    with Mosquitto(tmp_path) as broker, Edge("watch", "--port", str(broker.port)) as watch:
        watch.wait_for("connected to localhost")
        broker.kill()
        with socket.create_server(("127.0.0.1", broker.port)) as proxy:
            proxy.settimeout(PATIENCE_S)
            for _ in ("MQTT 5", "MQTT 3.1.1"):
                proxy.accept()[0].close()
            watch.wait_for("before the broker sent an MQTT reply")
        broker.start()
        watch.wait_for("connected to localhost")


def test_a_rejected_login_is_an_error(tmp_path: Path) -> None:
    """A rejected login is an error and is not retried."""
    with Mosquitto(tmp_path, ["allow_anonymous false"]) as broker:
        done = subprocess.run([EDGE, "watch", "--port", str(broker.port)], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "the broker does not accept anonymous clients. Configure a user name and a password." in done.stderr


def test_rejected_subscriptions_are_an_error(tmp_path: Path) -> None:
    """If the broker rejects all subscriptions, the command fails."""
    with Mosquitto(tmp_path, allow_only_subscription("elsewhere", tmp_path / "rights.json")) as broker:
        done = subprocess.run([EDGE, "watch", "--port", str(broker.port)], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "the broker rejected all subscriptions. Allow them in the broker's access list." in done.stderr
    assert "connected to" not in done.stdout


def test_a_password_is_not_sent_unencrypted(tmp_path: Path) -> None:
    """A password is not sent unencrypted to a remote host unless allowed."""
    (tmp_path / "password").write_text("swordfish")
    command = [EDGE, "watch", "--host", "broker.example", "--username", "me", "--password-file"]
    command.append(str(tmp_path / "password"))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "would be sent unencrypted over the network" in done.stderr
    assert "swordfish" not in done.stderr


def test_a_terminal_shows_a_live_table(broker: Mosquitto) -> None:
    """In a terminal, devices and faces are shown in a table that is redrawn in place."""
    with Listener(broker.port) as publisher:
        publisher.publish("emotion/pi/door/emotion", STATE, retain=True)
        output = _output_in_terminal([EDGE, "watch", "--port", str(broker.port)], until="sad 80%")
    assert "door" in output
    assert "confidence" in output


def test_more_devices_than_rows_are_counted(broker: Mosquitto) -> None:
    """On a small screen, the number of omitted rows is shown."""
    with Listener(broker.port) as publisher:
        for number in range(40):
            publisher.publish(f"emotion/pi{number:02}/status", "online", retain=True)
        output = _output_in_terminal([EDGE, "watch", "--port", str(broker.port)], until="(--plain shows all)")
    assert "Press Ctrl-C to quit." in output


def test_a_dumb_terminal_gets_plain_lines() -> None:
    """A terminal without cursor control, such as an editor's shell, gets plain lines."""
    output = _output_in_terminal([EDGE, "watch", "--port", str(free_port())], until="Trying again", term="dumb")
    assert "\x1b" not in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_restores_the_screen(number: signal.Signals) -> None:
    """After SIGTERM or SIGINT, the normal screen is restored, and the exit code is 130."""
    with _terminal([EDGE, "watch", "--port", str(free_port())]) as (process, terminal):
        _read_until(terminal, "Trying again")
        process.send_signal(number)
        _read_until(terminal, "\x1b[?1049l")
        assert process.wait(PATIENCE_S) == 130


def _output_in_terminal(command: list[str], *, until: str, term: str = "xterm") -> str:
    """Runs a command in a terminal until a phrase appears, and returns its output."""
    with _terminal(command, term) as (_, terminal):
        return _read_until(terminal, until)


@contextmanager
def _terminal(command: list[str], term: str = "xterm") -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Starts a command in a pseudo-terminal; yields the process and the terminal's file descriptor."""
    terminal, tty = pty.openpty()
    env = {**os.environ, "TERM": term, "COLUMNS": "120", "LINES": "30"}
    process = subprocess.Popen(command, stdin=tty, stdout=tty, stderr=tty, env=env, start_new_session=True)
    os.close(tty)
    try:
        yield process, terminal
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


def _read_until(terminal: int, phrase: str) -> str:
    output, give_up_s = "", time.monotonic() + PATIENCE_S
    while phrase not in output:
        left_s = max(0.0, give_up_s - time.monotonic())
        assert select.select([terminal], [], [], left_s)[0], f"no {phrase!r} in {output[-5000:]!r}"
        output += os.read(terminal, 4096).decode(errors="replace")
    return output
