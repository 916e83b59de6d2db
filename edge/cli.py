"""The agent's command line: commands, options and exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from edge.contract.errors import UserError
from edge.detector_name import DetectorChoice
from edge.logs import configure_logging
from edge.printable import printable
from edge.source_name import source_kind

log = logging.getLogger(__name__)

DEFAULT_CONFIG = Path("/etc/emotion-edge/config.toml")
INTERRUPTED = 130
"""128 + SIGINT, the shells' convention."""
PIPE_CLOSED = 141
"""128 + SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    arguments = parser().parse_args(argv)
    configure_logging("debug" if arguments.verbose else arguments.log_level, os.environ)
    try:
        code: int = import_module(f"edge.commands.{arguments.command}").run(arguments)
        sys.stdout.flush()
    except UserError as error:
        return print_error(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()  # the reader has closed the pipe
        return PIPE_CLOSED
    except OSError as error:  # a full disk, or a file without read permission
        _discard_output()
        log.info("unexpected error:", exc_info=error)  # for the journal of `edge run`, and for --verbose
        return print_error(UserError(str(error)))
    return code


def _discard_output() -> None:
    """Redirects buffered output to /dev/null if it cannot be written, so that Python's flush at exit does not fail."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_error(error: UserError) -> int:
    """Prints an error to standard error and returns its exit code."""
    for line in printable(str(error), keep="\n").split("\n"):
        print(f"edge: error: {line}", file=sys.stderr)
    return error.exit_code


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the complete command line."""
    top = argparse.ArgumentParser(
        prog="edge", description="Detects faces in front of cameras and publishes their emotions over MQTT."
    )
    top.add_argument("--version", action="version", version=f"edge {metadata.version('edge-emotion')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_check(commands)
    _add_doctor(commands)
    _add_watch(commands)
    _add_classify(commands)
    _add_demo(commands)
    return top


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - it has no public name


def _add(commands: Commands, name: str, summary: str, *, log_level: str = "warning") -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    command.add_argument("-v", "--verbose", action="store_true", help="enable debug logging")
    command.set_defaults(log_level=log_level)
    return command


def _add_run(commands: Commands) -> None:
    command = _add(commands, "run", "run the agent until it is stopped", log_level="info")
    _add_config(command)


def _add_check(commands: Commands) -> None:
    command = _add(
        commands, "check", "check the configuration, the model, the cameras and the broker, and report errors",
        log_level="error",
    )  # fmt: skip
    _add_config(command)


def _add_doctor(commands: Commands) -> None:
    command = _add(
        commands, "doctor", "check everything that this device needs to work, and suggest a fix for each problem",
        log_level="error",
    )  # fmt: skip
    _add_config(command)
    command.add_argument(
        "--json",
        action="store_true",
        help="print a JSON array of objects with check, status (ok, warn, fail), detail and remedy",
    )


def _add_watch(commands: Commands) -> None:
    command = _add(commands, "watch", "show the devices of a broker and the emotions they detect, live")
    command.add_argument(
        "--host", type=_host, default="localhost", help="host name or address of the broker (default: %(default)s)"
    )
    command.add_argument("--port", type=_port, help="port of the broker (default: 8883 with TLS, else 1883)")
    command.add_argument("--username", help="user name for the broker")
    command.add_argument("--password-file", type=Path, metavar="FILE", help="file with the password in its first line")
    command.add_argument("--tls", action="store_true", help="connect over TLS")
    command.add_argument("--ca-file", type=Path, metavar="FILE",
                         help="PEM file of the CA that signed the broker's certificate; implies --tls")  # fmt: skip
    command.add_argument("--cert-file", type=Path, metavar="FILE",
                         help="PEM file of the client certificate, if required; implies --tls")  # fmt: skip
    command.add_argument("--key-file", type=Path, metavar="FILE",
                         help="PEM file of its private key, if that is in a separate file")  # fmt: skip
    command.add_argument("--allow-plaintext-password", action="store_true",
                         help="send the password to another host without encryption")  # fmt: skip
    command.add_argument("--prefix", default="emotion", help="first part of all topics (default: %(default)s)")
    command.add_argument(
        "--plain", action="store_true", help="print one line per message, as when the output is not a terminal"
    )


def _add_classify(commands: Commands) -> None:
    command = _add(commands, "classify", "classify the emotions of faces in photos, folders of photos and videos")
    command.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="photo, folder or video")
    command.add_argument("--format", choices=("table", "json"), default="table",
                         help="a table, or one line of JSON per face (default: %(default)s)")  # fmt: skip
    command.add_argument("--annotate", type=Path, metavar="OUT",
                         help="write annotated copies: to a file for a single photo or video, otherwise to a "
                         "folder")  # fmt: skip
    _add_model(command)
    command.add_argument("--detector", choices=get_args(DetectorChoice), default="auto",
                         help="face detector (default: %(default)s)")  # fmt: skip


def _add_demo(commands: Commands) -> None:
    command = _add(commands, "demo", "run a demo with a broker, the agent and a subscriber; needs no setup")
    command.add_argument("--source", type=_source, default="demo", metavar="SPEC",
                         help="0 for the first webcam, the URL of a stream, or a video (default: two animated "
                         "public-domain photographs)")  # fmt: skip
    command.add_argument(
        "--seconds", type=float, metavar="N", help="stop after N seconds (default: run until interrupted)"
    )
    _add_model(command)


def _host(name: str) -> str:
    if not name:
        raise argparse.ArgumentTypeError("must not be empty")
    return name


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"must be a port number from 1 to 65535, not {text!r}")
    return int(text)


def _source(name: str) -> str:
    try:
        source_kind(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE",
                         help="configuration file (default: %(default)s)")  # fmt: skip


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", type=Path, metavar="DIR", help="model bundle (default: the one shipped with the software)"
    )
