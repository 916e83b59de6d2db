"""The `edge` command, run as a process: options, errors, exit codes and log format."""

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


def test_help_imports_no_heavy_modules() -> None:
    """`edge --help` is fast on a small device: it imports neither OpenCV nor a TFLite runtime nor paho."""
    program = (
        "import sys\n"
        "from edge.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'cv2', 'paho', 'ai_edge_litert', 'tflite_runtime', 'rich', 'tensorflow'}\n"
        "print(*(heavy & sys.modules.keys()), file=sys.stderr, end='')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "classify" in result.stdout


def test_the_version_is_printed() -> None:
    """`--version` prints the version, for bug reports."""
    assert edge("--version").stdout.startswith("edge 0.")


def test_an_invalid_command_line_has_its_own_exit_code() -> None:
    """Exit code 2 lets scripts distinguish a misspelled option from an error of the device."""
    assert edge("check", "--confg", "x").returncode == 2


@pytest.mark.parametrize("options", [["--port", "-1"], ["--port", "0"], ["--port", "mqtt"], ["--host", ""]])
def test_an_invalid_address_is_rejected(options: list[str]) -> None:
    """The argument parser rejects an invalid address before a connection is attempted."""
    result = edge("watch", *options)
    assert (result.returncode, f"argument {options[0]}: " in result.stderr) == (2, True), result.stderr


def test_each_configuration_error_is_one_line(tmp_path: Path) -> None:
    """Each error is printed as one line without a traceback; the exit code is 3."""
    (tmp_path / "config.toml").write_text("[mqtt]\nprot = 1\n")
    result = edge("run", "--config", tmp_path / "config.toml")
    assert result.returncode == 3
    assert result.stderr.splitlines() == [
        (
            f"edge: error: {tmp_path}/config.toml: camera: no camera is configured. "
            "Add a [[camera]] table with name and source."
        ),
        f"edge: error: {tmp_path}/config.toml:2: mqtt.prot: unknown key. Perhaps you meant mqtt.port.",
    ]


def test_a_missing_bundle_has_its_own_exit_code(tmp_path: Path) -> None:
    """A missing bundle is reported by its path, with exit code 4."""
    result = edge("classify", "x.jpg", "--model", tmp_path)
    assert (result.returncode, result.stdout) == (4, "")
    assert f"edge: error: {tmp_path}: is not a model bundle" in result.stderr


def run_with_closed_pipe(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the installed command with a closed pipe as its standard output."""
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([EDGE, *arguments], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    return result


def test_a_closed_pipe_causes_no_traceback(bundle_path: Path, astronaut_path: Path) -> None:
    """`edge classify ... | head -0` prints no error; the exit code is 128 + SIGPIPE."""
    result = run_with_closed_pipe("classify", "--format", "json", "--model", bundle_path, astronaut_path)
    assert result.returncode == 141
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


@pytest.mark.parametrize("command", ["check", "doctor", "watch"])
def test_a_closed_pipe_has_the_same_exit_code_for_plain_text(command: str, tmp_path: Path) -> None:
    """As with JSON output, the exit code is that of a closed pipe, not that of an error."""
    options = ["--port", "1"] if command == "watch" else ["--config", str(tmp_path / "config.toml")]
    result = run_with_closed_pipe(command, *options)
    assert (result.returncode, result.stderr) == (141, "")


def test_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A full disk (`/dev/full`) is reported in one line, with an exit code; --verbose adds the traceback."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [EDGE, "check", "--config", str(tmp_path / "config.toml")]
    with Path("/dev/full").open("w") as full:
        result, verbose_result = (
            subprocess.run(
                [*command, *options], stdout=full, stderr=subprocess.PIPE, text=True, env=environ, check=False
            )
            for options in ((), ("--verbose",))
        )
    assert (result.returncode, result.stderr) == (1, "edge: error: [Errno 28] No space left on device.\n")
    assert "Traceback" in verbose_result.stderr


def test_ctrl_c_ends_a_command_without_a_traceback() -> None:
    """Ctrl-C ends a command that runs indefinitely; the exit code is 128 + SIGINT."""
    command = [EDGE, "watch", "--plain", "--port", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "nothing listens on that port" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "")


def test_file_names_cannot_manipulate_the_terminal(tmp_path: Path) -> None:
    """Control characters in file names are replaced, so that they cannot manipulate the terminal."""
    folder = tmp_path / "\x1b[2Ka\x85model"
    folder.mkdir()
    result = edge("classify", "--model", folder, folder)
    assert f"edge: error: {tmp_path}/?[2Ka?model: is not a model bundle" in result.stderr


_LOG = """
import logging, os
from edge.logs import configure_logging
configure_logging("info", os.environ)
log = logging.getLogger("edge.camera")
log.debug("left out")
log.info("camera %s is online", "door")
log.warning("two\\nlines\\x85%s", "<6>edge: and\\x1b[2K a control character")
"""


def log_lines(environ: dict[str, str]) -> list[str]:
    """Returns the lines that a process with these environment variables logs to standard error."""
    result = subprocess.run(
        [sys.executable, "-c", _LOG], env={**os.environ, **environ}, stderr=subprocess.PIPE, text=True, check=True
    )
    return result.stderr.splitlines()


def test_log_lines_have_a_time_and_a_level() -> None:
    """Outside the journal, each log line has a time and a level."""
    first, *_ = log_lines({})
    assert first[8:] == " INFO    edge.camera: camera door is online"


def test_the_journal_gets_priorities_and_no_timestamps(tmp_path: Path) -> None:
    """`journalctl -p warning` finds each line of a warning, and the journal's timestamp is the only one."""
    stream = tmp_path / "stream"
    with stream.open("w") as journal:
        identity = os.fstat(journal.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{identity.st_dev}:{identity.st_ino}"}
        subprocess.run([sys.executable, "-c", _LOG], env=environ, stderr=journal, check=True)
    assert stream.read_text().splitlines() == [
        "<6>edge.camera: camera door is online",
        "<4>edge.camera: two",
        "<4>  lines?<6>edge: and?[2K a control character",
    ]


def test_a_log_redirected_away_from_the_journal_has_timestamps() -> None:
    """If systemd starts the program but its log goes to a file, lines have timestamps."""
    assert log_lines({"JOURNAL_STREAM": "1:1"})[0].endswith("INFO    edge.camera: camera door is online")


def test_standard_output_contains_only_json_lines(bundle_path: Path, astronaut_path: Path) -> None:
    """Output can be piped into another program, as each line is a JSON object."""
    result = edge("classify", "--format", "json", "--model", bundle_path, astronaut_path)
    assert [set(json.loads(line)) for line in result.stdout.splitlines()] == [
        {"path", "frame", "time_s", "box", "emotion", "confidence", "probs", "quality"}
    ]
