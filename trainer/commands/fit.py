"""`trainer fit`: trains the network, and prints a summary beforehand and the progress meanwhile."""

from __future__ import annotations

import argparse
import shlex
import time
from dataclasses import replace
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edge.contract import UserError
from trainer.commands.output import Console, require_writable
from trainer.config import FitConfig
from trainer.data import Dataset, load_dataset
from trainer.fit import EpochResult, Listener, fit
from trainer.labels import with_labels
from trainer.processor import has_gpu, supports_bfloat16
from trainer.recipes import RECIPES, read_recipe
from trainer.run import read_config, require_new

_STEPS_BEFORE_ESTIMATE = 30
"""The first steps are slower, as they compile the network."""


def run(arguments: argparse.Namespace) -> int:
    """Trains and returns 0."""
    console = Console()
    # Errors that need no data are reported before it is read, which takes a while.
    config = _config_to_resume(arguments) if arguments.resume else requested_config(arguments, console)
    if not arguments.resume:
        require_new(arguments.output)
    require_writable(arguments.output)
    dataset = load_dataset(arguments.data, arguments.votes)
    _announce(console, dataset, config, arguments)
    with _Display(console, config) as display:
        best = fit(dataset, arguments.output, config, resume=arguments.resume, listener=display)
    console.print(f"Best accuracy on PublicTest: {best:.2%}. The run is in {arguments.output}.")
    data = ["--data", arguments.data, *(["--votes", arguments.votes] if arguments.votes else [])]
    export = shlex.join(map(str, ["trainer", "export", "--quantize", arguments.output, *data, "-o", "models/NAME"]))
    console.print(f"Next: {export}")
    return 0


def _config_to_resume(arguments: argparse.Namespace) -> FitConfig:
    """Reads the configuration of the run to resume, which no option may change."""
    options = ("recipe", "config", "labels", "teacher", "initial-weights", "epochs", "bfloat16", "seed")
    given = [f"--{name}" for name in options if getattr(arguments, name.replace("-", "_")) is not None]
    if given:
        raise UserError(f"--resume uses the configuration of the run and cannot be combined with {', '.join(given)}",
                        where=arguments.output, remedy="Leave them out, or start another run")  # fmt: skip
    return read_config(arguments.output)[0]


def requested_config(arguments: argparse.Namespace, console: Console) -> FitConfig:
    """Returns the configuration that the options ask for: a recipe or a file, with changes."""
    recipe = RECIPES[arguments.recipe or arguments.default_recipe]
    config = read_recipe(arguments.config) if arguments.config else recipe
    changes = {name: getattr(arguments, name) for name in ("labels", "seed") if getattr(arguments, name) is not None}
    if arguments.teacher:
        changes["teachers"] = tuple(str(teacher) for teacher in arguments.teacher)
    if arguments.initial_weights:
        initial_config = read_config(arguments.initial_weights)[0]
        changes |= {
            "initial_weights": str(arguments.initial_weights),
            "width": max(config.width, initial_config.width),
            "top_channels": max(config.top_channels, initial_config.top_channels),
        }
        if not arguments.config:  # a recipe adapts to any run; a file with other values is an error
            changes |= {"blocks": initial_config.blocks, "mirror": initial_config.mirror}
    changes["bfloat16"] = supports_bfloat16() if arguments.bfloat16 is None else arguments.bfloat16
    if arguments.backend == "jax" and not has_gpu():
        console.print("JAX finds no GPU; on a CPU it is many times slower than --backend tensorflow.")
    config = replace(config, **changes)
    if arguments.epochs:
        config = _with_epochs(config, arguments.epochs)
    if config.labels == "ferplus":
        return replace(config, votes_weight=0.0)  # the main head is trained on the votes already
    if arguments.votes is not None and not config.votes_weight:
        raise UserError("has a votes_weight of 0, so --votes would have no effect", where=arguments.config,
                        remedy="Leave --votes out, or set votes_weight there, to 0.5 for example")  # fmt: skip
    if arguments.votes is None and config.votes_weight:
        console.print("No --votes: training without the second head, which predicts FER+ votes.")
        config = replace(config, votes_weight=0.0)
    return config


def _with_epochs(config: FitConfig, epochs: int) -> FitConfig:
    try:
        return config.with_epochs(epochs)
    except (ValueError, OverflowError) as error:
        raise UserError(f"--epochs {epochs} is more than a run can have", remedy="Use fewer") from error


def _announce(console: Console, dataset: Dataset, config: FitConfig, arguments: argparse.Namespace) -> None:
    stages = ", ".join(f"{epochs} epochs at {side} px" for side, epochs in config.stages)
    train, validation = (len(with_labels(dataset.split(name), config.labels)) for name in ("train", "validation"))
    console.print(
        f"{'Resuming' if arguments.resume else 'Training'} {arguments.output} "
        f"on {train} images of {dataset.path}, validating on {validation} of PublicTest.\n"
        f"{stages}; labels {config.labels}, batches of {config.batch_size}, seed {config.seed}, "
        f"{'bfloat16' if config.bfloat16 else 'float32'}"
        f"{f', {_distillation(config)}' if config.teachers else ''}"
        f"{', initial weights from ' + config.initial_weights if config.initial_weights else ''}.\n"
        f"Ctrl-C stops it at any time; --resume continues after the last finished epoch."
    )


def _distillation(config: FitConfig) -> str:
    teachers = f"soft targets from {', '.join(config.teachers)}"
    if config.live_teachers:
        return f"{teachers}, predicted in every step"
    if config.copies:
        return f"{teachers}, predicted beforehand for {config.copies} augmented copies of each image"
    return f"{teachers}, predicted beforehand"


class _Display(Listener):
    """Shows a progress bar for the epoch, a line for each finished one, and an estimate of the remaining time."""

    def __init__(self, console: Console, config: FitConfig) -> None:
        self._console = console
        self._config = config
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console,
            transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("starting", total=None)
        self._estimate_started_s: float | None = None
        self._epochs_seen = 0
        self._estimated = False

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        described = f"epoch {epoch}/{self._config.epochs}  loss {loss:.3f}"
        self._progress.update(self._task, description=described, completed=step, total=steps)
        if step == _STEPS_BEFORE_ESTIMATE:
            self._estimate_started_s = time.monotonic()
        elif step == 2 * _STEPS_BEFORE_ESTIMATE and self._estimate_started_s is not None:
            step_s = (time.monotonic() - self._estimate_started_s) / _STEPS_BEFORE_ESTIMATE
            self._estimate(epoch, step_s * steps, self._config.side_px(epoch - 1))

    def on_epoch(self, result: EpochResult) -> None:
        mark = "  best so far" if result.best else ""
        self._console.print(
            f"epoch {result.epoch:3}/{self._config.epochs}  {result.side_px} px  loss {result.loss:.3f}  "
            f"PublicTest {result.accuracy:.2%}  {result.seconds:.0f} s{mark}"
        )
        self._epochs_seen += 1
        # For epochs of few steps; the first one includes compilation.
        if self._epochs_seen == 2 and result.epoch < self._config.epochs:
            self._estimate(result.epoch + 1, result.seconds, result.side_px)

    def _estimate(self, first: int, epoch_s: float, side_px: int) -> None:
        """Prints once how long the epochs from `first` on will take, proportional to the area of their images."""
        if self._estimated:
            return
        self._estimated = True
        areas = [(self._config.side_px(epoch) / side_px) ** 2 for epoch in range(first - 1, self._config.epochs)]
        minutes = round(epoch_s * sum(areas) / 60)
        left = f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{max(1, minutes)} min"
        self._console.print(f"At this speed it will take about {left}.")
