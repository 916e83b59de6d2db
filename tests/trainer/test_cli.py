"""Command line: help, errors and interruption, partly in real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from trainer.cli import main, parser
from trainer.commands.fit import _Display, requested_config
from trainer.commands.output import Console
from trainer.config import FitConfig
from trainer.fit import EpochResult

TRAINER = [sys.executable, "-c", "import sys; from trainer.cli import main; sys.exit(main())"]
ROOT = Path(__file__).parents[2]


def test_help_names_every_command() -> None:
    """`trainer --help` lists all commands."""
    shown = subprocess.run([*TRAINER, "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    for command in ("data", "fit", "tune", "evaluate", "export", "keygen", "sign"):
        assert command in shown.stdout


@pytest.mark.parametrize(
    "command", [["--version"], ["fit", "--help"], ["tune", "--help"], ["data", "check", "nowhere"]]
)
def test_light_commands_do_not_import_tensorflow(command: list[str]) -> None:
    """Help and `data check` do not import TensorFlow, which takes seconds."""
    script = (
        "import sys, trainer.cli\n"
        "try: trainer.cli.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'tensorflow', 'keras'} & sys.modules.keys()))"
    )
    assert (
        subprocess.run([sys.executable, "-c", script, *command], capture_output=True, check=False, cwd=ROOT).returncode
        == 0
    )


def test_an_error_names_path_problem_and_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong path ends with exit code 10 and a line that names it."""
    assert main(["data", "check", str(tmp_path / "fer.zip")]) == 10
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"trainer: error: {tmp_path / 'fer.zip'}: no such file or folder. Give {{train,")


@pytest.mark.parametrize(
    ("library", "command"),
    [("scipy", ["data", "check", "nowhere"]), ("jinja2", ["evaluate", "--data", "nowhere", "bundle"])],
)
def test_a_library_that_is_not_installed_is_a_clear_error(library: str, command: list[str]) -> None:
    """On a device, the command is installed without its dependencies."""
    script = f"import sys; sys.modules['{library}'] = None; from trainer.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"trainer: error: the library {library} is not installed. Install the dependencies")


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid command line ends with exit code 2 and prints the usage."""
    with pytest.raises(SystemExit) as ended:
        main(["evaluate"])
    assert ended.value.code == 2
    assert "usage: trainer evaluate" in capsys.readouterr().err


@pytest.fixture
def few(tmp_path: Path) -> list[str]:
    """Returns a fit command with a data set of one image."""
    data = tmp_path / "plain"
    for split in ("train", "validation", "test"):
        (data / split / "happy").mkdir(parents=True)
        cv2.imwrite(str(data / split / "happy" / "1.png"), np.zeros((48, 48), np.uint8))
    return ["fit", "--data", str(data), "-o", str(tmp_path / "run")]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["fit", "--config", "mine.json", "-o", "run"], "mine.json: is not a run configuration"),
        (["fit", "--resume", "-o", "run"], "run: is not a run folder"),
        (["fit", "-o", str(ROOT / "models/runs/default")], "default: already holds a run"),
        (["tune", "--config", "mine.json", "-o", "study"], "mine.json: is not a run configuration"),
        (["export", "run", "-o", "bundle"], "run: is not a run folder"),
        (["export", "run", "-o", str(ROOT / "docs")], "docs: already exists and is not a readable bundle"),
    ],
)
def test_errors_that_need_no_data_are_reported_before_it_is_read(
    command: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Errors that need no data are reported before it is read."""
    assert main([*command, "--data", "nowhere"]) in {1, 11}
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--epochs", "abc", "'abc' is not a positive integer"),
        ("--epochs", "1.5", "'1.5' is not a positive integer"),
        ("--epochs", "0", "'0' is not a positive integer"),
        ("--seed", "x", "'x' is not an integer from 0 to 4294967295"),
        ("--seed", "4294967296", "'4294967296' is not an integer from 0 to 4294967295"),
        ("--max-drop", "x", "'x' is not a number from 0 to 100"),
        ("--max-drop", "nan", "'nan' is not a number from 0 to 100"),
        ("--max-drop", "101", "'101' is not a number from 0 to 100"),
    ],
)
def test_an_invalid_number_is_rejected_with_the_allowed_values(
    option: str, value: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error states the allowed values."""
    command = ["export", "run"] if option == "--max-drop" else ["fit"]
    with pytest.raises(SystemExit):
        main([*command, "--data", "nowhere", "-o", "out", option, value])
    assert capsys.readouterr().err.endswith(f"error: argument {option}: {message}\n")


@pytest.mark.parametrize("epochs", ["100000000", "9" * 400], ids=["many", "beyond all"])
def test_too_many_epochs_are_a_clear_error(epochs: str, few: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the option."""
    assert main([*few, "--epochs", epochs]) == 1
    assert f"error: --epochs {epochs} is more than a run can have. Use fewer." in capsys.readouterr().err


@pytest.mark.parametrize("verbose", [False, True])
def test_tensorflow_messages_are_shown_with_verbose_only(verbose: bool, tmp_path: Path) -> None:
    """Standard error contains only the error, or with --verbose also TensorFlow's messages."""
    command = ["export", str(tmp_path), "--data", "nowhere", "-o", str(tmp_path / "bundle")]
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([*TRAINER, *command, *["-v"] * verbose], capture_output=True, text=True, cwd=ROOT,
                          env=environment, check=False)  # fmt: skip
    others = [line for line in done.stderr.splitlines() if not line.startswith("trainer: error: ")]
    assert done.returncode == 11
    assert bool(others) == verbose


def test_a_bundle_with_other_labels_is_not_evaluated_on_fer2013(
    kaggle_zip: Path, bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle with other label order is valid for devices, but its label indices differ from the data set's."""
    manifest = json.loads((shutil.copytree(bundle_path, tmp_path / "mine") / "manifest.json").read_text())
    manifest["labels"].reverse()
    (tmp_path / "mine" / "manifest.json").write_text(json.dumps(manifest))
    assert main(["evaluate", str(tmp_path / "mine"), "--data", str(kaggle_zip)]) == 10
    assert "but the classes of the model are contempt, neutral, surprise" in capsys.readouterr().err


def test_the_remaining_time_is_estimated_for_epochs_of_few_steps_too(capsys: pytest.CaptureFixture[str]) -> None:
    """With JAX, an epoch is a single step for the display, and the first includes compilation."""
    config = FitConfig(stages=((24, 1), (48, 4)))
    with _Display(Console(), config) as display:
        for epoch, seconds in ((1, 500.0), (2, 60.0), (3, 60.0)):
            display.on_step(epoch, 100, 100, 1.5)
            display.on_epoch(EpochResult(epoch, config.side_px(epoch - 1), 1.5, 0.5, best=True, seconds=seconds))
    assert capsys.readouterr().out.count("At this speed it will take about 3 min.") == 1


@pytest.mark.parametrize("more", [["--votes", "votes.csv"], ["--split", "test"]])
def test_folder_cannot_be_combined_with_votes_or_split(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Options that would be ignored are errors."""
    assert main(["evaluate", str(ROOT / "models/default"), "--folder", "--data", "mine", *more]) == 1
    assert f"--folder has neither splits nor votes and cannot be combined with {more[0]}." in capsys.readouterr().err


def test_a_folder_may_contain_the_classes_of_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Contempt is a valid folder only for models with FER+ labels."""
    (tmp_path / "contempt").mkdir()
    cv2.imwrite(str(tmp_path / "contempt" / "1.png"), np.zeros((48, 48), np.uint8))
    command = ["--folder", "--data", str(tmp_path), "--format", "json"]
    assert main(["evaluate", str(ROOT / "models/ferplus"), *command]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["int8"]["classes"][7]["support"] == 1
    assert main(["evaluate", str(ROOT / "models/default"), *command]) == 10
    assert "unknown emotion 'contempt'" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--epochs", "9"], ["--recipe", "teacher"], ["--no-bfloat16"]])
def test_resume_cannot_be_combined_with_other_parameters(
    more: list[str], few: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Options that would be ignored are errors."""
    assert main([*few, "--resume", *more]) == 1
    refused = more[0].replace("--no-", "--")
    assert (
        f"--resume uses the configuration of the run and cannot be combined with {refused}." in capsys.readouterr().err
    )


@pytest.mark.parametrize("value", ['"stages": []', '"stages": [[48, 1]], "labels": "FERPlus"'])
def test_an_invalid_configuration_file_is_a_clear_error(
    value: str, few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid configuration file ends with exit code 11 and names the value, before a run is created."""
    (tmp_path / "mine.json").write_text(f"{{{value}}}")
    assert main([*few, "--config", str(tmp_path / "mine.json")]) == 11
    assert f"error: {tmp_path / 'mine.json'}: is not a run configuration (" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_votes_without_effect_are_rejected(few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With votes_weight 0 there is no second head, which would otherwise be noticed only after hours."""
    (tmp_path / "mine.json").write_text('{"stages": [[48, 1]], "votes_weight": 0.0}')
    assert main([*few, "--config", str(tmp_path / "mine.json"), "--votes", "fer2013new.csv"]) == 1
    assert "mine.json: has a votes_weight of 0, so --votes would have no effect." in capsys.readouterr().err


def test_the_network_is_as_wide_as_its_initial_weights() -> None:
    """The width is raised to that of the initial weights; a recipe may have a larger one."""
    run = ROOT / "models/runs/muonwide"
    command = ["fit", "--data", "fer2013.csv", "-o", "new", "--initial-weights"]
    config = requested_config(parser().parse_args([*command, str(run)]), Console())
    assert (config.width, config.initial_weights) == (2.0, str(run))
    narrow = [str(ROOT / "models/runs/default"), "--recipe", "teacher"]
    assert requested_config(parser().parse_args([*command, *narrow]), Console()).width == 2.0


@pytest.mark.parametrize("place", ["taken", "taken/below/it"])
@pytest.mark.parametrize(
    "command",
    [
        ["data", "check", "nowhere", "--report"],
        ["evaluate", "nobody", "--data", "nowhere", "--report"],
        ["fit", "--data", "nowhere", "-o"],
        ["tune", "--data", "nowhere", "-o"],
        ["export", "nobody", "--data", "nowhere", "-o"],
    ],
)
def test_an_output_folder_that_cannot_be_written_is_a_clear_error(
    command: list[str], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is reported before any long computation, with path and remedy."""
    (tmp_path / "taken").touch()
    assert main([*command, str(tmp_path / place)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"trainer: error: {tmp_path / 'taken'}")
    assert "cannot be written to (Not a directory). Name a folder" in error or "already exists and is not" in error


def test_the_write_check_leaves_no_folder(tmp_path: Path) -> None:
    """The check for write permission leaves no files."""
    assert main(["data", "check", "nowhere", "--report", str(tmp_path / "a" / "b")]) == 10
    assert not list(tmp_path.iterdir())


def test_results_are_printed_before_they_are_written(
    kaggle_zip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Results are printed even if the report cannot be written."""
    (tmp_path / "report" / "audit.json").mkdir(parents=True)
    assert main(["data", "check", str(kaggle_zip), "--report", str(tmp_path / "report")]) == 1
    assert "Images in" in capsys.readouterr().out
    (tmp_path / "report" / "evaluation.json").mkdir(parents=True)
    command = ["evaluate", str(ROOT / "models/default"), "--data", str(kaggle_zip)]
    assert main([*command, "--report", str(tmp_path / "report")]) == 1
    assert "macro F1" in capsys.readouterr().out


def test_closed_pipe_while_printing_json(kaggle_zip: Path, tmp_path: Path) -> None:
    """`trainer ... | head` ends silently, and the report is still written."""
    report = tmp_path / "report"
    command = [*TRAINER, "data", "check", str(kaggle_zip), "--format", "json", "--report", str(report)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    assert (report / "audit.json").exists()


def test_closed_pipe_while_printing_text(tmp_path: Path) -> None:
    """The exit code is that of a closed pipe, not of an error."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*TRAINER, "keygen", str(tmp_path / "key")], stdout=writer, stderr=subprocess.PIPE, cwd=ROOT,
                          check=False)  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_standard_output_on_a_full_disk(tmp_path: Path) -> None:
    """A full disk (`/dev/full`) is reported in one line; with --verbose, with a traceback."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done, verbose = (subprocess.run([*TRAINER, "keygen", str(tmp_path / name), *options], stdout=full,
                                     stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment, check=False)
                      for name, options in (("key", ()), ("other", ("--verbose",))))  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "trainer: error: [Errno 28] No space left on device\n")
    assert "Traceback" in verbose.stderr


def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C ends a command with exit code 130 and without a traceback."""
    pipe = tmp_path / "endless.csv"
    os.mkfifo(pipe)
    with subprocess.Popen([*TRAINER, "data", "check", str(pipe)], stderr=subprocess.PIPE, cwd=ROOT) as process:
        with pipe.open("w") as table:  # opens once the command is reading
            table.write("emotion,pixels,Usage\n")
            table.flush()
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
        assert process.stderr is not None
        assert process.stderr.read() == b""
