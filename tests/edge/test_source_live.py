"""Live sources: a real HTTP camera that stalls, stops or sends invalid data, and a fake of a driver that hangs."""

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
from edge.ports import Source
from edge.rate_limit import RateLimiter
from edge.source import open_source
from edge.source.live import Capture, LiveSource
from edge.source.opencv import open_stream
from edge.source_name import SourceKind, masked, source_kind
from tests.http_camera import HttpCamera
from tests.mosquitto import PATIENCE_S, wait_until
from tests.sources import read_for, read_frame


@pytest.fixture
def http_camera() -> Iterator[HttpCamera]:
    """An HTTP camera that sends fifty images per second."""
    with HttpCamera() as camera:
        yield camera


def grabbing_threads() -> list[str]:
    """The names of the live sources' running threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("grab-")]


def test_stream_gives_frames_in_order_on_the_monotonic_clock(http_camera: HttpCamera) -> None:
    """An HTTP camera works, and its frames have the time of their arrival."""
    with open_source(http_camera.url) as source:
        frames = [read_frame(source) for _ in range(3)]
    assert frames[0].index < frames[1].index < frames[2].index
    assert frames[0].time_s < frames[1].time_s < frames[2].time_s <= time.monotonic()
    assert frames[0].image_bgr.shape == (240, 320, 3)
    assert [frame.mono_s for frame in frames] == [frame.time_s for frame in frames]


def test_slow_reader_gets_the_newest_frame_and_counts_the_dropped_ones(http_camera: HttpCamera) -> None:
    """Slow processing causes no delay, and the dropped frames are counted."""
    with open_source(http_camera.url) as source:
        first = read_frame(source)
        dropped_before = source.dropped
        wait_until(lambda: source.dropped >= dropped_before + 5)
        later = read_frame(source)
        assert later.index >= first.index + 6
        assert source.dropped >= later.index - first.index - 1
        assert abs(later.image_bgr.mean() - first.image_bgr.mean()) > 4  # the image itself is newer


class CountingCapture:
    """A capture that counts its calls."""

    def __init__(self, capture: Capture) -> None:
        self.grabbed = self.retrieved = 0
        self._capture = capture
        self.get, self.release = capture.get, capture.release

    def grab(self) -> bool:
        grabbed = self._capture.grab()
        self.grabbed += grabbed
        return grabbed

    def retrieve(self) -> tuple[bool, Any]:
        self.retrieved += 1
        return self._capture.retrieve()


def read_when_due(source: Source, limiter: RateLimiter) -> Frame:
    """Returns the next frame when the rate limit allows one."""
    wait_until(lambda: limiter.wait_s(time.monotonic()) <= 0)
    frame = read_frame(source)
    limiter.frame_taken(time.monotonic())
    return frame


def test_frames_that_are_not_due_are_not_retrieved(http_camera: HttpCamera) -> None:
    """A rate-limited camera decodes fewer frames, still delivers its newest one, and counts the dropped ones."""
    limiter = RateLimiter(1)
    stream = CountingCapture(open_stream(http_camera.url, open_timeout_s=PATIENCE_S, read_timeout_s=PATIENCE_S))
    with LiveSource(label="camera", open_capture=lambda: stream, limiter=limiter) as source:
        read_when_due(source, limiter)
        for _ in range(3):
            wait_until(lambda: limiter.wait_s(time.monotonic()) <= 0)
            grabbed = stream.grabbed
            assert read_when_due(source, limiter).index >= grabbed - 2  # the newest one, or one that arrived since
    assert stream.retrieved < stream.grabbed / 2
    assert stream.grabbed - source.dropped in (4, 5)  # those read, and possibly one that is still in the slot


def test_without_a_limit_every_frame_is_retrieved(http_camera: HttpCamera) -> None:
    """Each frame is decoded when it arrives, so that it can be read at any time without delay."""
    stream = CountingCapture(open_stream(http_camera.url, open_timeout_s=PATIENCE_S, read_timeout_s=PATIENCE_S))
    with LiveSource(label="camera", open_capture=lambda: stream) as source:
        wait_until(lambda: source.dropped >= 5)
    assert stream.retrieved == stream.grabbed


def test_a_reader_slower_than_the_stall_timeout_does_not_lose_the_camera(http_camera: HttpCamera) -> None:
    """The timeout counts from the newest frame of the camera, not from the last read."""
    limiter = RateLimiter(0.2)
    with open_source(http_camera.url, limiter=limiter, stall_timeout_s=3.0) as source:
        first, second = (read_when_due(source, limiter) for _ in range(2))
    assert second.time_s - first.time_s > 3


@pytest.mark.parametrize("behavior", ["close", "stall", "garbage"])
def test_stream_that_fails_is_lost_and_can_be_opened_again(http_camera: HttpCamera, behavior: str) -> None:
    """A camera that restarts, freezes or sends garbage is detected in time, and works after its recovery."""
    source = open_source(http_camera.url, stall_timeout_s=3.0)
    with source:
        read_frame(source)
        http_camera.behavior = behavior
        with pytest.raises(SourceLost) as error:
            read_for(source, PATIENCE_S)
    assert str(http_camera.server_port) in str(error.value)
    assert "hunter2" not in str(error.value)
    http_camera.behavior = "send"
    wait_until(lambda: not grabbing_threads())
    with source:
        assert read_frame(source).image_bgr.shape == (240, 320, 3)


def test_truncated_images_are_tolerated(http_camera: HttpCamera) -> None:
    """Images truncated by a bad network connection do not close the stream."""
    with open_source(http_camera.url, stall_timeout_s=30.0) as source:
        read_frame(source)
        http_camera.behavior = "truncate"
        read_for(source, 0.1)
        http_camera.behavior = "send"
        wait_until(lambda: read_frame(source).image_bgr[-1, -1].max() > 0)
        assert read_frame(source).image_bgr.dtype == np.uint8


@pytest.mark.skipif(
    tuple(map(int, cv2.__version__.split(".")[:2])) < (4, 13), reason="OpenCV up to 4.12 keeps returning the old image"
)
def test_a_change_of_resolution_is_tolerated(http_camera: HttpCamera) -> None:
    """A camera that switches to another resolution keeps delivering new images."""
    with open_source(http_camera.url, stall_timeout_s=30.0) as source:
        read_frame(source)
        http_camera.size = (360, 640)
        read_for(source, 0.2)
        level = read_frame(source).image_bgr.mean()
        wait_until(lambda: abs(read_frame(source).image_bgr.mean() - level) > 5)


def test_waiting_for_a_frame_ends_at_the_timeout(http_camera: HttpCamera) -> None:
    """A camera that stalls does not block the agent."""
    with open_source(http_camera.url, stall_timeout_s=2 * PATIENCE_S) as source:
        read_frame(source)
        http_camera.behavior = "stall"
        wait_until(lambda: source.read(0.2) is None)  # buffered frames are read
        start_s = time.monotonic()
        assert source.read(0.1) is None
        assert 0.09 <= time.monotonic() - start_s < PATIENCE_S


def test_closing_leaves_no_thread(http_camera: HttpCamera) -> None:
    """Opening and closing repeatedly leaks no threads."""
    source = open_source(http_camera.url)
    for _ in range(3):
        with source:
            read_frame(source)
    wait_until(lambda: not grabbing_threads())


def test_stream_that_cannot_be_opened_is_named_without_its_password() -> None:
    """The error for a wrong address contains no secret, so it can be shown to anybody."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = f"rtsp://viewer:hunter2@127.0.0.1:{port}/live"
        with pytest.raises(SourceUnavailable) as error, open_source(url):
            pass
    assert str(error.value).startswith(f"rtsp://***@127.0.0.1:{port}/live: ")
    assert "hunter2" not in repr(error.value)


def test_stream_that_never_responds_is_given_up() -> None:
    """A server that accepts the connection but sends nothing does not block the agent."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        source = open_source(f"http://127.0.0.1:{server.getsockname()[1]}/", open_timeout_s=0.5)
        start_s = time.monotonic()
        with pytest.raises(SourceUnavailable), source:
            pass
        assert time.monotonic() - start_s < 20  # OpenCV's own timeout is 30
    wait_until(lambda: not grabbing_threads())


@pytest.mark.parametrize(("spec", "device"), [("99", "/dev/video99"), ("/dev/null", "/dev/null")])
def test_missing_camera_is_named(spec: str, device: str) -> None:
    """The error names the device and a remedy."""
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
def test_an_address_without_a_valid_scheme_is_not_taken_for_a_file(spec: str) -> None:
    """As a file name, its password would be shown, and opening it would be retried forever."""
    with pytest.raises(SourceUnavailable, match="an address must start with rtsp") as error:
        open_source(spec)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "spec",
    ["./rtsp:/clip@home.mp4", "/dev/shm/clip.mp4", "a@b.mp4", "12:30.mp4", "~/x:y@z.mp4"],  # noqa: S108 - not opened
)
def test_unusual_names_of_recordings_are_accepted(spec: str) -> None:
    """They are not taken for addresses or devices, also in /dev/shm, which is used to spare SD cards."""
    assert source_kind(spec) is SourceKind.RECORDING


def test_unsupported_scheme_is_named() -> None:
    """The error for a mistyped scheme differs from that for a missing camera."""
    with pytest.raises(SourceUnavailable, match=r"rtmp:// streams are not supported.*rtsp"):
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
    """Logs and errors never contain a camera's password."""
    assert masked(spec) == shown


class FakeCapture:
    """A capture that returns `images` in turn, and then hangs until `unblock` is set."""

    def __init__(self, images: list[Any]) -> None:
        self.unblock = threading.Event()
        self.released_by: str | None = None
        self._images = images

    def grab(self) -> bool:
        if not self._images:
            self.unblock.wait(30)
        return bool(self._images)

    def retrieve(self) -> tuple[bool, Any]:
        return True, self._images.pop(0)

    def get(self, _: int) -> float:
        return 0.0

    def release(self) -> None:
        self.released_by = threading.current_thread().name


def test_driver_that_hangs_does_not_block_the_agent_and_is_not_opened_twice() -> None:
    """A camera with a hung driver is reported, and opened again once the driver has returned."""
    capture, next_capture = FakeCapture([]), FakeCapture([np.full((8, 8, 3), 9, np.uint8)])
    captures = iter([capture, next_capture])
    source = LiveSource(label="hung", open_capture=lambda: next(captures), stall_timeout_s=1.0)
    with pytest.raises(SourceLost, match="hung: no frame for 1 s"), source:
        read_for(source, 5.0)
    with pytest.raises(DriverHangs, match="hung: its driver still hangs"), source:
        pass
    assert capture.released_by is None
    capture.unblock.set()
    wait_until(lambda: not grabbing_threads())
    with source:
        assert read_frame(source).image_bgr.shape == (8, 8, 3)
        next_capture.unblock.set()
    assert capture.released_by == "grab-hung"


def test_driver_that_hangs_while_opening_is_given_up() -> None:
    """A driver that never finishes opening does not block the agent."""
    unblock = threading.Event()
    capture = FakeCapture([])

    def open_slowly() -> FakeCapture:
        unblock.wait(30)
        return capture

    source = LiveSource(label="slow", open_capture=open_slowly, open_timeout_s=0.1)
    with pytest.raises(SourceUnavailable, match=r"slow: did not open within 0\.1 s"), source:
        pass
    unblock.set()
    wait_until(lambda: not grabbing_threads())
    assert capture.released_by == "grab-slow"


def test_an_unexpected_error_while_opening_is_raised_at_once() -> None:
    """It is not replaced by a timeout, whose remedy would be misleading."""

    def broken() -> Capture:
        raise RuntimeError("an error of OpenCV")

    with pytest.raises(RuntimeError, match="an error of OpenCV"), LiveSource(label="camera", open_capture=broken):
        pass


def test_corrupt_frames_are_skipped() -> None:
    """A frame that the driver could not decode is not delivered."""
    good = np.full((8, 8, 3), 9, np.uint8)
    capture = FakeCapture([None, np.zeros((0, 0, 3), np.uint8), np.zeros((8, 8), np.float64), good])
    source = LiveSource(label="noisy", open_capture=lambda: capture)
    with source:
        frame = read_frame(source)
        capture.unblock.set()
    assert frame.index == 3
    assert frame.image_bgr is good


def test_read_before_opening_is_an_error() -> None:
    """Reading from a source that is not open raises SourceLost."""
    with pytest.raises(SourceLost, match="not open"):
        open_source("0").read(0.0)
