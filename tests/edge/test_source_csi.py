"""CSI cameras: the real helper process, with a module in picamera2's place that gives frames, hangs and crashes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge.errors import DriverHangs, SourceLost, SourceUnavailable
from edge.source import open_source
from edge.source._csi_helper import SLOTS
from edge.source.csi import CsiSource
from tests.mosquitto import PATIENCE_S, wait_until
from tests.sources import read_for, read_frame

# The part of picamera2's interface that the helper uses. What it does is told by the environment, because it runs in
# another process. Like the real one's numpy arrays, what it hands out is in memory that others may look into.
STAND_IN = """
import os, signal, time
BEHAVIOUR = os.environ["STAND_IN"]
if BEHAVIOUR == "absent":
    raise ModuleNotFoundError("No module named 'picamera2'")

def picture(height, width, number):
    row = bytes([number % 256]) * (width * 3)
    if BEHAVIOUR == "padded rows":
        padding = bytes(width * 3)
        return memoryview((row + padding) * height).cast("B", (2 * height, width, 3))[::2]
    return memoryview(row * height).cast("B", (height, width, 3))

class Picamera2:
    def __init__(self, camera_num=0):
        with open(os.environ["STAND_IN_PID"], "w") as file:
            file.write(str(os.getpid()))
        self._number = [self][camera_num] and -1  # IndexError for any other camera, as libcamera's list gives
    def create_video_configuration(self, main, controls):
        assert main["format"] == "RGB888"
        return {"main": main, "controls": controls}
    def configure(self, configuration):
        width, height = configuration["main"]["size"]
        configuration["main"]["size"] = (width - width % 32, height)  # the hardware's alignment
        self._configuration = configuration
    def camera_configuration(self):
        return self._configuration
    def start(self):
        if BEHAVIOUR == "hang at start":
            time.sleep(60)
    def capture_array(self, name):
        time.sleep(self._configuration["controls"].get("FrameDurationLimits", (20000,))[0] / 1e6)
        self._number += 1
        width, height = self._configuration["main"]["size"]
        if self._number == 3 and BEHAVIOUR == "hang":
            time.sleep(60)
        if self._number == 3 and BEHAVIOUR == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._number == 3 and BEHAVIOUR == "raise":
            os.close(2)  # no traceback into the test's output
            raise RuntimeError("the pipeline handler failed")
        if self._number == 3 and BEHAVIOUR == "one garbage frame" or BEHAVIOUR == "all garbage":
            return picture(height // 2, width, self._number)
        return picture(height, width, self._number)
"""

SYSTEM_PYTHON = Path("/usr/bin/python3")


class StandIn:
    """The stand-in for picamera2 and what it does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "picamera2.py").write_text(STAND_IN)
        self.pid_file = folder / "pid"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("STAND_IN_PID", str(self.pid_file))
        self.behave("well")

    def behave(self, behaviour: str) -> None:
        """What the next helper's camera does."""
        self._monkeypatch.setenv("STAND_IN", behaviour)

    @property
    def state(self) -> str:
        """The newest helper's state as `ps` shows it: S asleep, Z dead but not waited for and so on; empty if gone."""
        try:
            return Path("/proc", self.pid_file.read_text(), "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return ""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A well-behaved camera number 0."""
    return StandIn(tmp_path, monkeypatch)


def csi_source(camera: int = 0, *, fps: float = 50, stall_timeout_s: float = PATIENCE_S) -> CsiSource:
    """A small picture from the stand-in, with the system's Python where there is one."""
    return CsiSource(
        camera=camera,
        width=70,
        height=48,
        fps=fps,
        python=SYSTEM_PYTHON if SYSTEM_PYTHON.exists() else Path(sys.executable),
        open_timeout_s=PATIENCE_S,
        stall_timeout_s=stall_timeout_s,
    )


def open_descriptors() -> list[str]:
    """The numbers of this process's open files."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_frames_come_whole_in_order_and_in_the_size_that_the_camera_chose(stand_in: StandIn) -> None:
    """A Pi camera works like any other, and closing it ends its process."""
    with csi_source() as source:
        before_s = time.monotonic()
        frames = [read_frame(source) for _ in range(3)]
        assert stand_in.state
    assert [frame.image_bgr.shape for frame in frames] == [(48, 64, 3)] * 3
    assert all((frame.image_bgr == frame.index).all() for frame in frames)
    assert frames[0].index < frames[1].index < frames[2].index
    assert before_s - 1 < frames[0].time_s < frames[1].time_s < frames[2].time_s <= time.monotonic()
    assert [frame.mono_s for frame in frames] == [frame.time_s for frame in frames]
    assert not stand_in.state


def test_rows_that_do_not_follow_each_other_in_memory_arrive_whole(stand_in: StandIn) -> None:
    """What lies between the rows of a picture never reaches the agent."""
    stand_in.behave("padded rows")
    with csi_source() as source:
        frames = [read_frame(source) for _ in range(3)]
    assert all((frame.image_bgr == frame.index).all() for frame in frames)
    assert frames[-1].index > 0


def test_slow_reader_gets_the_newest_frame_and_the_count_of_the_others(stand_in: StandIn) -> None:
    """A slow analysis is never late, and health shows how many frames it missed."""
    with csi_source(fps=200) as source:
        first = read_frame(source)
        helper = source._helper
        assert helper is not None
        wait_until(lambda: helper.count > first.index + 5)  # the analysis, some frames long
        later = read_frame(source)
        assert later.index >= first.index + 4
        assert source.dropped == later.index - 1
        assert (later.image_bgr == later.index % 256).all()
    assert not stand_in.state


@pytest.mark.usefixtures("stand_in")
def test_waiting_for_a_frame_ends_at_the_readers_time_limit() -> None:
    """A slow camera does not hold up the agent."""
    with csi_source(fps=0.02) as source:
        start_s = time.monotonic()
        assert source.read(0.1) is None  # the first frame comes after 50 s
        assert time.monotonic() - start_s >= 0.09


@pytest.mark.usefixtures("stand_in")
def test_a_camera_that_is_to_be_slow_is_not_lost_for_it() -> None:
    """At a frame in two seconds, one second without any is no stall."""
    with open_source("csi:0", fps=0.5, stall_timeout_s=1.0) as source:
        first, second = read_frame(source), read_frame(source)
    assert second.time_s - first.time_s > 1


@pytest.mark.parametrize(
    ("behaviour", "complaint"),
    [
        ("hang", r"csi:0: gave no frame for 3 s"),
        ("all garbage", r"csi:0: gave no frame for 3 s"),
        ("crash", r"csi:0: its helper was ended by signal 11"),
        ("raise", r"csi:0: its helper ended with status"),
    ],
)
def test_camera_that_fails_is_lost_killed_and_can_be_opened_again(
    stand_in: StandIn, behaviour: str, complaint: str
) -> None:
    """A hung, crashed or raving camera is noticed in time, leaves no process, and works after it has recovered."""
    source = csi_source(stall_timeout_s=3.0)
    stand_in.behave(behaviour)
    with pytest.raises(SourceLost, match=complaint), source:
        read_for(source, PATIENCE_S)
    assert not stand_in.state
    stand_in.behave("well")
    with source:
        assert read_frame(source).image_bgr.shape == (48, 64, 3)


def test_a_frame_that_was_overwritten_meanwhile_is_passed_over(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No picture of two halves is looked at."""
    del stand_in
    with open_source("csi:0", width=64, height=48) as source:
        assert isinstance(source, CsiSource)
        read_frame(source)
        helper = source._helper
        assert helper is not None
        counts = iter([helper.count, helper.count + SLOTS - 1, helper.count + 1, helper.count + SLOTS])
        monkeypatch.setattr(type(helper), "count", property(lambda _: next(counts)))
        assert helper.newest_frame() is None


def test_a_frame_that_was_overwritten_is_no_stall(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera that is looked at more rarely than it may be silent gives frames all the same."""
    del stand_in
    with csi_source(stall_timeout_s=1.0) as source:
        read_frame(source)
        time.sleep(1.1)
        with monkeypatch.context() as overwritten:
            overwritten.setattr("edge.source.csi._Helper.newest_frame", lambda _: None)
            assert source.read(0.1) is None
        read_frame(source)


def test_garbage_frame_is_passed_over(stand_in: StandIn) -> None:
    """One bad frame does not end the session and reaches nobody."""
    stand_in.behave("one garbage frame")
    with csi_source() as source:
        frames = [read_frame(source) for _ in range(6)]
    assert all(frame.image_bgr.shape == (48, 64, 3) for frame in frames)
    assert [int(frame.image_bgr[0, 0, 0]) for frame in frames if frame.index == 3] in ([], [4])


def test_camera_that_hangs_while_starting_is_given_up_and_killed(stand_in: StandIn) -> None:
    """A camera that never starts does not hold up the agent and leaves no process."""
    stand_in.behave("hang at start")
    source = CsiSource(camera=0, python=Path(sys.executable), open_timeout_s=1.0)
    with pytest.raises(SourceUnavailable, match=r"csi:0: did not start within 1 s"), source:
        pass
    assert not stand_in.state


def test_process_that_cannot_be_killed_is_not_joined_by_another(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A camera whose driver holds its process in the kernel is left alone, and used again once it has let go."""
    source = csi_source()
    with monkeypatch.context() as kernel:
        kernel.setattr("edge.source.csi._KILL_TIMEOUT_S", 0.1)
        kernel.setattr(subprocess.Popen, "kill", lambda _: None)
        with source:
            read_frame(source)
            stuck = int(stand_in.pid_file.read_text())
            os.kill(stuck, signal.SIGSTOP)
            wait_until(lambda: stand_in.state == "T")
    try:
        assert f"process {stuck} hangs in the kernel" in caplog.text
        with pytest.raises(DriverHangs, match="csi:0: its driver still hangs"), source:
            pass
        assert int(stand_in.pid_file.read_text()) == stuck
    finally:
        os.kill(stuck, signal.SIGCONT)  # its input has ended, and so it ends too
    wait_until(lambda: stand_in.state in ("", "Z"))
    with source:
        read_frame(source)
    assert int(stand_in.pid_file.read_text()) != stuck


def test_interrupt_from_the_terminal_is_for_the_agent_alone(stand_in: StandIn) -> None:
    """Ctrl-C, which goes to the whole process group, leaves it to the agent when and how its camera closes."""
    stand_in.behave("well")
    script = f"""
import signal
from pathlib import Path
from edge.source.csi import CsiSource
interrupted = []
signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
with CsiSource(camera=0, python=Path({sys.executable!r})) as source:
    assert source.read(60.0)
    print("it works", flush=True)
    while not interrupted:
        source.read(0.1)
    for _ in range(10):
        assert source.read(60.0)
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline()
        os.killpg(agent.pid, signal.SIGINT)
        _, errors = agent.communicate(timeout=PATIENCE_S)
    assert (agent.returncode, errors) == (0, "")


def test_missing_picamera2_is_named_with_the_command_that_installs_it(stand_in: StandIn) -> None:
    """On a system without picamera2 the error says what to install."""
    stand_in.behave("absent")
    with pytest.raises(SourceUnavailable, match=r"picamera2.*sudo apt install python3-picamera2"), csi_source():
        pass


@pytest.mark.usefixtures("stand_in")
def test_missing_camera_is_named() -> None:
    """A camera number that is not there is an error that names it."""
    with pytest.raises(SourceUnavailable, match=r"csi:7: IndexError.*flat cable"), csi_source(7):
        pass


def test_missing_interpreter_is_named(tmp_path: Path) -> None:
    """A system without the distribution's Python is told so."""
    with pytest.raises(SourceUnavailable, match=r"no-python: its helper does not start"):
        CsiSource(camera=0, python=tmp_path / "no-python").__enter__()


def test_helper_that_answers_nonsense_is_refused(tmp_path: Path) -> None:
    """Whatever stands in the interpreter's place cannot bring the agent down."""
    impostor = tmp_path / "python"
    impostor.write_text('#!/bin/sh\nfor last; do :; done\necho "[1, 2]" > /proc/self/fd/${last#--notify=}\n')
    impostor.chmod(0o755)
    with pytest.raises(SourceUnavailable, match="answers nonsense"):
        CsiSource(camera=0, python=impostor).__enter__()


def test_opening_and_closing_leaves_no_descriptor(stand_in: StandIn) -> None:
    """Opening and closing for years leaks nothing, failed attempts included."""

    def open_and_fail() -> None:
        stand_in.behave("well")
        with csi_source() as source:
            read_frame(source)
        with pytest.raises(SourceUnavailable), csi_source(7):
            pass

    open_and_fail()
    before = open_descriptors()
    open_and_fail()
    assert set(open_descriptors()) <= set(before)  # others may go meanwhile


def test_helper_ends_with_the_agent(stand_in: StandIn) -> None:
    """An agent that is killed leaves no process that holds the camera, not even a hung one."""
    stand_in.behave("hang")
    script = f"""
from pathlib import Path
from edge.source.csi import CsiSource
with CsiSource(camera=0, python=Path({sys.executable!r})) as source:
    assert source.read(60.0)
    while source.read(0.5):
        pass
    print("it hangs", flush=True)
    source.read(60.0)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline()
        assert stand_in.state
        agent.send_signal(signal.SIGKILL)
    wait_until(lambda: stand_in.state in ("", "Z"))  # waiting for it is now the init process's duty


@pytest.mark.parametrize("spec", ["csi:", "csi:left", "csi:-1"])
def test_csi_camera_without_a_number_is_refused(spec: str) -> None:
    """A mistyped Pi camera is told apart from one that is not there."""
    with pytest.raises(SourceUnavailable, match="csi:0"):
        open_source(spec)


def test_csi_0_names_the_first_camera() -> None:
    """`csi:0` in the configuration is a Pi camera."""
    assert isinstance(open_source("csi:0"), CsiSource)
