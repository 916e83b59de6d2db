"""`edge demo`: a broker, the agent and a subscriber in one process, without any setup."""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError
from rich.text import Text

from edge.adapters import camera_source
from edge.agent import Agent
from edge.bootstrap import open_agent
from edge.cli import INTERRUPTED
from edge.client_id import new_client_id
from edge.commands.console import Console
from edge.commands.embedded_broker import embedded_broker
from edge.commands.formatting import clock, fields_of, format_message
from edge.commands.signals import STOP_SIGNALS, SignalFlag
from edge.commands.subscriber import subscribe
from edge.config import Config, default_bundle
from edge.contract.errors import UserError
from edge.mqtt import BrokerSettings
from edge.printable import printable
from edge.source_name import masked

_PREFIX = "emotion"
_STOP_WITHIN_S = 8.0


def run(arguments: argparse.Namespace) -> int:
    """Prints the published messages until interrupted or the time is over.

    Raises:
        UserError: The source or the model cannot be used, or no emotion was detected in the given time.
    """
    console = Console(highlight=False, markup=False)
    stop = SignalFlag(*STOP_SIGNALS)
    with tempfile.TemporaryDirectory(prefix="edge-demo-") as state_dir, embedded_broker() as port:
        config = _config(arguments, Path(state_dir), port)
        with camera_source(config.camera[0]):
            pass  # report a source that cannot be opened; the agent would retry forever
        _print_introduction(console, config, arguments.seconds)
        with open_agent(config) as agent, _running(agent) as running:
            seen = _show(console, port, arguments.seconds, lambda: stop.raised or not running.is_alive())
    if not seen and stop.raised:
        return INTERRUPTED
    if not seen:
        raise UserError("no emotion was detected", where=masked(arguments.source),
                        remedy="Sit in front of the camera in good light, or omit --source")  # fmt: skip
    _print_next_steps(console)
    return 0


def _config(arguments: argparse.Namespace, state_dir: Path, port: int) -> Config:
    document = {
        "device": {"name": "demo", "state_dir": state_dir},
        "model": {"path": arguments.model or default_bundle()},
        "mqtt": {"host": "127.0.0.1", "port": port, "prefix": _PREFIX},
        "camera": [{"name": "camera", "source": arguments.source, "realtime": True, "loop": True}],
        "publish": {"heartbeat_s": 2, "health_interval_s": 10},
    }
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        details = error.errors()[0]
        raise UserError(details["msg"].removeprefix("Value error, "), where=masked(str(details["input"])),
                        remedy="Prefix a name that starts with ~ with ./, or use the full path") from error  # fmt: skip


@contextmanager
def _running(agent: Agent) -> Iterator[threading.Thread]:
    """Runs the agent in a separate thread."""
    thread = threading.Thread(target=agent.run, name="agent", daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        agent.stop()
        thread.join(_STOP_WITHIN_S)


def _show(console: Console, port: int, seconds: float | None, ended: Callable[[], bool]) -> bool:
    """Prints messages as they arrive. Returns whether any of them reported a face."""
    settings = BrokerSettings(host="127.0.0.1", port=port, client_id=new_client_id())
    end_s = time.monotonic() + (seconds if seconds is not None else float("inf"))
    seen = False
    for received in subscribe(settings, [f"{_PREFIX}/#"], on_state=lambda _error: None):
        if received is not None:
            message = format_message(received.topic, received.payload)
            topic = Text(f"{printable(received.topic):<30}", "cyan")
            console.print(Text.assemble((clock(), "dim"), "  ", topic, "  ", message), soft_wrap=True)
            seen = seen or _shows_a_face(received.topic, received.payload)
        if time.monotonic() >= end_s or ended():
            break
    return seen


def _shows_a_face(topic: str, payload: bytes) -> bool:
    return topic.endswith("/emotion") and bool(fields_of(payload).get("face_count"))


def _print_introduction(console: Console, config: Config, seconds: float | None) -> None:
    source = masked(config.camera[0].source)
    shown = (
        "two public-domain photographs (Eileen Collins, NASA; Grace Hopper, U.S. Navy)" if source == "demo" else source
    )
    end = "press Ctrl-C to stop" if seconds is None else f"it stops after {seconds:g} s"
    console.print(
        f"The agent analyzes {shown} and publishes to the broker at 127.0.0.1:{config.mqtt.port}; {end}.",
        soft_wrap=True,
    )
    console.print(f"Below is what a subscriber to {_PREFIX}/# receives. To subscribe yourself: "
                  f"mosquitto_sub -V 5 -p {config.mqtt.port} -t '{_PREFIX}/#' -v\n", soft_wrap=True)  # fmt: skip


def _print_next_steps(console: Console) -> None:
    console.print(
        "\nTo install the agent as a service on a device: `sudo deploy/install.sh` (see README.md).",
        soft_wrap=True,
    )
    console.print(
        "To run it without a service: copy deploy/config.toml, set a `state_dir` of your own under [device], check the "
        "file with `edge check --config FILE`, and start the agent with `edge run --config FILE`.",
        soft_wrap=True,
    )
