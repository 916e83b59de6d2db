"""The command line as processes see it: options, errors, exit codes, and the form of the log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EDGE = str(Path(sys.executable).with_name("edge"))


def edge(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the installed command to completion."""
    return subprocess.run([EDGE, *arguments], capture_output=True, text=True, check=False)


def test_help_comes_without_the_heavy_parts() -> None:
    """`edge --help` answers at once on a small device: neither OpenCV nor a runtime nor paho is loaded for it."""
    program = (
        "import sys\n"
        "from edge.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'cv2', 'paho', 'ai_edge_litert', 'tflite_runtime', 'rich', 'tensorflow'}\n"
        "print(*(heavy & sys.modules.keys()), file=sys.stderr, end='')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "classify" in done.stdout


def test_the_version_is_printed() -> None:
    """`--version` prints the version, for bug reports."""
    assert edge("--version").stdout.startswith("edge 0.")


def test_a_wrong_command_line_has_its_own_code() -> None:
    """Scripts can distinguish a misspelled option from an error of the device."""
    assert edge("check", "--confg", "x").returncode == 2


@pytest.mark.parametrize("wrong", [["--port", "-1"], ["--port", "0"], ["--port", "mqtt"], ["--host", ""]])
def test_an_invalid_address_is_rejected(wrong: list[str]) -> None:
    """Rejected by the argument parser, before a connection is attempted."""
    told = edge("watch", *wrong)
    assert (told.returncode, f"argument {wrong[0]}: " in told.stderr) == (2, True), told.stderr


def test_an_error_is_one_line_a_fault_and_a_code(tmp_path: Path) -> None:
    """Each error is one line without a traceback; the exit code is 3."""
    (tmp_path / "config.toml").write_text("[mqtt]\nprot = 1\n")
    done = edge("run", "--config", tmp_path / "config.toml")
    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        (
            f"edge: error: {tmp_path}/config.toml: camera: no camera is configured. "
            "Add a [[camera]] table with name and source."
        ),
        f"edge: error: {tmp_path}/config.toml:2: mqtt.prot: unknown key. Perhaps you meant mqtt.port.",
    ]


def test_a_missing_bundle_has_its_own_exit_code(tmp_path: Path) -> None:
    """A missing bundle is reported by its path, with exit code 4."""
    done = edge("classify", "x.jpg", "--model", tmp_path)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"edge: error: {tmp_path}: is not a model bundle" in done.stderr


def into_a_closed_pipe(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the installed command with a closed pipe as its output."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([EDGE, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    return done


def test_a_closed_pipe_is_no_accident(bundle_path: Path, astronaut_path: Path) -> None:
    """`edge classify ... | head -0` ends without a complaint."""
    done = into_a_closed_pipe("classify", "--format", "json", "--model", bundle_path, astronaut_path)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("command", ["check", "doctor", "watch"])
def test_a_closed_pipe_is_none_for_lines_either(command: str, tmp_path: Path) -> None:
    """As with JSON output, the exit code is that of a closed pipe, not that of an error."""
    options = ["--port", "1"] if command == "watch" else ["--config", str(tmp_path / "config.toml")]
    done = into_a_closed_pipe(command, *options)
    assert (done.returncode, done.stderr) == (141, "")


def test_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A full disk (`/dev/full`) is reported in one line, with an exit code; --verbose adds the traceback."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [EDGE, "check", "--config", str(tmp_path / "config.toml")]
    with Path("/dev/full").open("w") as full:
        done, told = (subprocess.run([*command, *options], stdout=full, stderr=subprocess.PIPE, text=True, env=environ,
                                     check=False) for options in ((), ("--verbose",)))  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "edge: error: [Errno 28] No space left on device.\n")
    assert "Traceback" in told.stderr


def test_ctrl_c_ends_a_command_quietly() -> None:
    """Interrupting a command that would go on for ever leaves no traceback."""
    command = [EDGE, "watch", "--plain", "--port", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "nothing listens on that port" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate()
    assert (process.returncode, complaint) == (130, "")


def test_file_names_cannot_manipulate_the_terminal(tmp_path: Path) -> None:
    """Control characters in file names are replaced, so that they cannot manipulate the terminal."""
    folder = tmp_path / "\x1b[2Ka\x85model"
    folder.mkdir()
    done = edge("classify", "--model", folder, folder)
    assert f"edge: error: {tmp_path}/?[2Ka?model: is not a model bundle" in done.stderr


_LOG = """
import logging, os
from edge.logs import configure_logging
configure_logging("info", os.environ)
log = logging.getLogger("edge.camera")
log.debug("left out")
log.info("camera %s is online", "door")
log.warning("two\\nlines\\x85%s", "<6>edge: and\\x1b[2K what steers a terminal")
"""


def logged(environ: dict[str, str]) -> list[str]:
    """What a process writes to its standard error, which is `stream`."""
    done = subprocess.run(
        [sys.executable, "-c", _LOG], env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True, check=True
    )
    return done.stderr.splitlines()


def test_a_person_reads_times_and_levels() -> None:
    """In a terminal, each line has a time and a level."""
    first, *_ = logged({})
    assert first[8:] == " INFO    edge.camera: camera door is online"


def test_the_journal_gets_priorities_and_no_times(tmp_path: Path) -> None:
    """`journalctl -p warning` finds each line of a warning, and no line carries two times."""
    stream = tmp_path / "stream"
    with stream.open("w") as journal:
        identity = os.fstat(journal.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{identity.st_dev}:{identity.st_ino}"}
        subprocess.run([sys.executable, "-c", _LOG], env=environ, stderr=journal, check=True)
    assert stream.read_text().splitlines() == [
        "<6>edge.camera: camera door is online",
        "<4>edge.camera: two",
        "<4>  lines?<6>edge: and?[2K what steers a terminal",
    ]


def test_a_log_that_is_redirected_away_from_the_journal_is_for_people() -> None:
    """If systemd starts the program but its log goes to a file, lines have times again."""
    assert logged({"JOURNAL_STREAM": "1:1"})[0].endswith("INFO    edge.camera: camera door is online")


def test_json_lines_are_alone_on_standard_output(bundle_path: Path, astronaut_path: Path) -> None:
    """Output can be piped into another program: every line of it is JSON."""
    done = edge("classify", "--format", "json", "--model", bundle_path, astronaut_path)
    assert [set(json.loads(line)) for line in done.stdout.splitlines()] == [
        {"path", "frame", "time_s", "box", "emotion", "confidence", "probs", "quality"}
    ]
