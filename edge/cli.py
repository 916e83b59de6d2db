"""The command line of the agent: its commands and their options, and how it ends."""

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
"""128 and SIGINT, as shells count."""
PIPE_CLOSED = 141
"""128 and SIGPIPE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code of the process."""
    arguments = parser().parse_args(argv)
    configure_logging("debug" if arguments.verbose else arguments.log_level, os.environ)
    try:
        code: int = import_module(f"edge.commands.{arguments.command}").run(arguments)
        sys.stdout.flush()
    except UserError as error:
        return complain(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_output()  # whoever read it has seen enough
        return PIPE_CLOSED
    except OSError as error:  # a disk that is full, a file without read permission
        _give_up_output()
        log.info("nobody foresaw this:", exc_info=error)  # for the journal of `edge run`, and for --verbose
        return complain(UserError(str(error)))
    return code


def _give_up_output() -> None:
    """Python writes once more at exit what is left of our output, which must not fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(error: UserError) -> int:
    """Tells the user of an error, and returns its exit code."""
    for line in printable(str(error), keep="\n").split("\n"):
        print(f"edge: error: {line}", file=sys.stderr)
    return error.exit_code


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="edge", description="Tells over MQTT which emotions the faces in front of a camera show."
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
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - the only name that it has


def _add(commands: Commands, name: str, summary: str, *, log_level: str = "warning") -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    command.add_argument("-v", "--verbose", action="store_true", help="log everything, for finding faults")
    command.set_defaults(log_level=log_level)
    return command


def _add_run(commands: Commands) -> None:
    command = _add(commands, "run", "run the agent until it is told to stop", log_level="info")
    _add_config(command)


def _add_check(commands: Commands) -> None:
    command = _add(
        commands, "check", "try the configuration, the model, the cameras and the broker, and say what is wrong",
        log_level="error",
    )  # fmt: skip
    _add_config(command)


def _add_doctor(commands: Commands) -> None:
    command = _add(
        commands, "doctor", "check everything that can keep this device from working, and name the fix for each fault",
        log_level="error",
    )  # fmt: skip
    _add_config(command)
    command.add_argument("--json", action="store_true",
                         help="one list of objects with check, status (ok, warn, fail), detail and remedy")  # fmt: skip


def _add_watch(commands: Commands) -> None:
    command = _add(commands, "watch", "show the devices of a broker and the emotions that they see, live")
    command.add_argument(
        "--host", type=_host, default="localhost", help="the broker's name or address (default: %(default)s)"
    )
    command.add_argument("--port", type=_port, help="the broker's port (default: 8883 with TLS, else 1883)")
    command.add_argument("--username", help="user name at the broker")
    command.add_argument("--password-file", type=Path, metavar="FILE", help="file with the password in its first line")
    command.add_argument("--tls", action="store_true", help="encrypt the connection")
    command.add_argument("--ca-file", type=Path, metavar="FILE",
                         help="authority that signed the broker's certificate; implies --tls")  # fmt: skip
    command.add_argument("--cert-file", type=Path, metavar="FILE",
                         help="your own certificate, for brokers that ask for one; implies --tls")  # fmt: skip
    command.add_argument("--key-file", type=Path, metavar="FILE",
                         help="its private key, if that is in a file of its own")  # fmt: skip
    command.add_argument("--allow-plaintext-password", action="store_true",
                         help="send the password unencrypted to another host")  # fmt: skip
    command.add_argument("--prefix", default="emotion", help="what all topics begin with (default: %(default)s)")
    command.add_argument("--plain", action="store_true", help="one line for each message, as without a terminal")


def _add_classify(commands: Commands) -> None:
    command = _add(commands, "classify", "find faces and their emotions in photos, folders of photos and videos")
    command.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="photo, folder or video")
    command.add_argument("--format", choices=("table", "json"), default="table",
                         help="a table, or one JSON object a face and line (default: %(default)s)")  # fmt: skip
    command.add_argument("--annotate", type=Path, metavar="OUT",
                         help="draw boxes and emotions: a file for one photo or video, otherwise a folder")  # fmt: skip
    _add_model(command)
    command.add_argument("--detector", choices=get_args(DetectorChoice), default="auto",
                         help="what finds the faces (default: %(default)s)")  # fmt: skip


def _add_demo(commands: Commands) -> None:
    command = _add(commands, "demo", "see it work: a broker, the agent and a subscriber, with nothing to set up")
    command.add_argument("--source", type=_source, default="demo", metavar="SPEC",
                         help="0 for the first webcam, a stream's address or a video; by default two "
                         "public-domain photographs, filmed")  # fmt: skip
    command.add_argument("--seconds", type=float, metavar="N", help="stop after this time (default: when told to)")
    _add_model(command)


def _host(name: str) -> str:
    if not name:
        raise argparse.ArgumentTypeError("a host has a name")
    return name


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port from 1 to 65535")
    return int(text)


def _source(name: str) -> str:
    try:
        source_kind(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return name


def _add_config(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, default=DEFAULT_CONFIG, metavar="FILE",
                         help="the configuration (default: %(default)s)")  # fmt: skip


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", type=Path, metavar="DIR", help="model bundle (default: the one that came along)")
