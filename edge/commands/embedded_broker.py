"""A temporary broker for `edge demo`, on a free port of the loopback interface."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from edge.errors import BrokerUnreachable, RuntimeMissing

_READY_WITHIN_S = 10.0

# rumqttd's own file: with keyword arguments, iotcore would open a listener for MQTT 3.1.1 only. There is no such
# listener here, as rumqttd 0.20 fails when it forwards a message with MQTT 5 properties to a 3.1.1 client.
_RUMQTTD: Final = """
id = 0

[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 10

[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = 262144
max_inflight_count = 100
dynamic_filters = true
"""

_MOSQUITTO: Final = """
listener {port} 127.0.0.1
allow_anonymous true
"""


@contextmanager
def embedded_broker() -> Iterator[int]:
    """Runs a broker with MQTT 5 while the context is open.

    Yields:
        Its port on the loopback address.

    Raises:
        RuntimeMissing: Neither iotcore nor mosquitto is installed.
        BrokerUnreachable: It does not start.
    """
    port = _free_port()
    start = _rumqttd if find_spec("iotcore") else _mosquitto
    with tempfile.TemporaryDirectory(prefix="edge-broker-") as folder, start(Path(folder), port):
        yield port


@contextmanager
def _rumqttd(folder: Path, port: int) -> Iterator[None]:
    from iotcore import Broker  # the extra `demo` brings it

    config = folder / "broker.toml"
    config.write_text(_RUMQTTD.format(port=port), encoding="utf-8")
    try:
        broker = Broker(config_path=str(config)).start(timeout=_READY_WITHIN_S)
    except (OSError, RuntimeError) as error:
        raise BrokerUnreachable(f"the demo's broker does not start ({error})", where=f"127.0.0.1:{port}") from error
    try:
        yield
    finally:
        broker.stop()


@contextmanager
def _mosquitto(folder: Path, port: int) -> Iterator[None]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeMissing(
            "no broker for the demo is installed", remedy="Run `pip install 'edge-emotion[demo]'`, or install mosquitto"
        )
    config = folder / "mosquitto.conf"
    config.write_text(_MOSQUITTO.format(port=port), encoding="utf-8")
    # In a session of its own, so that Ctrl-C does not end it before the agent has disconnected.
    command = [program, "-c", str(config)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:  # noqa: S603 - our own
        try:
            _wait_until_listening(process, port)
            yield
        finally:
            process.terminate()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    until_s = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < until_s and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise BrokerUnreachable("the demo's mosquitto does not start", where=f"127.0.0.1:{port}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
