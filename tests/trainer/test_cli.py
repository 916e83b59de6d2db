"""How the command line answers, fails and is interrupted, as real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from trainer.cli import main, parser
from trainer.commands.fit import requested_config

TRAINER = [sys.executable, "-c", "import sys; from trainer.cli import main; sys.exit(main())"]
ROOT = Path(__file__).parents[2]


def test_help_names_every_command() -> None:
    """`trainer --help` lists what can be done."""
    shown = subprocess.run([*TRAINER, "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    for command in ("data", "fit", "tune", "evaluate", "export", "keygen", "sign"):
        assert command in shown.stdout


@pytest.mark.parametrize(
    "command", [["--version"], ["fit", "--help"], ["tune", "--help"], ["data", "check", "nowhere"]]
)
def test_light_commands_do_without_tensorflow(command: list[str]) -> None:
    """Help and `data check` answer at once: TensorFlow, which takes seconds, is not loaded."""
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


def test_error_says_what_where_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong path ends with exit code 10 and a line that names it."""
    assert main(["data", "check", str(tmp_path / "fer.zip")]) == 10
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"trainer: error: {tmp_path / 'fer.zip'}: no such file or folder. Give train/")


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """A command line that makes no sense ends with exit code 2 and the usage."""
    with pytest.raises(SystemExit) as ended:
        main(["evaluate"])
    assert ended.value.code == 2
    assert "usage: trainer evaluate" in capsys.readouterr().err


@pytest.fixture
def few(tmp_path: Path) -> list[str]:
    """A command that fits on one image."""
    data = tmp_path / "plain"
    for split in ("train", "validation", "test"):
        (data / split / "happy").mkdir(parents=True)
        cv2.imwrite(str(data / split / "happy" / "1.png"), np.zeros((48, 48), np.uint8))
    return ["fit", "--data", str(data), "-o", str(tmp_path / "run")]


@pytest.mark.parametrize("more", [["--epochs", "9"], ["--recipe", "teacher"], ["--no-bfloat16"]])
def test_a_resumed_run_takes_no_other_parameters(
    more: list[str], few: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """They would be ignored, so they are refused."""
    assert main([*few, "--resume", *more]) == 1
    refused = more[0].replace("--no-", "--")
    assert f"--resume goes on with the run as it was begun, and cannot take {refused}." in capsys.readouterr().err


@pytest.mark.parametrize("value", ['"stages": []', '"stages": [[48, 1]], "labels": "FERPlus"'])
def test_parameters_that_make_no_sense(
    value: str, few: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that a person wrote ends with exit code 11 and names the value, before a run is begun."""
    (tmp_path / "mine.json").write_text(f"{{{value}}}")
    assert main([*few, "--config", str(tmp_path / "mine.json")]) == 11
    assert f"error: {tmp_path / 'mine.json'}: holds no configuration of a run (" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_network_is_as_wide_as_its_initial_weights() -> None:
    """Whoever goes on from a run of another width need not know which it was; a recipe may ask for more."""
    run = ROOT / "models/runs/muonwide"
    command = ["fit", "--data", "fer2013.csv", "-o", "new", "--initial-weights"]
    config = requested_config(parser().parse_args([*command, str(run)]), Console(quiet=True))
    assert (config.width, config.initial_weights) == (2.0, str(run))
    narrow = [str(ROOT / "models/runs/default"), "--recipe", "teacher"]
    assert requested_config(parser().parse_args([*command, *narrow]), Console(quiet=True)).width == 2.0


def test_report_that_cannot_be_written(kaggle_zip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the disk refuses, the user is told which path, without a traceback."""
    (tmp_path / "taken").touch()
    assert main(["data", "check", str(kaggle_zip), "--report", str(tmp_path / "taken")]) == 1
    assert f"trainer: error: [Errno 17] File exists: '{tmp_path / 'taken'}'" in capsys.readouterr().err


def test_reader_that_has_seen_enough(kaggle_zip: Path) -> None:
    """`trainer ... | head` ends quietly."""
    command = [*TRAINER, "data", "check", str(kaggle_zip), "--format", "json"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


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
