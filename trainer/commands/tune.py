"""`trainer tune`: runs a study, prints the result of each trial, and writes the best configuration and a report."""

from __future__ import annotations

import argparse
import logging
import shlex
from pathlib import Path
from typing import Self

import optuna
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from trainer.commands.fit import requested_config
from trainer.commands.output import Console, require_writable, show, to_json, write
from trainer.data import load_dataset
from trainer.labels import with_labels
from trainer.study import Trial, count_finished, importances, ranking, storage_errors, trials
from trainer.study_report import study_report
from trainer.text import percent
from trainer.tune import Search, StudyListener, prepare_study, tune

BEST = "best.json"
REPORT = "report.html"
_ROWS = 10


def run(arguments: argparse.Namespace) -> int:
    """Runs the search, prints and writes its results, and returns 0."""
    # Each trial compiles a network of its own, which TensorFlow would keep warning about.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    console = Console()
    # Errors that need no data are reported before it is read, which takes a while.
    search = _search(arguments, console)
    require_writable(arguments.output)
    dataset = load_dataset(arguments.data, arguments.votes)
    study = prepare_study(dataset, arguments.output, search)
    _announce(console, study, search, arguments.output)
    try:
        with _Display(console, search) as display:
            tune(study, dataset, arguments.output, search, display)
    finally:  # also after Ctrl-C
        validation = with_labels(dataset.split("validation"), search.base.labels)
        _write_results(console, study, len(validation), search, arguments)
    return 0


def _search(arguments: argparse.Namespace, console: Console) -> Search:
    base = requested_config(arguments, console)
    storage = arguments.storage or str(arguments.output / "study.journal")
    return Search(base=base, trials=arguments.trials, storage=storage, name=arguments.study, seed=base.seed)


def _announce(console: Console, study: optuna.Study, search: Search, output: Path) -> None:
    stages = ", ".join(f"{epochs} epochs at {side} px" for side, epochs in search.base.stages)
    with storage_errors(search.storage):
        finished = count_finished(study)
    console.print(
        f"Searching {', '.join(search.space)}.\n"
        f"Each trial: {stages}; unpromising trials are pruned. Runs in {output}.\n"
        f"Study {search.name}: {finished} of {search.trials} trials are done. "
        f"Ctrl-C stops it at any time; the same command continues it."
    )


def _write_results(
    console: Console, study: optuna.Study, images: int, search: Search, arguments: argparse.Namespace
) -> None:
    """Prints the best trials, and writes the best configuration and the report."""
    with storage_errors(search.storage):
        found, weights = trials(study), importances(study)
    ranked = ranking(found)
    if not ranked:
        console.print("No trial is complete yet.")
        return
    best = search.config(ranked[0].params)
    best_file, report_file = arguments.output / BEST, arguments.output / REPORT
    command = _fit_command(arguments, best_file)
    report = study_report(
        search.name, found, importances=weights, images=images, best=best, command=command
    )  # fmt: skip
    write(best_file, to_json(best.to_dict()))
    write(report_file, report)
    console.print("The best trials:")
    show(_table(ranked))
    console.print(f"The best is trial {ranked[0].number}: {best_file}. Report: {report_file}. To train it again:")
    console.print(command)


def _fit_command(arguments: argparse.Namespace, best: Path) -> str:
    votes = ["--votes", str(arguments.votes)] if arguments.votes else []
    backend = [] if arguments.backend == "tensorflow" else ["--backend", arguments.backend]
    # Explicit, as otherwise the processor decides, whatever the file says.
    bfloat16 = [] if arguments.bfloat16 is None else ["--bfloat16" if arguments.bfloat16 else "--no-bfloat16"]
    words = ["trainer", "fit", *backend, *bfloat16, "--config", str(best), "--data", str(arguments.data), *votes, "-o"]
    return shlex.join([*words, str(arguments.output / "best")])


def _table(ranked: list[Trial]) -> Table:
    table = Table("trial", "PublicTest", *ranked[0].params, header_style="")
    for trial in ranked[:_ROWS]:
        table.add_row(str(trial.number), percent(trial.accuracy), *(f"{value:.3g}" for value in trial.params.values()))
    return table


class _Display(StudyListener):
    """Shows a progress bar for the epoch of the current trial, and a line for each finished trial."""

    def __init__(self, console: Console, search: Search) -> None:
        self._console = console
        self._epochs = search.base.epochs
        self._trial = 0
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console,
            transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("starting", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._progress.stop()

    def on_trial(self, number: int, *, resumed: bool) -> None:
        self._trial = number
        if resumed:
            self._console.print(f"trial {number:3}  resumed after its last finished epoch")

    def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        described = f"trial {self._trial}  epoch {epoch}/{self._epochs}  loss {loss:.3f}"
        self._progress.update(self._task, description=described, completed=step, total=steps)

    def on_result(self, trial: Trial) -> None:
        tried = "  ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
        state = f"failed: {trial.fault}" if trial.state == "failed" else f"PublicTest {percent(trial.accuracy)}"
        early = f"  pruned after epoch {max(trial.curve, default=0)}" if trial.state == "pruned" else ""
        self._console.print(f"trial {trial.number:3}  {state}{early}  {trial.seconds:.0f} s  {tried}")
