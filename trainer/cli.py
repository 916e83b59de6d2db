"""Command-line interface of the trainer: commands, options, error handling and exit codes."""

from __future__ import annotations

import argparse
import io
import logging
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Final

from edge.contract.errors import UserError
from trainer.data import SPLITS
from trainer.recipes import RECIPES

log = logging.getLogger(__name__)

FAILED: Final = 1
INTERRUPTED: Final = 130
"""128 + SIGINT, as in shells."""
PIPE_CLOSED: Final = 141
"""128 + SIGPIPE."""

_INSTALL: Final = {
    "tensorflow": "Install the dependencies of the trainer: make train-setup",
    "jax": "Install it for NVIDIA GPUs: pip install 'jax[cuda13]'",
}
"""Choices of `--backend`, with installation instructions."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code of the process."""
    arguments = parser().parse_args(argv)
    level = logging.DEBUG if arguments.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    # File names may not be valid UTF-8. In JSON, the replacement is an escape sequence.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _set_backend(getattr(arguments, "backend", None))
        # Imported lazily: some commands import TensorFlow, which takes seconds.
        with nullcontext() if arguments.verbose else _silenced_stderr():
            command = _import_command(arguments.module)
        code: int = command.run(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _print_error(str(error), error.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()  # the reader closed the pipe, e.g. head
        return PIPE_CLOSED
    except OSError as error:  # e.g. a full disk, or a file without read permission
        _discard_stdout()
        log.info("unexpected error", exc_info=error)  # for --verbose
        return _print_error(str(error), FAILED)
    return code


def _set_backend(name: str | None) -> None:
    """Selects the Keras backend before Keras is imported, overriding the user's ~/.keras/keras.json."""
    os.environ["KERAS_BACKEND"] = name or "tensorflow"
    if name and find_spec(name) is None:
        raise UserError(f"--backend {name}: this library is not installed", remedy=_INSTALL[name])


def _import_command(module: str) -> ModuleType:
    """Imports the module of a command.

    Raises:
        UserError: A dependency is not installed, e.g. on a device, where the trainer's dependencies are missing.
    """
    try:
        return import_module(f"trainer.commands.{module}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in {"", "trainer", "edge"}:
            raise
        raise UserError(f"the library {library} is not installed", remedy=_INSTALL["tensorflow"]) from error


@contextmanager
def _silenced_stderr() -> Iterator[None]:
    """Suppresses the messages that TensorFlow prints when it is imported.

    The environment variable silences TensorFlow's logging. Messages before the logging is initialized ignore it and go
    to the file descriptor, which is therefore redirected.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    standard_error = os.dup(2)
    try:
        with tempfile.TemporaryFile() as sink:
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)


def _discard_stdout() -> None:
    """Redirects standard output to the null device if it fails, or Python would fail again when flushing it at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(message: str, exit_code: int) -> int:
    for line in message.splitlines():
        print(f"trainer: error: {line}", file=sys.stderr)
    return exit_code


def parser() -> argparse.ArgumentParser:
    """Returns the argument parser with all commands."""
    top = argparse.ArgumentParser(
        prog="trainer",
        description="Train, evaluate and export facial expression models: from FER-2013 to an int8 TFLite bundle.",
    )
    top.add_argument("--version", action="version", version=f"trainer {metadata.version('edge-emotion')}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_data(commands)
    _add_fit(commands)
    _add_tune(commands)
    _add_evaluate(commands)
    _add_export(commands)
    _add_keygen(commands)
    _add_sign(commands)
    return top


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - argparse has no public name for it


def _add(commands: Commands, name: str, module: str, summary: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    command.add_argument("-v", "--verbose", action="store_true", help="enable debug logging")
    command.set_defaults(module=module)
    return command


def _add_data(commands: Commands) -> None:
    data = commands.add_parser("data", help="inspect a data set", description="Inspect a data set.")
    command = _add(
        data.add_subparsers(required=True, metavar="COMMAND"), "check", "data_check",
        "audit a data set: class counts, unusable images, duplicates and conflicting labels",
    )  # fmt: skip
    command.add_argument("data", type=Path, metavar="PATH", help="FER-2013 as a folder, .zip, .csv or .csv.gz")
    _add_votes(command)
    _add_output(command, "audit.json, class_balance.png and contact_sheet.png")


def _add_fit(commands: Commands) -> None:
    command = _add(commands, "fit", "fit", "train a network; model selection is done on PublicTest")
    _add_dataset(command)
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="RUN", help="run folder to create, or to resume"
    )
    _add_recipe(command, "default")
    command.add_argument(
        "--seed",
        type=_seed,
        help="random seed of initial weights, shuffling and augmentation (default: the recipe's, 1)",
    )
    command.add_argument("--resume", action="store_true", help="resume an interrupted run")


def _add_tune(commands: Commands) -> None:
    command = _add(commands, "tune", "tune", "search for hyperparameters with many short runs, evaluated on "
                   "PublicTest; repeat the command to resume an interrupted study")  # fmt: skip
    _add_dataset(command)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR",
                         help="folder for the runs, best.json and report.html")  # fmt: skip
    command.add_argument("--trials", type=_positive_int, default=30, metavar="N",
                         help="total number of trials of the study, including earlier calls and other workstations, "
                         "excluding failed trials (default: 30)")  # fmt: skip
    command.add_argument("--storage", metavar="STORAGE",
                         help="storage of the study, shared by all workstations that use it: a journal file, or a "
                         "database URL such as sqlite:///study.db (default: DIR/study.journal)")  # fmt: skip
    command.add_argument(
        "--study", default="tune", metavar="NAME", help="name of the study within the storage (default: tune)"
    )
    _add_recipe(command, "trial")
    command.add_argument(
        "--seed", type=_seed, help="random seed of the sampler and of every run (default: the recipe's, 1)"
    )


def _add_evaluate(commands: Commands) -> None:
    command = _add(commands, "evaluate", "evaluate", "evaluate bundles and training runs on one split of a data set")
    command.add_argument("targets", type=Path, nargs="+", metavar="TARGET",
                         help="bundle, evaluated as on a device, or run folder, evaluated without intensity "
                         "normalization and calibration; several targets are compared")  # fmt: skip
    _add_dataset(command)
    command.add_argument("--split", choices=SPLITS,
                         help="validation is PublicTest, test is PrivateTest (default: test)")  # fmt: skip
    command.add_argument("--folder", action="store_true",
                         help="--data is a folder of <emotion>/*.png or *.jpg of any size, without splits")  # fmt: skip
    command.add_argument("--robustness", action="store_true",
                         help="also evaluate under 11 corruptions at 5 severities; takes 56 times as long")  # fmt: skip
    _add_output(command, "report.html (contains some of the images) and evaluation.json")


def _add_export(commands: Commands) -> None:
    command = _add(commands, "export", "export", "export a training run as a bundle for devices")
    command.add_argument("run", type=Path, metavar="RUN", help="run folder of trainer fit")
    command.add_argument(
        "-o", "--output", type=Path, required=True, metavar="BUNDLE", help="bundle folder to create or replace"
    )
    _add_dataset(command)
    command.add_argument(
        "--quantize", action="store_true", help="post-training quantization to int8 (default: float32)"
    )
    command.add_argument("--labels", choices=("fer2013", "ferplus"),
                         help="label set of the bundle; ferplus exports the FER+ head of a run that was trained on "
                         "both FER-2013's labels and FER+ votes (default: that of the run)")  # fmt: skip
    command.add_argument("--version", default="1.0.0", help="semantic version of the bundle (default: 1.0.0)")
    command.add_argument(
        "--release", type=_positive_int, default=1, help="release number, increasing with each release (default: 1)"
    )
    command.add_argument("--max-drop", type=_percentage_points, default=0.5, metavar="POINTS",
                         help="maximum loss of PublicTest accuracy by quantization, in percentage points "
                         "(default: 0.5)")  # fmt: skip
    command.add_argument("--calibration-per-class", type=_positive_int, default=60, metavar="N",
                         help="training images per class in the representative data set for quantization "
                         "(default: 60)")  # fmt: skip


def _add_keygen(commands: Commands) -> None:
    command = _add(commands, "keygen", "keygen", "generate a key pair for signing bundles")
    command.add_argument("key", type=Path, metavar="FILE", help="file to create for the private key")


def _add_sign(commands: Commands) -> None:
    command = _add(commands, "sign", "sign", "sign a bundle for distribution by a web server")
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle folder of trainer export")
    command.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="private key generated by trainer keygen"
    )


def _add_recipe(command: argparse.ArgumentParser, default: str) -> None:
    source = command.add_mutually_exclusive_group()
    command.set_defaults(default_recipe=default)  # not as default of --recipe, so that --resume can detect the option
    source.add_argument("--recipe", choices=tuple(RECIPES),
                        help=f"named set of parameters (default: {default})")  # fmt: skip
    source.add_argument("--config", type=Path, metavar="FILE",
                        help="parameters from a file: best.json of trainer tune, or config.json of a run")  # fmt: skip
    command.add_argument("--labels", choices=("fer2013", "ferplus"),
                         help="FER-2013's own labels, or the majority of the FER+ votes, which needs --votes "
                         "(default: the recipe's, fer2013)")  # fmt: skip
    command.add_argument("--teacher", type=Path, nargs="+", metavar="RUN",
                         help="run folders of the teachers for knowledge distillation")  # fmt: skip
    command.add_argument("--initial-weights", type=Path, metavar="RUN",
                         help="run folder to initialize the weights from; its network may be narrower")  # fmt: skip
    command.add_argument("--epochs", type=_positive_int, metavar="N",
                         help="total number of epochs; scales all stages (default: the recipe's)")  # fmt: skip
    command.add_argument("--backend", choices=tuple(_INSTALL), default="tensorflow",
                         help="Keras backend: tensorflow (default), much faster on CPUs, or jax, for GPUs")  # fmt: skip
    command.add_argument("--bfloat16", action=argparse.BooleanOptionalAction,
                         help="compute convolutions in bfloat16 (default: if the CPU or GPU supports it)")  # fmt: skip


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 0 to 4294967295")
    return int(text)


def _percentage_points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 100")
    return points


def _add_dataset(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, required=True, metavar="PATH",
                         help="FER-2013 as a folder, .zip, .csv or .csv.gz")  # fmt: skip
    _add_votes(command)


def _add_votes(command: argparse.ArgumentParser) -> None:
    command.add_argument("--votes", type=Path, metavar="FILE", help="fer2013new.csv of FER+; only with fer2013.csv")


def _add_output(command: argparse.ArgumentParser, files: str) -> None:
    command.add_argument("--format", choices=("text", "json"), default="text", help="output format (default: text)")
    command.add_argument("--report", type=Path, metavar="DIR", help=f"also write {files} to this folder")
