"""Recordings: real videos written with OpenCV, and folders of valid and broken images."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.domain import Frame
from edge.errors import SourceLost, SourceUnavailable
from edge.ports import Source
from edge.source import open_source, recording
from edge.source.opencv import as_bgr, read_image
from tests.mosquitto import PATIENCE_S

FPS = 25
HOPPER = Path(str(metadata.distribution("matplotlib").locate_file("matplotlib/mpl-data/sample_data/grace_hopper.jpg")))


def write_video(path: Path, frames: int, *, codec: str = "MJPG") -> Path:
    """Writes a video of uniform frames, each brighter than the one before, repeating after thirty."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), FPS, (64, 48))
    assert writer.isOpened()
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 20 + 6 * (number % 30), np.uint8))
    writer.release()
    return path


def write_image(path: Path, shape: tuple[int, ...] = (48, 64, 3), level: int = 100, dtype: type = np.uint8) -> Path:
    """Writes a uniform image."""
    assert cv2.imwrite(str(path), np.full(shape, level, dtype))
    return path


def read_to_end(source: Source) -> list[Frame]:
    """Returns all frames; fails unless the source ends with EOFError."""
    frames: list[Frame] = []
    with source:
        try:
            while frame := source.read(1.0):
                frames.append(frame)
        except EOFError:
            return frames
    pytest.fail("the recording did not end with EOFError")


@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "MJPG"), ("clip.mp4", "mp4v")])
def test_video_delivers_every_frame_once_in_order_with_its_position(tmp_path: Path, name: str, codec: str) -> None:
    """A video is processed completely, however slow the processing is."""
    source = open_source(str(write_video(tmp_path / name, 20, codec=codec)))
    before_s = time.monotonic()
    frames = read_to_end(source)
    assert [frame.index for frame in frames] == list(range(20))
    assert [frame.time_s for frame in frames] == pytest.approx([n / FPS for n in range(20)], abs=0.005)
    assert all(a.image_bgr.mean() < b.image_bgr.mean() for a, b in pairwise(frames))
    assert frames[0].image_bgr.shape == (48, 64, 3)
    assert before_s <= frames[0].mono_s < frames[-1].mono_s <= time.monotonic()
    assert source.dropped == 0


def test_folder_delivers_its_images_by_name_and_skips_unreadable_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder that also contains a broken image and other files works, and the broken image is logged."""
    write_image(tmp_path / "c.png", level=30)
    write_image(tmp_path / "a.JPG", level=10)
    write_image(tmp_path / "b.webp", level=20)
    (tmp_path / "broken.jpg").write_text("not an image")
    (tmp_path / "notes.txt").write_text("not an image either")
    with caplog.at_level(logging.WARNING):
        frames = read_to_end(open_source(str(tmp_path), fps=4))
    assert [round(float(frame.image_bgr.mean()) / 10) for frame in frames] == [1, 2, 3]
    assert [frame.time_s for frame in frames] == [0, 0.25, 0.5]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [f"skipping {tmp_path}/broken.jpg"]


def test_the_reason_why_an_image_is_skipped_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing or inaccessible file is not reported as broken."""
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    with caplog.at_level(logging.WARNING):
        assert len(read_to_end(open_source(str(tmp_path)))) == 1
    (record,) = caplog.records
    assert record.getMessage() == f"skipping {tmp_path}/b.png: it cannot be read (No such file or directory)"


def test_video_may_have_a_colon_in_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorders put the time into file names; such a name is not taken for an address."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", 3, codec="mp4v").rename("2024-01-01T12:30:00.mp4")
    assert len(read_to_end(open_source("2024-01-01T12:30:00.mp4"))) == 3


@pytest.mark.parametrize(
    ("shape", "dtype"), [((48, 64), np.uint8), ((48, 64, 4), np.uint8), ((48, 64), np.uint16), ((48, 64, 3), np.uint16)]
)
def test_images_of_any_depth_are_converted_to_8_bit_bgr(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    """Gray, transparent and 16-bit images are supported."""
    picture = write_image(tmp_path / "picture.png", shape, 50, dtype)
    (frame,) = read_to_end(open_source(str(picture)))
    assert frame.image_bgr.dtype == np.uint8
    assert frame.image_bgr.shape == (48, 64, 3)


@pytest.mark.parametrize("realtime", [False, True])
def test_at_most_two_images_are_in_memory_while_the_next_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, realtime: bool
) -> None:
    """They are the last image processed and the next one; the memory limit of the service is based on that."""
    for number in range(8):
        write_image(tmp_path / f"{number}.png")
    decoded: list[weakref.ref[NDArray[np.uint8]]] = []
    alive: list[int] = []

    def decode(path: Path) -> NDArray[np.uint8] | None:
        alive.append(sum(picture() is not None for picture in decoded))
        picture = read_image(path)
        assert picture is not None
        decoded.append(weakref.ref(picture))
        return picture

    monkeypatch.setattr(recording, "read_image", decode)
    newest = None
    with open_source(str(tmp_path), realtime=realtime, fps=1e6) as source, suppress(EOFError):
        newest = source.read(0.0)
        while True:
            newest = source.read(PATIENCE_S)
    assert newest is not None
    assert (len(alive), max(alive)) == (8, 2)


def test_the_largest_images_that_the_service_accepts_fit_into_its_memory() -> None:
    """MemoryMax covers two images, a third one being decoded at up to 9 bytes per pixel, and the agent itself."""
    unit = (Path(__file__).parents[2] / "deploy/emotion-edge.service").read_text(encoding="utf-8")
    found = re.search(r"^MemoryMax=(\d+)M$.*^Environment=OPENCV_IO_MAX_IMAGE_PIXELS=(\d+)$", unit, re.M | re.S)
    assert found is not None
    memory_mib, pixels = map(int, found.groups())
    assert 125e6 + pixels * (3 + 3 + 9) < memory_mib * 2**20


def test_single_photograph_is_a_source() -> None:
    """`edge classify photo.jpg` works on a photograph."""
    (frame,) = read_to_end(open_source(str(HOPPER)))
    assert (frame.width_px, frame.height_px) == (512, 600)


def test_time_increases_across_the_loops_of_a_video(tmp_path: Path) -> None:
    """A looped recording never ends, and durations measured across its end are correct."""
    with open_source(str(write_video(tmp_path / "clip.avi", 5)), loop=True) as source:
        frames = [source.read(1.0) for _ in range(13)]
    assert [frame.index for frame in frames if frame] == list(range(13))
    assert [frame.time_s for frame in frames if frame] == pytest.approx([n / FPS for n in range(13)], abs=0.005)


def test_looped_folder_logs_a_broken_image_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A broken image does not flood the log with a line per loop."""
    write_image(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("not an image")
    with caplog.at_level(logging.WARNING), open_source(str(tmp_path), loop=True) as source:
        assert all(source.read(1.0) for _ in range(6))
    assert len(caplog.records) == 1


def test_recording_that_is_removed_between_two_loops_is_lost(tmp_path: Path) -> None:
    """A looped file on a disk that is unmounted is reported like a lost camera, and retried."""
    video = write_video(tmp_path / "clip.avi", 3)
    with open_source(str(video), loop=True) as source:
        video.unlink()
        assert source.read(1.0)
        assert source.read(1.0)
        with pytest.raises(SourceLost, match=r"clip\.avi"):
            source.read(1.0)


def test_a_recording_that_is_opened_again_starts_over(tmp_path: Path) -> None:
    """Pausing and resuming a camera that is a file starts the file again."""
    source = open_source(str(write_video(tmp_path / "clip.avi", 5)))
    for _ in range(2):
        with source:
            frames = [source.read(1.0) for _ in range(3)]
        assert [frame.index for frame in frames if frame] == [0, 1, 2]


def test_realtime_plays_a_video_at_its_own_speed(tmp_path: Path) -> None:
    """Ten frames at 25 per second take 0.36 s, and a fast reader loses none."""
    video = write_video(tmp_path / "clip.avi", 1000)
    start_s = time.monotonic()
    with open_source(str(video), realtime=True) as source:
        frames = [source.read(1.0) for _ in range(10)]
        elapsed_s = time.monotonic() - start_s
    assert all(frames)
    assert elapsed_s >= 9 / FPS


def test_realtime_drops_and_counts_frames_for_a_slow_reader(tmp_path: Path) -> None:
    """A slow reader gets the newest frame, and the dropped ones are counted."""
    indices = []
    with open_source(str(write_video(tmp_path / "clip.avi", 1000)), realtime=True) as source:
        for _ in range(4):
            frame = source.read(1.0)
            assert frame is not None
            indices.append(frame.index)
            time.sleep(0.2)  # the duration of five frames
        assert source.dropped == indices[-1] - 3
    assert indices[-1] >= 9


def test_realtime_delivers_no_frame_before_it_is_due(tmp_path: Path) -> None:
    """A read ends at its timeout if the next image of a slow sequence is not due yet."""
    for name in ("a.png", "b.png"):
        write_image(tmp_path / name)
    with open_source(str(tmp_path), realtime=True, fps=0.1) as source:
        assert source.read(1.0) is not None
        assert source.read(0.01) is None


def make_text_as_video(folder: Path) -> Path:
    """A text file with the suffix of a video."""
    path = folder / "film.mp4"
    path.write_text("this is not a video\n" * 50)
    return path


def make_text_as_image(folder: Path) -> Path:
    """A text file with the suffix of an image."""
    path = folder / "photo.jpg"
    path.write_text("this is not an image")
    return path


def make_truncated_video(folder: Path) -> Path:
    """The first half of a video whose index is at its end."""
    whole = write_video(folder / "whole.mp4", 20, codec="mp4v").read_bytes()
    path = folder / "truncated.mp4"
    path.write_bytes(whole[: len(whole) // 2])
    return path


def make_folder_of_broken_images(folder: Path) -> Path:
    """A folder without readable images."""
    make_text_as_image(folder)
    return folder


@pytest.mark.parametrize("realtime", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        make_text_as_video,
        make_text_as_image,
        make_truncated_video,
        make_folder_of_broken_images,
        pytest.param(lambda folder: folder, id="empty folder"),
        pytest.param(lambda folder: folder / "nowhere.mp4", id="missing video"),
        pytest.param(lambda folder: folder / "nowhere.jpg", id="missing image"),
    ],
)
def test_invalid_recording_is_named_with_a_remedy(tmp_path: Path, make: Callable[[Path], Path], realtime: bool) -> None:
    """The error for a wrong path or file names it and a remedy."""
    path = make(tmp_path)
    with pytest.raises(SourceUnavailable) as error, open_source(str(path), realtime=realtime):
        pass
    assert error.value.where == path
    assert error.value.remedy
    assert error.value.exit_code == 5


def test_opencv_writes_nothing_to_stderr(tmp_path: Path) -> None:
    """OpenCV and FFmpeg print no messages for bad files and addresses, as they could contain passwords."""
    script = f"""
from edge.errors import SourceUnavailable
from edge.source import open_source
for spec in ({str(make_text_as_video(tmp_path))!r}, "rtsp://me:hunter2@127.0.0.1:9/", "/dev/video99"):
    try:
        open_source(spec).__enter__()
    except SourceUnavailable as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 3
    assert "hunter2" not in result.stdout


@pytest.mark.parametrize(
    "data",
    [None, np.zeros((0, 0, 3), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros(4)],
)
def test_invalid_data_is_rejected(data: NDArray[Any] | None) -> None:
    """Invalid data from a broken camera never reaches the detector."""
    assert as_bgr(data) is None


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4)])
def test_gray_and_transparent_frames_become_bgr(shape: tuple[int, ...]) -> None:
    """A grayscale camera works like a color camera."""
    picture = as_bgr(np.full(shape, 7, np.uint8))
    assert picture is not None
    assert picture.shape == (4, 6, 3)
    assert (picture == 7).all()
