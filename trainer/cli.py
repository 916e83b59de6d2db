"""The command line of the trainer: its commands and their options, and how it ends."""

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
"""128 and SIGINT, as shells count."""
PIPE_CLOSED: Final = 141
"""128 and SIGPIPE."""

_INSTALL: Final = {
    "tensorflow": "Install the trainer with what it needs: make train-setup",
    "jax": "Install it for an NVIDIA GPU: pip install 'jax[cuda13]'",
}
"""What `--backend` may name, and how to get it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code of the process."""
    arguments = parser().parse_args(argv)
    level = logging.DEBUG if arguments.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    # A file's name may be none in UTF-8. In JSON, what takes its place is the escape of the same.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _choose_backend(getattr(arguments, "backend", None))
        # Imported only now: some of them bring TensorFlow, which takes seconds.
        with nullcontext() if arguments.verbose else _without_chatter():
            command = _imported(arguments.module)
        code: int = command.run(arguments)
        sys.stdout.flush()
    except UserError as error:
        return _complain(str(error), error.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_output()  # whoever read it has seen enough
        return PIPE_CLOSED
    except OSError as error:  # a disk that is full, a file without read permission
        _give_up_output()
        log.info("nobody foresaw this:", exc_info=error)  # for --verbose
        return _complain(str(error), FAILED)
    return code


def _choose_backend(asked: str | None) -> None:
    """Tells Keras, which reads it when it is imported: a person's own ~/.keras/keras.json shall not decide."""
    os.environ["KERAS_BACKEND"] = asked or "tensorflow"
    if asked and find_spec(asked) is None:
        raise UserError(f"--backend {asked}: this library is not installed", remedy=_INSTALL[asked])


def _imported(module: str) -> ModuleType:
    """The module of a command.

    Raises:
        UserError: A library that it needs is not installed, as on a device, where `trainer` comes without its own.
    """
    try:
        return import_module(f"trainer.commands.{module}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in {"", "trainer", "edge"}:
            raise
        raise UserError(f"the library {library} is not installed", remedy=_INSTALL["tensorflow"]) from error


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Keeps to itself what TensorFlow says of the machine whenever it is imported.

    The variable silences it from then on. What comes before its logging is set up goes to the file descriptor whatever
    the variable says, and so this is bent aside.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    standard_error = os.dup(2)
    try:
        with tempfile.TemporaryFile() as aside:
            os.dup2(aside.fileno(), 2)
            yield
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)


def _give_up_output() -> None:
    """Python writes once more at exit what is left of our output, which must not fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str, exit_code: int) -> int:
    for line in message.splitlines():
        print(f"trainer: error: {line}", file=sys.stderr)
    return exit_code


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="trainer",
        description="Trains on FER-2013, and writes an int8 TFLite bundle that classifies facial expressions.",
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
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - the only name that it has


def _add(commands: Commands, name: str, module: str, summary: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
    command.add_argument("-v", "--verbose", action="store_true", help="log everything, for finding faults")
    command.set_defaults(module=module)
    return command


def _add_data(commands: Commands) -> None:
    data = commands.add_parser("data", help="look at a data set", description="Look at a data set.")
    command = _add(
        data.add_subparsers(required=True, metavar="COMMAND"), "check", "data_check",
        "count the images of a data set and find the unusable, the doubled and the contradictory ones",
    )  # fmt: skip
    command.add_argument("data", type=Path, metavar="PATH", help="FER-2013 as a folder, .zip, .csv or .csv.gz")
    _add_votes(command)
    _add_output(command, "audit.json, class_balance.png and contact_sheet.png")


def _add_fit(commands: Commands) -> None:
    command = _add(commands, "fit", "fit", "train the network; every decision is taken on PublicTest")
    _add_dataset(command)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="RUN", help="folder of the run")
    _add_recipe(command, "default")
    command.add_argument("--seed", type=_seed, help="of weights, order and augmentation (default: the recipe's, 1)")
    command.add_argument("--resume", action="store_true", help="go on with a run that was stopped")


def _add_tune(commands: Commands) -> None:
    command = _add(commands, "tune", "tune", "search for better parameters of a recipe by many short runs, "
                   "judged on PublicTest; the same command goes on with a search that was stopped")  # fmt: skip
    _add_dataset(command)
    command.add_argument("-o", "--output", type=Path, required=True, metavar="DIR",
                         help="folder for the runs, best.json and report.html")  # fmt: skip
    command.add_argument("--trials", type=_count, default=30, metavar="N",
                         help="how many the whole study shall have, earlier calls and other workstations included; "
                         "failed ones do not count (default: 30)")  # fmt: skip
    command.add_argument("--storage", metavar="STORAGE",
                         help="where the study is kept, and shared by all workstations that name it: a file, or the "
                         "address of a database such as sqlite:///study.db (default: DIR/study.journal)")  # fmt: skip
    command.add_argument("--study", default="tune", metavar="NAME", help="name within that storage (default: tune)")
    _add_recipe(command, "trial")
    command.add_argument("--seed", type=_seed, help="of the proposals and of every run (default: the recipe's, 1)")


def _add_evaluate(commands: Commands) -> None:
    command = _add(commands, "evaluate", "evaluate", "measure bundles and training runs on one split of a data set")
    command.add_argument("targets", type=Path, nargs="+", metavar="TARGET",
                         help="bundle, as a device runs it, or training run, whose network gets images in the light "
                         "that they are in and whose confidence is not calibrated; several are compared")  # fmt: skip
    _add_dataset(command)
    command.add_argument("--split", choices=SPLITS,
                         help="validation is PublicTest, test is PrivateTest (default: test)")  # fmt: skip
    command.add_argument("--folder", action="store_true",
                         help="--data is a folder of <emotion>/*.png or *.jpg of any size, without splits")  # fmt: skip
    command.add_argument("--robustness", action="store_true",
                         help="also under 11 corruptions at 5 severities, which takes 56 times as long")  # fmt: skip
    _add_output(command, "report.html, which holds some of the images, and evaluation.json")


def _add_export(commands: Commands) -> None:
    command = _add(commands, "export", "export", "turn a training run into a bundle for devices")
    command.add_argument("run", type=Path, metavar="RUN", help="folder that trainer fit wrote")
    command.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle")
    _add_dataset(command)
    command.add_argument("--quantize", action="store_true", help="int8 in place of float32")
    command.add_argument("--labels", choices=("fer2013", "ferplus"),
                         help="whose labels the bundle speaks: with ferplus, the second head of a run that learned "
                         "FER+'s votes beside the labels (default: the run's own)")  # fmt: skip
    command.add_argument("--version", default="1.0.0", help="semantic version of the bundle (default: 1.0.0)")
    command.add_argument("--release", type=_count, default=1, help="number that rises with each release (default: 1)")
    command.add_argument("--max-drop", type=_points, default=0.5, metavar="POINTS",
                         help="percentage points of PublicTest accuracy that int8 may cost (default: 0.5)")  # fmt: skip
    command.add_argument("--calibration-per-class", type=_count, default=60, metavar="N",
                         help="training images of each class that set the ranges of int8 (default: 60)")  # fmt: skip


def _add_keygen(commands: Commands) -> None:
    command = _add(commands, "keygen", "keygen", "make the keys with which bundles are signed and recognised")
    command.add_argument("key", type=Path, metavar="FILE", help="new file for the private key")


def _add_sign(commands: Commands) -> None:
    command = _add(commands, "sign", "sign", "sign a bundle, so that devices take it from a web server")
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that trainer export wrote")
    command.add_argument("--key", type=Path, required=True, metavar="FILE", help="private key of trainer keygen")


def _add_recipe(command: argparse.ArgumentParser, default: str) -> None:
    source = command.add_mutually_exclusive_group()
    command.set_defaults(default_recipe=default)  # not that of --recipe, which --resume must know to be given
    source.add_argument("--recipe", choices=tuple(RECIPES),
                        help=f"which named set of parameters (default: {default})")  # fmt: skip
    source.add_argument("--config", type=Path, metavar="FILE",
                        help="or parameters from best.json of trainer tune, or config.json of a run")  # fmt: skip
    command.add_argument("--labels", choices=("fer2013", "ferplus"),
                         help="FER-2013's own labels, or the majority of FER+'s crowd, which needs --votes "
                         "(default: the recipe's, fer2013)")  # fmt: skip
    command.add_argument("--teacher", type=Path, nargs="+", metavar="RUN",
                         help="runs of trainer fit whose answers are learned beside the labels")  # fmt: skip
    command.add_argument("--initial-weights", type=Path, metavar="RUN",
                         help="run to begin with the weights of; the network is at least as wide")  # fmt: skip
    command.add_argument("--epochs", type=_count, metavar="N",
                         help="in all, with the recipe's stages in proportion (default: the recipe's)")  # fmt: skip
    command.add_argument("--backend", choices=tuple(_INSTALL), default="tensorflow",
                         help="what computes: tensorflow, which is much faster on processors, or jax, for a GPU "
                         "(default: tensorflow)")  # fmt: skip
    command.add_argument("--bfloat16", action=argparse.BooleanOptionalAction,
                         help="convolutions in bfloat16 (default: where the processor or GPU has it)")  # fmt: skip


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 4294967295")
    return int(text)


def _points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 100")
    return points


def _add_dataset(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, required=True, metavar="PATH",
                         help="FER-2013 as a folder, .zip, .csv or .csv.gz")  # fmt: skip
    _add_votes(command)


def _add_votes(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--votes", type=Path, metavar="FILE", help="FER+'s fer2013new.csv, beside the .csv of FER-2013"
    )


def _add_output(command: argparse.ArgumentParser, files: str) -> None:
    command.add_argument("--format", choices=("text", "json"), default="text", help="of what is printed")
    command.add_argument("--report", type=Path, metavar="DIR", help=f"also write {files}")
