"""Live sources: a real HTTP camera that stalls, stops and sends rubbish, and a stand-in for a driver that hangs."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest

from edge.domain import Frame
from edge.errors import DriverHangs, SourceLost, SourceUnavailable
from edge.pace import Pace
from edge.ports import Source
from edge.source import open_source
from edge.source.live import Capture, LiveSource
from edge.source.opencv import open_stream
from edge.source_name import SourceKind, masked, source_kind
from tests.http_camera import HttpCamera
from tests.mosquitto import PATIENCE_S, wait_until
from tests.sources import read_for, read_frame


@pytest.fixture
def http_camera() -> Iterator[HttpCamera]:
    """An HTTP camera that sends fifty pictures a second."""
    with HttpCamera() as camera:
        yield camera


def grabbing_threads() -> list[str]:
    """The threads of live sources that are alive."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("grab-")]


def test_stream_gives_frames_in_order_on_the_monotonic_clock(http_camera: HttpCamera) -> None:
    """An HTTP camera works, and its frames carry the time at which they came."""
    with open_source(http_camera.url) as source:
        frames = [read_frame(source) for _ in range(3)]
    assert frames[0].index < frames[1].index < frames[2].index
    assert frames[0].time_s < frames[1].time_s < frames[2].time_s <= time.monotonic()
    assert frames[0].image_bgr.shape == (240, 320, 3)
    assert [frame.mono_s for frame in frames] == [frame.time_s for frame in frames]


def test_slow_reader_gets_the_newest_frame_and_the_count_of_the_others(http_camera: HttpCamera) -> None:
    """A slow analysis is never late, and health shows how many frames it missed."""
    with open_source(http_camera.url) as source:
        first = read_frame(source)
        missed = source.dropped
        wait_until(lambda: source.dropped >= missed + 5)
        later = read_frame(source)
        assert later.index >= first.index + 6
        assert source.dropped >= later.index - first.index - 1
        assert abs(later.image_bgr.mean() - first.image_bgr.mean()) > 4  # the picture itself is a later one


class CountingCapture:
    """A capture that counts what is asked of it."""

    def __init__(self, capture: Capture) -> None:
        self.grabbed = self.retrieved = 0
        self._capture = capture
        self.get, self.release = capture.get, capture.release

    def grab(self) -> bool:
        there = self._capture.grab()
        self.grabbed += there
        return there

    def retrieve(self) -> tuple[bool, Any]:
        self.retrieved += 1
        return self._capture.retrieve()


def read_in_turn(source: Source, pace: Pace) -> Frame:
    """The next frame that a limited reader takes."""
    wait_until(lambda: pace.left_s(time.monotonic()) <= 0)
    frame = read_frame(source)
    pace.take(time.monotonic())
    return frame


def test_frames_that_come_too_early_are_not_retrieved(http_camera: HttpCamera) -> None:
    """A limited camera costs little, gives its newest frame all the same, and counts the others."""
    pace = Pace(1)
    stream = CountingCapture(open_stream(http_camera.url, open_timeout_s=PATIENCE_S, read_timeout_s=PATIENCE_S))
    with LiveSource(label="camera", open_capture=lambda: stream, pace=pace) as source:
        read_in_turn(source, pace)
        for _ in range(3):
            wait_until(lambda: pace.left_s(time.monotonic()) <= 0)
            grabbed = stream.grabbed
            assert read_in_turn(source, pace).index >= grabbed - 2  # the newest, or it came just now
    assert stream.retrieved < stream.grabbed / 2
    assert stream.grabbed - source.dropped in (4, 5)  # those taken, and perhaps one that waited in the end


def test_a_reader_without_limit_has_every_frame_retrieved(http_camera: HttpCamera) -> None:
    """Where a frame may be wanted at any time, it is ready."""
    stream = CountingCapture(open_stream(http_camera.url, open_timeout_s=PATIENCE_S, read_timeout_s=PATIENCE_S))
    with LiveSource(label="camera", open_capture=lambda: stream) as source:
        wait_until(lambda: source.dropped >= 5)
    assert stream.retrieved == stream.grabbed


def test_a_reader_slower_than_the_stall_timeout_does_not_lose_the_camera(http_camera: HttpCamera) -> None:
    """What counts is when the camera gave its newest frame, not when somebody wanted one."""
    pace = Pace(0.2)
    with open_source(http_camera.url, pace=pace, stall_timeout_s=3.0) as source:
        first, second = (read_in_turn(source, pace) for _ in range(2))
    assert second.time_s - first.time_s > 3


@pytest.mark.parametrize("behaviour", ["close", "stall", "rubbish"])
def test_stream_that_fails_is_lost_and_can_be_opened_again(http_camera: HttpCamera, behaviour: str) -> None:
    """A camera that restarts, freezes or sends rubbish is noticed in time and works after it has recovered."""
    source = open_source(http_camera.url, stall_timeout_s=3.0)
    with source:
        read_frame(source)
        http_camera.behaviour = behaviour
        with pytest.raises(SourceLost) as error:
            read_for(source, PATIENCE_S)
    assert str(http_camera.server_port) in str(error.value)
    assert "hunter2" not in str(error.value)
    http_camera.behaviour = "send"
    wait_until(lambda: not grabbing_threads())
    with source:
        assert read_frame(source).image_bgr.shape == (240, 320, 3)


def test_truncated_pictures_do_no_harm(http_camera: HttpCamera) -> None:
    """A bad line between camera and agent does not end the session."""
    with open_source(http_camera.url, stall_timeout_s=30.0) as source:
        read_frame(source)
        http_camera.behaviour = "truncate"
        read_for(source, 0.1)
        http_camera.behaviour = "send"
        wait_until(lambda: read_frame(source).image_bgr[-1, -1].max() > 0)
        assert read_frame(source).image_bgr.dtype == np.uint8


@pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 13), reason="OpenCV up to 4.12 goes on with the old picture"
)
def test_new_resolution_does_no_harm(http_camera: HttpCamera) -> None:
    """A camera that is switched to another resolution goes on giving new pictures."""
    with open_source(http_camera.url, stall_timeout_s=30.0) as source:
        read_frame(source)
        http_camera.size = (360, 640)
        read_for(source, 0.2)
        level = read_frame(source).image_bgr.mean()
        wait_until(lambda: abs(read_frame(source).image_bgr.mean() - level) > 5)


def test_waiting_for_a_frame_ends_at_the_readers_time_limit(http_camera: HttpCamera) -> None:
    """A camera that pauses does not hold up the agent."""
    with open_source(http_camera.url, stall_timeout_s=2 * PATIENCE_S) as source:
        read_frame(source)
        http_camera.behaviour = "stall"
        wait_until(lambda: source.read(0.2) is None)  # what was on its way has come
        start_s = time.monotonic()
        assert source.read(0.1) is None
        assert 0.09 <= time.monotonic() - start_s < PATIENCE_S


def test_closing_leaves_no_thread(http_camera: HttpCamera) -> None:
    """Opening and closing for years leaks nothing."""
    source = open_source(http_camera.url)
    for _ in range(3):
        with source:
            read_frame(source)
    wait_until(lambda: not grabbing_threads())


def test_stream_that_refuses_is_named_without_its_password() -> None:
    """A wrong address is an error that can be shown to anybody."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = f"rtsp://viewer:hunter2@127.0.0.1:{port}/live"
        with pytest.raises(SourceUnavailable) as error, open_source(url):
            pass
    assert str(error.value).startswith(f"rtsp://***@127.0.0.1:{port}/live: ")
    assert "hunter2" not in repr(error.value)


def test_stream_that_never_answers_is_given_up() -> None:
    """A host that accepts the connection and says nothing does not hold up the agent."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        source = open_source(f"http://127.0.0.1:{silent.getsockname()[1]}/", open_timeout_s=0.5)
        start_s = time.monotonic()
        with pytest.raises(SourceUnavailable), source:
            pass
        assert time.monotonic() - start_s < 20  # OpenCV's own limit is 30
    wait_until(lambda: not grabbing_threads())


@pytest.mark.parametrize(("spec", "device"), [("99", "/dev/video99"), ("/dev/null", "/dev/null")])
def test_what_is_no_camera_is_named(spec: str, device: str) -> None:
    """A wrong camera number or device is named with a way out."""
    with pytest.raises(SourceUnavailable) as error, open_source(spec):
        pass
    assert str(error.value.where) == device
    assert error.value.remedy


@pytest.mark.parametrize(
    "spec",
    [
        "rtsp:/me:hunter2@cam/1",
        "rtsp//me:hunter2@cam/1",
        "RTSP:me:hunter2@cam",
        "me:hunter2@cam/1",
        "//me:hunter2@cam/1",
        "rtsp;//me:hunter2@cam",
        "me:hunter2@rtsp://cam/1",
        "me:hunter2@cam/?next=http://x",
    ],
)
def test_an_address_without_its_beginning_is_taken_for_no_file(spec: str) -> None:
    """As a file's name, its password would be shown; and it would be tried for ever."""
    with pytest.raises(SourceUnavailable, match="an address begins with one of rtsp") as error:
        open_source(spec)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "spec",
    ["./rtsp:/clip@home.mp4", "/dev/shm/clip.mp4", "a@b.mp4", "12:30.mp4", "~/x:y@z.mp4"],  # noqa: S108 - not opened
)
def test_unusual_names_of_recordings_are_names_of_recordings(spec: str) -> None:
    """Memory that looks like a disk, among them, where cards are to be spared."""
    assert source_kind(spec) is SourceKind.RECORDING


def test_unknown_kind_of_stream_is_refused_by_name() -> None:
    """A mistyped scheme is told apart from a camera that is not there."""
    with pytest.raises(SourceUnavailable, match=r"rtmp:// are not supported.*rtsp"):
        open_source("rtmp://me:hunter2@host/live")


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("rtsp://me:secret@10.0.0.7:554/h264", "rtsp://***@10.0.0.7:554/h264"),
        ("rtsp://me:se/cr#et?@10.0.0.7/h264", "rtsp://***@10.0.0.7/h264"),
        ("rtsp://me:se cret@10.0.0.7/h264", "rtsp://***@10.0.0.7/h264"),
        ("http://cam/video.cgi?loginuse=admin&loginpas=888888", "http://cam/video.cgi?***"),
        ("http://cam/video.cgi?u=admin&p=two words", "http://cam/video.cgi?***"),
        ("rtsp://cam/user=admin_password=secret_channel=1.sdp", "rtsp://cam/user=admin_password=***"),
        ("http://cam/video", "http://cam/video"),
        ("rtsp:/me:secret@10.0.0.7/h264", "***@10.0.0.7/h264"),
        ("/home/me/holiday@home.mp4", "/home/me/holiday@home.mp4"),
    ],
)
def test_passwords_in_addresses_are_masked(spec: str, shown: str) -> None:
    """No log or error shows a camera's password."""
    assert masked(spec) == shown


class StandInCapture:
    """A capture as OpenCV's driver gives it; `images` are grabbed in turn, and then it hangs until let go."""

    def __init__(self, images: list[Any]) -> None:
        self.let_go = threading.Event()
        self.released_by: str | None = None
        self._images = images

    def grab(self) -> bool:
        if not self._images:
            self.let_go.wait(30)
        return bool(self._images)

    def retrieve(self) -> tuple[bool, Any]:
        return True, self._images.pop(0)

    def get(self, _: int) -> float:
        return 0.0

    def release(self) -> None:
        self.released_by = threading.current_thread().name


def test_driver_that_hangs_holds_up_nobody_and_is_not_opened_twice() -> None:
    """A camera whose driver hangs is reported and left; it is used again once the driver lets go."""
    capture, next_capture = StandInCapture([]), StandInCapture([np.full((8, 8, 3), 9, np.uint8)])
    captures = iter([capture, next_capture])
    source = LiveSource(label="hung", open_capture=lambda: next(captures), stall_timeout_s=1.0)
    with pytest.raises(SourceLost, match="hung: gave no frame for 1 s"), source:
        read_for(source, 5.0)
    with pytest.raises(DriverHangs, match="hung: its driver still hangs"), source:
        pass
    assert capture.released_by is None
    capture.let_go.set()
    wait_until(lambda: not grabbing_threads())
    with source:
        assert read_frame(source).image_bgr.shape == (8, 8, 3)
        next_capture.let_go.set()
    assert capture.released_by == "grab-hung"


def test_driver_that_hangs_while_opening_is_given_up() -> None:
    """A driver that never finishes opening does not hold up the agent."""
    let_go = threading.Event()
    capture = StandInCapture([])

    def open_slowly() -> StandInCapture:
        let_go.wait(30)
        return capture

    source = LiveSource(label="slow", open_capture=open_slowly, open_timeout_s=0.1)
    with pytest.raises(SourceUnavailable, match=r"slow: did not open within 0\.1 s"), source:
        pass
    let_go.set()
    wait_until(lambda: not grabbing_threads())
    assert capture.released_by == "grab-slow"


def test_an_unknown_fault_while_opening_is_told_at_once() -> None:
    """Rather than a camera that does not open in time, which would send people to its cable."""

    def broken() -> Capture:
        raise RuntimeError("a fault of OpenCV")

    with pytest.raises(RuntimeError, match="a fault of OpenCV"), LiveSource(label="camera", open_capture=broken):
        pass


def test_corrupt_frames_are_passed_over() -> None:
    """A frame that the driver could not decode reaches nobody."""
    good = np.full((8, 8, 3), 9, np.uint8)
    capture = StandInCapture([None, np.zeros((0, 0, 3), np.uint8), np.zeros((8, 8), np.float64), good])
    source = LiveSource(label="noisy", open_capture=lambda: capture)
    with source:
        frame = read_frame(source)
        capture.let_go.set()
    assert frame.index == 3
    assert frame.image_bgr is good


def test_read_before_opening_is_an_error() -> None:
    """A source that is not open says so."""
    with pytest.raises(SourceLost, match="not open"):
        open_source("0").read(0.0)
