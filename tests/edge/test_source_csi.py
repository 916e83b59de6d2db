"""CSI cameras: the real helper process with a fake picamera2 that delivers frames, hangs or crashes."""

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

# The part of picamera2's interface that the helper uses. It runs in another process, so the environment selects its
# behavior. Like the numpy arrays of the real one, its frames support the buffer protocol.
FAKE = """
import os, signal, time
BEHAVIOR = os.environ["FAKE_PICAMERA2"]
if BEHAVIOR == "absent":
    raise ModuleNotFoundError("No module named 'picamera2'")

def picture(height, width, number):
    row = bytes([number % 256]) * (width * 3)
    if BEHAVIOR == "padded rows":
        padding = bytes(width * 3)
        return memoryview((row + padding) * height).cast("B", (2 * height, width, 3))[::2]
    return memoryview(row * height).cast("B", (height, width, 3))

class Picamera2:
    def __init__(self, camera_num=0):
        with open(os.environ["FAKE_PICAMERA2_PID"], "w") as file:
            file.write(str(os.getpid()))
        self._number = [self][camera_num] and -1  # IndexError for any other camera, like libcamera
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
        if BEHAVIOR == "hang at start":
            time.sleep(60)
    def capture_array(self, name):
        time.sleep(self._configuration["controls"].get("FrameDurationLimits", (20000,))[0] / 1e6)
        self._number += 1
        width, height = self._configuration["main"]["size"]
        if self._number == 3 and BEHAVIOR == "hang":
            time.sleep(60)
        if self._number == 3 and BEHAVIOR == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self._number == 3 and BEHAVIOR == "raise":
            os.close(2)  # keeps the traceback out of the test output
            raise RuntimeError("the pipeline handler failed")
        if self._number == 3 and BEHAVIOR == "one invalid frame" or BEHAVIOR == "only invalid frames":
            return picture(height // 2, width, self._number)
        return picture(height, width, self._number)
"""

SYSTEM_PYTHON = Path("/usr/bin/python3")


class FakePicamera2:
    """Installs the fake of picamera2 for helper processes, and sets its behavior."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "picamera2.py").write_text(FAKE)
        self.pid_file = folder / "pid"
        self._monkeypatch = monkeypatch
        monkeypatch.setenv("PYTHONPATH", str(folder))
        monkeypatch.setenv("FAKE_PICAMERA2_PID", str(self.pid_file))
        self.set_behavior("normal")

    def set_behavior(self, behavior: str) -> None:
        """Sets the behavior of the next helper's camera."""
        self._monkeypatch.setenv("FAKE_PICAMERA2", behavior)

    @property
    def state(self) -> str:
        """The process state of the newest helper as in `ps`, such as S (sleeping) or Z (zombie); empty if gone."""
        try:
            return Path("/proc", self.pid_file.read_text(), "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return ""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePicamera2:
    """A fake with one camera, number 0, that works."""
    return FakePicamera2(tmp_path, monkeypatch)


def csi_source(camera: int = 0, *, fps: float = 50, stall_timeout_s: float = PATIENCE_S) -> CsiSource:
    """Returns a source of small frames from the fake, which runs with the system's Python if there is one."""
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
    """The open file descriptors of this process."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def test_frames_are_complete_in_order_and_of_the_size_chosen_by_the_camera(fake: FakePicamera2) -> None:
    """A CSI camera works like any other, and closing it ends its process."""
    with csi_source() as source:
        before_s = time.monotonic()
        frames = [read_frame(source) for _ in range(3)]
        assert fake.state
    assert [frame.image_bgr.shape for frame in frames] == [(48, 64, 3)] * 3
    assert all((frame.image_bgr == frame.index).all() for frame in frames)
    assert frames[0].index < frames[1].index < frames[2].index
    assert before_s - 1 < frames[0].time_s < frames[1].time_s < frames[2].time_s <= time.monotonic()
    assert [frame.mono_s for frame in frames] == [frame.time_s for frame in frames]
    assert not fake.state


def test_padded_rows_are_copied_correctly(fake: FakePicamera2) -> None:
    """The padding between rows is not part of the frame."""
    fake.set_behavior("padded rows")
    with csi_source() as source:
        frames = [read_frame(source) for _ in range(3)]
    assert all((frame.image_bgr == frame.index).all() for frame in frames)
    assert frames[-1].index > 0


def test_slow_reader_gets_the_newest_frame_and_counts_the_dropped_ones(fake: FakePicamera2) -> None:
    """Slow processing causes no delay, and the dropped frames are counted."""
    with csi_source(fps=200) as source:
        first = read_frame(source)
        helper = source._helper
        assert helper is not None
        wait_until(lambda: helper.count > first.index + 5)  # a few frames of processing time
        later = read_frame(source)
        assert later.index >= first.index + 4
        assert source.dropped == later.index - 1
        assert (later.image_bgr == later.index % 256).all()
    assert not fake.state


@pytest.mark.usefixtures("fake")
def test_waiting_for_a_frame_ends_at_the_timeout() -> None:
    """A slow camera does not block the agent."""
    with csi_source(fps=0.02) as source:
        start_s = time.monotonic()
        assert source.read(0.1) is None  # the first frame arrives after 50 s
        assert time.monotonic() - start_s >= 0.09


@pytest.mark.usefixtures("fake")
def test_a_low_frame_rate_is_not_a_stall() -> None:
    """At one frame in two seconds, one second without a frame is normal."""
    with open_source("csi:0", fps=0.5, stall_timeout_s=1.0) as source:
        first, second = read_frame(source), read_frame(source)
    assert second.time_s - first.time_s > 1


@pytest.mark.parametrize(
    ("behavior", "error"),
    [
        ("hang", r"csi:0: no frame for 3 s"),
        ("only invalid frames", r"csi:0: no frame for 3 s"),
        ("crash", r"csi:0: the camera helper was killed by signal 11"),
        ("raise", r"csi:0: the camera helper exited with status"),
    ],
)
def test_camera_that_fails_is_lost_killed_and_can_be_opened_again(
    fake: FakePicamera2, behavior: str, error: str
) -> None:
    """A failed camera is detected in time, leaves no process behind, and works after its recovery."""
    source = csi_source(stall_timeout_s=3.0)
    fake.set_behavior(behavior)
    with pytest.raises(SourceLost, match=error), source:
        read_for(source, PATIENCE_S)
    assert not fake.state
    fake.set_behavior("normal")
    with source:
        assert read_frame(source).image_bgr.shape == (48, 64, 3)


def test_a_frame_overwritten_while_being_copied_is_skipped(
    fake: FakePicamera2, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frame that mixes two of the camera's frames is not delivered."""
    del fake
    with open_source("csi:0", width=64, height=48) as source:
        assert isinstance(source, CsiSource)
        read_frame(source)
        helper = source._helper
        assert helper is not None
        counts = iter([helper.count, helper.count + SLOTS - 1, helper.count + 1, helper.count + SLOTS])
        monkeypatch.setattr(type(helper), "count", property(lambda _: next(counts)))
        assert helper.newest_frame() is None


def test_an_overwritten_frame_is_not_a_stall(fake: FakePicamera2, monkeypatch: pytest.MonkeyPatch) -> None:
    """A camera read less often than the stall timeout still delivers frames."""
    del fake
    with csi_source(stall_timeout_s=1.0) as source:
        read_frame(source)
        time.sleep(1.1)
        with monkeypatch.context() as patch:
            patch.setattr("edge.source.csi._Helper.newest_frame", lambda _: None)
            assert source.read(0.1) is None
        read_frame(source)


def test_invalid_frame_is_skipped(fake: FakePicamera2) -> None:
    """One invalid frame is not delivered, and the camera stays open."""
    fake.set_behavior("one invalid frame")
    with csi_source() as source:
        frames = [read_frame(source) for _ in range(6)]
    assert all(frame.image_bgr.shape == (48, 64, 3) for frame in frames)
    assert [int(frame.image_bgr[0, 0, 0]) for frame in frames if frame.index == 3] in ([], [4])


def test_camera_that_hangs_while_starting_is_given_up_and_killed(fake: FakePicamera2) -> None:
    """A camera that never starts does not block the agent and leaves no process behind."""
    fake.set_behavior("hang at start")
    source = CsiSource(camera=0, python=Path(sys.executable), open_timeout_s=1.0)
    with pytest.raises(SourceUnavailable, match=r"csi:0: did not start within 1 s"), source:
        pass
    assert not fake.state


def test_no_second_process_is_started_beside_one_that_cannot_be_killed(
    fake: FakePicamera2, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A camera whose process hangs in the kernel is opened again only after it has exited."""
    source = csi_source()
    with monkeypatch.context() as patch:
        patch.setattr("edge.source.csi._KILL_TIMEOUT_S", 0.1)
        patch.setattr(subprocess.Popen, "kill", lambda _: None)
        with source:
            read_frame(source)
            stuck = int(fake.pid_file.read_text())
            os.kill(stuck, signal.SIGSTOP)
            wait_until(lambda: fake.state == "T")
    try:
        assert f"process {stuck} hangs in the kernel" in caplog.text
        with pytest.raises(DriverHangs, match="csi:0: its driver still hangs"), source:
            pass
        assert int(fake.pid_file.read_text()) == stuck
    finally:
        os.kill(stuck, signal.SIGCONT)  # it then exits, because its input is closed
    wait_until(lambda: fake.state in ("", "Z"))
    with source:
        read_frame(source)
    assert int(fake.pid_file.read_text()) != stuck


def test_interrupt_from_the_terminal_reaches_only_the_agent(fake: FakePicamera2) -> None:
    """Ctrl-C, which goes to the whole process group, does not kill the helper; the agent closes the camera."""
    fake.set_behavior("normal")
    script = f"""
import signal
from pathlib import Path
from edge.source.csi import CsiSource
interrupted = []
signal.signal(signal.SIGINT, lambda *_: interrupted.append(True))
with CsiSource(camera=0, python=Path({sys.executable!r})) as source:
    assert source.read(60.0)
    print("opened", flush=True)
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


def test_missing_picamera2_is_named_with_the_command_that_installs_it(fake: FakePicamera2) -> None:
    """Without picamera2, the error names the package to install."""
    fake.set_behavior("absent")
    with pytest.raises(SourceUnavailable, match=r"picamera2.*sudo apt install python3-picamera2"), csi_source():
        pass


@pytest.mark.usefixtures("fake")
def test_missing_camera_is_named() -> None:
    """The error for a missing camera names its number."""
    with pytest.raises(SourceUnavailable, match=r"csi:7: IndexError.*flat cable"), csi_source(7):
        pass


def test_missing_interpreter_is_named(tmp_path: Path) -> None:
    """The error names the missing interpreter."""
    with pytest.raises(SourceUnavailable, match=r"no-python: the camera helper does not start"):
        CsiSource(camera=0, python=tmp_path / "no-python").__enter__()


def test_invalid_reply_of_the_helper_is_an_error(tmp_path: Path) -> None:
    """A wrong program in place of the Python interpreter does not crash the agent."""
    wrong_program = tmp_path / "python"
    wrong_program.write_text('#!/bin/sh\nfor last; do :; done\necho "[1, 2]" > /proc/self/fd/${last#--notify=}\n')
    wrong_program.chmod(0o755)
    with pytest.raises(SourceUnavailable, match="sent an invalid reply"):
        CsiSource(camera=0, python=wrong_program).__enter__()


def test_opening_and_closing_leaves_no_descriptor(fake: FakePicamera2) -> None:
    """Opening and closing repeatedly leaks no file descriptors, also if opening fails."""

    def open_and_fail() -> None:
        fake.set_behavior("normal")
        with csi_source() as source:
            read_frame(source)
        with pytest.raises(SourceUnavailable), csi_source(7):
            pass

    open_and_fail()
    before = open_descriptors()
    open_and_fail()
    assert set(open_descriptors()) <= set(before)  # unrelated ones may be closed meanwhile


def test_helper_ends_with_the_agent(fake: FakePicamera2) -> None:
    """A killed agent leaves no process that uses the camera, not even a hung one."""
    fake.set_behavior("hang")
    script = f"""
from pathlib import Path
from edge.source.csi import CsiSource
with CsiSource(camera=0, python=Path({sys.executable!r})) as source:
    assert source.read(60.0)
    while source.read(0.5):
        pass
    print("hung", flush=True)
    source.read(60.0)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline()
        assert fake.state
        agent.send_signal(signal.SIGKILL)
    wait_until(lambda: fake.state in ("", "Z"))  # the init process reaps it


@pytest.mark.parametrize("spec", ["csi:", "csi:left", "csi:-1"])
def test_csi_camera_without_a_number_is_rejected(spec: str) -> None:
    """The error for a mistyped name differs from that for a missing camera."""
    with pytest.raises(SourceUnavailable, match="csi:0"):
        open_source(spec)


def test_csi_0_is_a_csi_camera() -> None:
    """`csi:0` in the configuration opens a CSI camera."""
    assert isinstance(open_source("csi:0"), CsiSource)
