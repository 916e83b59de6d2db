"""Hyperparameter search: real trials on images that are easy to learn, interruptions, and shared storage."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree as ET

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import OperationalError, ProgrammingError

from edge.contract.errors import UserError
from tests.trainer.conftest import write_data_set, write_votes
from tests.trainer.stripes import stripes
from tests.trainer.test_cli import ROOT, TRAINER
from tests.trainer.test_report import Page
from trainer.cli import main
from trainer.config import FitConfig
from trainer.data import Dataset
from trainer.disk import lock
from trainer.errors import CheckpointError, StorageError
from trainer.fit import EpochResult
from trainer.metrics import proportion
from trainer.plots import study_curves
from trainer.provenance import provenance
from trainer.recipes import RECIPES, read_recipe
from trainer.run import read_config, write_config
from trainer.study import Trial, importances, open_study, ranking, require_conditions, trials
from trainer.study_report import study_report
from trainer.text import percent
from trainer.tune import Search, StudyListener, claim, prepare_study, run_folder, tune
from trainer.weights import load_network

BASE = FitConfig(
    stages=((16, 2),), batch_size=32, warmup_epochs=0.5, votes_weight=0.0, width=0.25, blocks=(0, 0, 0), seed=3
)


@pytest.fixture(scope="module")
def options(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for the same data set and short trials."""
    folder = tmp_path_factory.mktemp("stripes")
    write_data_set(folder / "fer2013.csv", dataset)
    (folder / "base.json").write_text(json.dumps(BASE.to_dict()))
    return ["--data", str(folder / "fer2013.csv"), "--config", str(folder / "base.json")]


@pytest.fixture(scope="module")
def found(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a search with two trials by the command, and its output."""
    output = tmp_path_factory.mktemp("found") / "study"
    command = [*TRAINER, "tune", *options, "-o", str(output), "--trials", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return output, done.stdout


def search(output: Path, count: int = 2, base: FitConfig = BASE) -> Search:
    """The settings of the same search as by the command."""
    return Search(base=base, trials=count, storage=str(output / "study.journal"), name="tune", seed=base.seed)


@contextmanager
def as_somebody(folder: Path) -> Iterator[None]:
    """Runs the block as an unprivileged user, with access to `folder`; without effect unless the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    folder.chmod(0o777)
    for path in folder.glob("study.journal*"):
        path.chmod(0o666)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def run_search(dataset: Dataset, output: Path, what: Search, listener: StudyListener | None = None) -> list[Trial]:
    """Runs the search and returns its trials."""
    study = prepare_study(dataset, output, what)
    tune(study, dataset, output, what, listener)
    return trials(study)


class StopAt(StudyListener):
    """Interrupts the search after an epoch of a trial."""

    def __init__(self, trial: int, epoch: int) -> None:
        self._at = (trial, epoch)
        self._trial = -1

    def on_trial(self, number: int, *, resumed: bool) -> None:  # noqa: ARG002
        self._trial = number

    def on_epoch(self, result: EpochResult) -> None:
        if (self._trial, result.epoch) == self._at:
            raise KeyboardInterrupt


def test_a_search_leaves_runs_and_the_best_configuration(found: tuple[Path, str]) -> None:
    """Each trial is an ordinary run; the parameters of the best one are in best.json, and its number is printed."""
    output, printed = found
    accuracies = []
    for name in ("trial-000", "trial-001"):
        lines = [json.loads(line) for line in (output / name / "history.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines] == [1, 2]
        accuracies.append(max(line["accuracy"] for line in lines))
    best = f"trial-00{accuracies.index(max(accuracies))}"
    assert read_recipe(output / "best.json") == read_recipe(output / best / "config.json")
    assert read_recipe(output / "best.json") != BASE
    assert f"The best is trial {int(best[-3:])}" in printed


def test_the_printed_command_trains_the_best_trial_again(found: tuple[Path, str]) -> None:
    """It can be pasted unchanged, and gives the accuracy of the search."""
    output, printed = found
    program, *words = shlex.split(printed.splitlines()[-1])
    assert program == "trainer"
    done = subprocess.run([*TRAINER, *words], capture_output=True, text=True, check=True, cwd=ROOT)
    assert read_config(output / "best")[0] == read_recipe(output / "best.json")
    study = open_study(str(output / "study.journal"), "tune", seed=3, epochs=2)
    accuracy = float(done.stdout.split("Best accuracy on PublicTest: ")[1].split("%")[0]) / 100
    assert accuracy == pytest.approx(ranking(trials(study))[0].accuracy, abs=0.05)


def test_only_images_with_a_majority_count(
    options: list[str], dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The interval of the best accuracy, and the image counts of the run by the printed command, are based on them.

    That command uses the precision of the trials, whatever the processor supports.
    """
    usages = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
    write_votes(tmp_path / "votes.csv", [usages[name] for name, faces in dataset.splits.items() for _ in faces.labels])
    header, *rows = (tmp_path / "votes.csv").read_text().splitlines()
    undecided = [row.replace(",2,0,8,", ",5,0,5,") if number % 2 else row for number, row in enumerate(rows)]
    (tmp_path / "votes.csv").write_text("\n".join([header, *undecided]) + "\n")

    command = ["tune", *options, "--votes", str(tmp_path / "votes.csv"), "-o", str(tmp_path / "study")]
    assert main([*command, "--labels", "ferplus", "--no-bfloat16", "--epochs", "1", "--trials", "1"]) == 0
    program, *printed = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert (program, "--no-bfloat16" in printed) == ("trainer", True)
    study = open_study(str(tmp_path / "study" / "study.journal"), "tune", seed=3, epochs=1)
    of_35 = proportion(round(trials(study)[0].accuracy * 35), 35)
    shown = f"95 % interval {percent(of_35.low)} to {percent(of_35.high)}"
    assert shown in Page((tmp_path / "study" / "report.html").read_text()).words

    assert main(printed) == 0
    assert "on 112 images of" in (output := capsys.readouterr().out)
    assert "validating on 35 of PublicTest" in output


def test_the_report_is_one_file_and_shows_the_search(found: tuple[Path, str]) -> None:
    """It opens offline, with all plots inside. With few trials, it says that there are no importances."""
    output, printed = found
    html = (output / "report.html").read_text()
    page = Page(html)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert "url(" not in html
    pictures = [reference.split(",", 1) for reference in page.references]
    assert [head for head, _ in pictures] == ["data:image/svg+xml;base64"] * 3
    for _, data in pictures:
        assert ET.fromstring(base64.b64decode(data)).tag.endswith("svg")  # noqa: S314 - our own picture
    for expected in (
        "2 complete trials, 0 pruned, 0 failed",
        "Too few complete trials",
        "peak_lr",
        printed.splitlines()[-1],
    ):
        assert expected in page.words


def test_a_resumed_search_is_equal_to_an_uninterrupted_one(
    tmp_path: Path, dataset: Dataset, found: tuple[Path, str]
) -> None:
    """The interrupted trial resumes after its last epoch, and the next one has the same parameters."""
    with pytest.raises(KeyboardInterrupt):
        run_search(dataset, tmp_path, search(tmp_path), StopAt(trial=0, epoch=1))
    assert [trial.state for trial in trials(prepare_study(dataset, tmp_path, search(tmp_path)))] == ["running"]
    broken = run_search(dataset, tmp_path, search(tmp_path))
    unbroken = trials(prepare_study(dataset, found[0], search(found[0])))
    assert [(t.state, t.params, len(t.curve)) for t in broken] == [(t.state, t.params, len(t.curve)) for t in unbroken]
    assert broken[0].params != broken[1].params
    history = (tmp_path / "trial-000" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in history] == [1, 2]


def test_soft_targets_are_computed_once_for_all_trials(
    tmp_path: Path, dataset: Dataset, found: tuple[Path, str], caplog: pytest.LogCaptureFixture
) -> None:
    """The second trial uses the cache of the first."""
    teacher = shutil.copytree(found[0] / "trial-000", tmp_path / "teacher")
    smoothing = read_config(teacher)[0].label_smoothing
    taught = search(tmp_path, base=replace(BASE, teachers=(str(teacher),), label_smoothing=smoothing))
    with caplog.at_level("INFO", "trainer"):
        assert [trial.state for trial in run_search(dataset, tmp_path, taught)] == ["complete"] * 2
    assert caplog.text.count("with the teacher") == 1
    with (teacher / "best.weights.h5").open("ab") as weights:
        weights.write(b"other")
    with pytest.raises(CheckpointError, match=r"with other conditions \(weights of .*teacher [0-9a-f]{64}\)"):
        prepare_study(dataset, tmp_path, taught)


def test_a_trial_that_runs_elsewhere_is_left_alone(tmp_path: Path, dataset: Dataset) -> None:
    """Two processes with the same folder and study do not run each other's trials."""
    what = search(tmp_path)
    study = prepare_study(dataset, tmp_path, what)
    first, lock = claim(study, tmp_path, what)
    second, other_lock = claim(study, tmp_path, what)
    assert (first.number, second.number) == (0, 1)
    lock.close()  # as the end of its process does
    again, taken_lock = claim(study, tmp_path, what)
    assert again.number == 0
    other_lock.close()
    taken_lock.close()


def test_a_trial_of_another_user_is_left_alone(dataset: Dataset) -> None:
    """Only the user who can open its files can resume it."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own is closed to others
        folder = Path(name)
        what = search(folder)
        study = prepare_study(dataset, folder, what)
        first, lock = claim(study, folder, what)
        lock.close()
        (run_folder(folder, first.number) / "lock").chmod(0)
        with as_somebody(folder):
            second, other_lock = claim(study, folder, what)
        assert second.number == 1
        other_lock.close()


def test_a_trial_that_another_process_takes_at_once_is_left_to_it(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between creating its folder and locking it, it looks like an interrupted one."""
    what = search(tmp_path)
    study = prepare_study(dataset, tmp_path, what)
    taken: list[IO[bytes]] = []

    def lock_second(path: Path) -> IO[bytes] | None:
        if not taken:
            taken.append(path.open("ab"))
            fcntl.flock(taken[0], fcntl.LOCK_EX)
        return lock(path)

    monkeypatch.setattr("trainer.tune.lock", lock_second)
    trial, mine = claim(study, tmp_path, what)
    assert trial.number == 1
    mine.close()
    taken[0].close()


def test_an_error_of_the_listener_is_not_reported_as_a_storage_error(tmp_path: Path, dataset: Dataset) -> None:
    """Such as a log on a full disk."""

    class FullDisk(StudyListener):
        def on_result(self, trial: Trial) -> None:
            raise OSError(trial.state)

    what = search(tmp_path, base=replace(BASE, teachers=("nobody",)))
    study = prepare_study(dataset, tmp_path, search(tmp_path))
    with pytest.raises(OSError, match=r"^failed$"):
        tune(study, dataset, tmp_path, what, FullDisk())


def test_a_trial_of_another_backend_is_left_alone(tmp_path: Path, dataset: Dataset) -> None:
    """A workstation without a GPU cannot read the JAX checkpoints of another one in the same folder."""
    what = search(tmp_path)
    study = prepare_study(dataset, tmp_path, what)
    first, lock = claim(study, tmp_path, what)
    origin = replace(provenance(dataset, BASE), libraries={"jax": "0.11.0"})
    write_config(run_folder(tmp_path, first.number), BASE, origin)
    lock.close()
    second, other_lock = claim(study, tmp_path, what)
    assert second.number == 1
    other_lock.close()


def test_an_unpromising_trial_is_pruned(tmp_path: Path, dataset: Dataset) -> None:
    """If all earlier trials were better at that epoch, the run ends there, with usable weights."""
    what = search(tmp_path, count=6)
    study = prepare_study(dataset, tmp_path, what)
    fill(study, what, [0.9] * 5)
    tune(study, dataset, tmp_path, what)
    last = trials(study)[-1]
    assert (last.state, len(last.curve)) == ("pruned", 1)
    assert load_network(tmp_path / "trial-005").count_params() > 0


def test_a_failed_trial_is_recorded_and_reported_and_the_search_continues(tmp_path: Path, dataset: Dataset) -> None:
    """The error is stored with the trial; another one takes its place."""
    results: list[Trial] = []

    class FailFirst(StudyListener):
        def __init__(self) -> None:
            self._number = 0

        def on_trial(self, number: int, *, resumed: bool) -> None:  # noqa: ARG002
            self._number = number

        def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:  # noqa: ARG002
            if self._number == 0:
                raise MemoryError("no room for the images")

        def on_result(self, trial: Trial) -> None:
            results.append(trial)

    run_search(dataset, tmp_path, search(tmp_path, count=1), FailFirst())
    assert [(trial.state, trial.fault) for trial in results] == [("failed", "no room for the images"), ("complete", "")]


def test_a_trial_that_diverges_has_failed(tmp_path: Path, dataset: Dataset) -> None:
    """It does not count as a result, and has the reason; another one takes its place."""
    what = search(tmp_path, count=1)
    study = prepare_study(dataset, tmp_path, what)
    wild = {**{name: one.low for name, one in what.space.items()}, "peak_lr": 1e6, "weight_decay": 1e6}
    wide: dict[str, BaseDistribution] = {
        name: FloatDistribution(one.low, 1e6, log=one.log) for name, one in what.space.items()
    }
    study.add_trial(create_trial(state=TrialState.RUNNING, params=wild, distributions=wide))
    run_folder(tmp_path, 0).mkdir()
    tune(study, dataset, tmp_path, what)
    assert [trial.state for trial in trials(study)] == ["failed", "complete"]
    assert "diverged in epoch" in trials(study)[0].fault


def test_several_failures_in_a_row_end_the_search(tmp_path: Path, dataset: Dataset) -> None:
    """A full disk does not fill the study with failures."""

    class FailAll(StudyListener):
        def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:  # noqa: ARG002
            raise UserError("no space left on device")

    with pytest.raises(UserError, match=r"the last one with: no space left on device\. Fix that"):
        run_search(dataset, tmp_path, search(tmp_path, count=9), FailAll())
    assert [t.state for t in trials(prepare_study(dataset, tmp_path, search(tmp_path)))] == ["failed"] * 3


def test_workstations_share_a_database(tmp_path: Path, dataset: Dataset) -> None:
    """Two searches with separate folders and the same storage never try the same parameters."""
    storage = f"sqlite:///{tmp_path}/study.db"
    what = replace(search(tmp_path), storage=storage)
    here, there = prepare_study(dataset, tmp_path / "here", what), prepare_study(dataset, tmp_path / "there", what)
    first, second = here.ask(dict(what.space)), there.ask(dict(what.space))
    assert (first.number, second.number) == (0, 1)
    assert first.params != second.params


def test_a_study_is_not_mixed_with_another(tmp_path: Path, dataset: Dataset) -> None:
    """Trials with other conditions cannot be compared: the error names what differs."""
    prepare_study(dataset, tmp_path, search(tmp_path))
    longer = replace(BASE, stages=((32, 9),))
    with pytest.raises(CheckpointError, match=r"stages \[\[16, 2\]\].*--study"):
        prepare_study(dataset, tmp_path, search(tmp_path, base=longer))
    judged_otherwise = Dataset(dataset.path, {**dataset.splits, "validation": stripes(70, 9)})
    with pytest.raises(CheckpointError, match=r"started with other conditions \(validation_sha256 [0-9a-f]{64}\)"):
        prepare_study(judged_otherwise, tmp_path, search(tmp_path))


@pytest.mark.parametrize(
    "storage",
    ["{folder}/nowhere/study.journal", "{folder}/not.journal", "sqlite:///{folder}/nowhere/study.db",
     "sqlite:///{folder}/not.journal", "postgres://host/study", "what://ever"],
)  # fmt: skip
def test_unusable_storage(storage: str, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The error names it, without a traceback, and has the exit code of runs that cannot be read."""
    (tmp_path / "not.journal").write_text("a shopping list\nand more\nof it\n")
    address = storage.format(folder=tmp_path)
    assert main(["tune", *options, "-o", str(tmp_path / "out"), "--storage", address]) == 11
    assert f"trainer: error: {address}: cannot be used as the storage of a study" in capsys.readouterr().err


class Outage:
    """A database that fails for `times` reports of the epoch `at`, counted from 1."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, at: int, times: int) -> None:
        self.left = times
        really = RDBStorage.set_trial_intermediate_value

        def report(storage: RDBStorage, trial_id: int, step: int, value: float) -> None:
            if step == at and self.left:
                self.left -= 1
                raise optuna.exceptions.StorageInternalError from OperationalError("", {}, Exception("it starts up"))
            really(storage, trial_id, step, value)

        monkeypatch.setattr(RDBStorage, "set_trial_intermediate_value", report)
        monkeypatch.setattr("trainer.study._PAUSES_S", (0.0, 0.0, 0.0))


def test_a_short_outage_of_the_database_costs_nothing(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report is retried a few times, and the trial continues."""
    Outage(monkeypatch, at=1, times=3)
    what = replace(search(tmp_path, count=1), storage=f"sqlite:///{tmp_path}/study.db")
    assert [(trial.state, list(trial.curve)) for trial in run_search(dataset, tmp_path, what)] == [("complete", [1, 2])]


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_trial_can_be_resumed_after_a_long_outage_of_the_database(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """The trial has not failed. The same command resumes it, and reports the missing epochs."""
    outage = Outage(monkeypatch, at=epoch, times=4)
    what = replace(search(tmp_path, count=1), storage=f"sqlite:///{tmp_path}/study.db")
    with pytest.raises(StorageError, match=r"it starts up\)\. Fix that and repeat the command, which continues"):
        run_search(dataset, tmp_path, what)
    assert outage.left == 0
    assert [trial.state for trial in trials(prepare_study(dataset, tmp_path, what))] == ["running"]
    (trial,) = run_search(dataset, tmp_path, what)
    history = [json.loads(line) for line in (tmp_path / "trial-000" / "history.jsonl").read_text().splitlines()]
    assert trial.state == "complete"
    assert trial.curve == {line["epoch"]: line["accuracy"] for line in history}
    assert list(trial.curve) == [1, 2]
    assert trial.seconds == pytest.approx(sum(line["seconds"] for line in history), abs=0.1)


def test_a_new_database_that_another_workstation_prepares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes that start at once, neither fails while the other creates the tables."""
    storage = f"sqlite:///{tmp_path}/study.db"
    refused: list[str] = []

    def refuse_once(*arguments: Any, **options: Any) -> RDBStorage:
        if not refused:
            refused.append(storage)
            raise ProgrammingError("CREATE TABLE studies", {}, Exception("table studies already exists"))
        return RDBStorage(*arguments, **options)

    monkeypatch.setattr("trainer.study.RDBStorage", refuse_once)
    assert trials(open_study(storage, "tune", seed=1, epochs=2)) == []


def test_storage_that_fails_during_the_search(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is the same as if it had been unusable from the start, also when the results are read at the end."""
    output = tmp_path / "out"

    def spoil() -> None:
        while not (output / "trial-000" / "config.json").exists():
            time.sleep(0.01)
        with (output / "study.journal").open("a") as journal:
            journal.write("a shopping list\nand more\n")

    spoiler = threading.Thread(target=spoil, daemon=True)
    spoiler.start()
    assert main(["tune", *options, "-o", str(output), "--epochs", "1"]) == 11
    spoiler.join()
    assert f"error: {output}/study.journal: cannot be used as the storage of a study (" in capsys.readouterr().err


def test_invalid_inputs_are_rejected_before_the_first_trial(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped path of a teacher does not leave a study that requires this teacher."""
    output = tmp_path / "out"
    assert main(["tune", *options, "-o", str(output), "--teacher", str(tmp_path / "nobody")]) == 11
    assert f"error: {tmp_path / 'nobody'}: is not a run folder" in capsys.readouterr().err
    (tmp_path / "large.json").write_text(json.dumps({**BASE.to_dict(), "batch_size": 999}))
    assert main(["tune", *options[:2], "--config", str(tmp_path / "large.json"), "-o", str(output)]) == 10
    assert "224 training images are fewer than a batch of 999" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize("storage", ["{folder}/study.journal", "sqlite:///{folder}/study.db"])
def test_of_two_processes_that_start_a_study_at_once_the_first_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    """The other, whose conditions differ, is rejected, though it saw a study without any."""
    here, there = (open_study(storage.format(folder=tmp_path), "tune", seed=1, epochs=2) for _ in range(2))
    really = optuna.Study.add_trial
    late: list[FrozenTrial] = []

    def add_trial(study: optuna.Study, trial: FrozenTrial) -> None:
        if not late:
            late.append(trial)
            require_conditions(there, {"data": "theirs"})
        really(study, trial)

    monkeypatch.setattr(optuna.Study, "add_trial", add_trial)
    with pytest.raises(CheckpointError, match=r"started with other conditions \(data theirs\)"):
        require_conditions(here, {"data": "ours"})
    require_conditions(there, {"data": "theirs"})


@pytest.mark.parametrize(
    ("storage", "shown"),
    [("what://me:secret@ever/study", "what://me:***@ever/study"),
     ("what://me:half/secret@ever/study", "what://me:***@ever/study"),
     ("what://me:half@secret@ever/study", "what://***"),
     ("sqlite://me:half@secret:1@ever/study", "sqlite://***"),
     ("what://me:half?secret@ever/study", "what://***"),
     ("what://ever/study?user=me&password=secret", "what://ever/study?***"),
     ("what://ever:1234/study?user=me&password=half@secret", "what://***"),
     ("what://me@ever/study", "what://me@ever/study")],
)  # fmt: skip
def test_a_password_is_not_shown(storage: str, shown: str) -> None:
    """Error messages end up in tickets."""
    with pytest.raises(StorageError) as raised:
        open_study(storage, "tune", seed=1, epochs=2)
    assert "secret" not in str(raised.value)
    assert "half" not in str(raised.value)
    assert str(raised.value).startswith(f"{shown}: cannot be used as the storage of a study (")
    assert ("%40" in str(raised.value)) == (shown.endswith("//***"))


@pytest.mark.parametrize("wrong", [["--trials", "0"], ["--epochs", "-1"], ["--trials", "many"]])
def test_numbers_that_make_no_sense(
    wrong: list[str], options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Zero trials are a wrong command line."""
    with pytest.raises(SystemExit) as ended:
        main(["tune", *options, "-o", str(tmp_path), *wrong])
    assert ended.value.code == 2
    assert wrong[0] in capsys.readouterr().err


def test_crowd_labels_need_votes(options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error comes before a study is created."""
    output = tmp_path / "out"
    assert main(["tune", *options, "-o", str(output), "--labels", "ferplus"]) == 10
    assert "--votes" in capsys.readouterr().err
    assert not output.exists()


def test_only_what_has_an_effect_is_searched(tmp_path: Path) -> None:
    """No votes_weight without a second head, no muon_lr with SGD, no label_smoothing with FER+ labels.

    With teachers, label_smoothing is theirs.
    """
    assert {"votes_weight", "label_smoothing"} <= search(tmp_path, base=RECIPES["quick"]).space.keys()
    assert "votes_weight" not in search(tmp_path).space
    assert "muon_lr" not in search(tmp_path, base=FitConfig()).space
    assert "muon_lr" in search(tmp_path, base=FitConfig(muon_lr=0.01)).space
    assert "label_smoothing" not in search(tmp_path, base=FitConfig(labels="ferplus")).space
    assert "label_smoothing" not in search(tmp_path, base=FitConfig(teachers=("runs/teacher",))).space


@pytest.mark.parametrize(
    ("epochs", "stages"), [(1, ((48, 1),)), (2, ((32, 1), (48, 1))), (6, ((32, 5), (48, 1))), (12, ((32, 10), (48, 2)))]
)
def test_stages_scale_with_the_epochs(epochs: int, stages: tuple[tuple[int, int], ...]) -> None:
    """A shorter trial has the proportions of the recipe, and still ends at full size."""
    assert RECIPES["quick"].with_epochs(epochs).stages == stages
    assert RECIPES["default"].with_epochs(epochs).epochs == epochs


def test_every_trial_has_a_quarter_of_the_epochs(tmp_path: Path) -> None:
    """Three of ten, as two would be less than a quarter."""
    what = search(tmp_path)
    study = open_study(what.storage, what.name, seed=1, epochs=10)
    fill(study, what, [0.9] * 5, epochs=10)
    trial = study.ask(dict(what.space))
    pruned = []
    for epoch in (1, 2, 3):
        trial.report(0.1, epoch)
        pruned.append(trial.should_prune())
    assert pruned == [False, False, True]


def test_the_accuracy_of_a_complete_trial_is_that_of_its_run(tmp_path: Path) -> None:
    """If it was stopped between its best epoch and the report of it, the curve lacks that epoch."""
    what = search(tmp_path)
    study = open_study(what.storage, what.name, seed=1, epochs=3)
    for curve, value in (((0.5, 0.6, 0.7), 0.7), ((0.5, 0.6), 0.9), ((0.8, 0.7), None)):
        trial = study.ask(dict(what.space))
        for epoch, accuracy in enumerate(curve, start=1):
            trial.report(accuracy, epoch)
        study.tell(trial, value, state=TrialState.COMPLETE if value else TrialState.PRUNED)
    assert [trial.accuracy for trial in trials(study)] == [0.7, 0.9, 0.8]
    assert [trial.number for trial in ranking(trials(study))] == [1, 0]


def test_an_epoch_that_was_never_reported_is_a_gap_in_the_curve(tmp_path: Path) -> None:
    """The others keep their position in the study and in its plot."""
    what = search(tmp_path)
    study = open_study(what.storage, what.name, seed=1, epochs=3)
    trial = study.ask(dict(what.space))
    for epoch in (3, 1):
        trial.report(0.1 * epoch, epoch)
    (found,) = trials(study)
    assert list(found.curve) == [1, 3]
    (line,) = study_curves([found]).axes[0].lines
    assert np.array_equal(line.get_xdata(), [1, 3])


def test_importances_rank_the_parameters(tmp_path: Path) -> None:
    """With enough trials, the report ranks the parameters, and lists failed trials with their errors."""
    what = search(tmp_path)
    study = open_study(str(tmp_path / "study.journal"), "tune", seed=1, epochs=2)
    for _ in range(30):
        trial = study.ask(dict(what.space))
        trial.report(accuracy := 0.6 - (trial.params["dropout"] - 0.1) ** 2, 2)
        study.tell(trial, accuracy)
    trial = study.ask(dict(what.space))
    trial.set_user_attr("fault", "the disk <full>")
    study.tell(trial, state=TrialState.FAIL)
    found = trials(study)
    weights = importances(study)
    assert next(iter(weights)) == "dropout"
    html = study_report("tune", found, importances=weights, images=3589, best=BASE, command="trainer fit")
    words = Page(html).words
    assert "30 complete trials, 0 pruned, 1 failed" in words
    assert "the disk <full>" in words
    assert len(Page(html).references) == 4


def fill(study: optuna.Study, what: Search, accuracies: list[float], epochs: int = 2) -> None:
    """Adds complete trials, as other workstations would."""
    ranges: dict[str, BaseDistribution] = dict(what.space)
    for number, accuracy in enumerate(accuracies):
        params = {name: one.low + (one.high - one.low) * number / 9 for name, one in what.space.items()}
        curve = dict.fromkeys(range(1, epochs + 1), accuracy)
        study.add_trial(
            create_trial(value=accuracy, params=params, distributions=ranges, intermediate_values=curve)
        )  # fmt: skip
