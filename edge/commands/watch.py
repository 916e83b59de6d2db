"""`edge watch`: shows the devices of a broker and what they see, live in the terminal."""

from __future__ import annotations

import argparse
import signal
import time

from rich.live import Live
from rich.text import Text

from edge.client_id import new_client_id
from edge.commands.board import Board
from edge.commands.console import Console
from edge.commands.formatting import clock, format_message
from edge.commands.subscriber import subscribe
from edge.config import read_password
from edge.errors import BrokerError, ConfigError
from edge.mqtt import BrokerSettings, Tls
from edge.printable import printable
from edge.topics import check_prefix


def run(arguments: argparse.Namespace) -> int:
    """Runs until interrupted. SIGTERM is handled like Ctrl-C, so that the screen is restored."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = _settings(arguments)
    prefix = _prefix(arguments.prefix)
    console = Console(highlight=False)
    if arguments.plain or not console.is_terminal or console.is_dumb_terminal:
        _print_lines(console, settings, prefix)
    else:
        _show_board(console, settings, prefix)
    return 0


def _settings(arguments: argparse.Namespace) -> BrokerSettings:
    files = Tls(ca_file=arguments.ca_file, cert_file=arguments.cert_file, key_file=arguments.key_file)
    if files.key_file and not files.cert_file:
        raise ConfigError("requires --cert-file", where="--key-file")
    tls = arguments.tls or files != Tls()
    return BrokerSettings(
        host=arguments.host,
        port=arguments.port or (8883 if tls else 1883),
        client_id=new_client_id(),
        username=arguments.username,
        password=read_password(arguments.password_file) if arguments.password_file else None,
        tls=files if tls else None,
        allow_plaintext_password=arguments.allow_plaintext_password,
    )


def _prefix(text: str) -> str:
    try:
        return check_prefix(text)
    except ValueError as error:
        raise ConfigError(str(error), where="--prefix") from error


def _print_lines(console: Console, settings: BrokerSettings, prefix: str) -> None:
    """Prints one line per message, with the time of its arrival."""

    def print_state(error: BrokerError | None) -> None:
        text = f"{error} Trying again" if error else f"connected to {settings.address}"
        console.print(Text.assemble(clock(), "  ", (text, "dim")), soft_wrap=True)

    for received in subscribe(settings, _filters(prefix), on_state=print_state):
        if received is not None:
            message = format_message(received.topic, received.payload)
            console.print(Text.assemble(clock(), f"  {printable(received.topic)}  ", message), soft_wrap=True)


def _show_board(console: Console, settings: BrokerSettings, prefix: str) -> None:
    board = Board(address=settings.address, prefix=prefix)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for received in subscribe(settings, _filters(prefix), on_state=board.set_error):
            if received is not None:
                board.update(received.topic, received.payload, now_s=time.time())
            else:
                live.update(board.render(now_s=time.time()), refresh=True)


def _filters(prefix: str) -> list[str]:
    """All topics but commands and their responses."""
    of_devices = [f"{prefix}/+/{kind}" for kind in ("status", "info", "health", "update")]
    return of_devices + [f"{prefix}/+/+/{kind}" for kind in ("status", "emotion", "event")]
