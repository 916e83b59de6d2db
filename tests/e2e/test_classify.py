"""`edge classify` on real photographs and a real video."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.contract import EMOTIONS
from edge.source.demo import FPS, HEIGHT_PX, WIDTH_PX, DemoSource
from tests.e2e.process import AS_ANYBODY, EDGE


@pytest.fixture(scope="module")
def video_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five frames with the astronaut's face, at 25 frames a second."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH_PX, HEIGHT_PX))
    with DemoSource() as source:
        for index in range(5):
            writer.write(source._render(4 + index / FPS))
    writer.release()
    return path


def classify(bundle: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    command = [EDGE, "classify", "--model", bundle, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def findings(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The JSON lines."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def picture(path: Path) -> NDArray[np.uint8]:
    """A picture's pixels."""
    pixels = cv2.imread(str(path))
    assert pixels is not None, f"{path} is no picture"
    return np.asarray(pixels, np.uint8)


def test_a_photo_gives_a_line_for_its_face(bundle_path: Path, astronaut_path: Path) -> None:
    """The face is detected at its position, with a probability for each emotion."""
    (face,) = findings(classify(bundle_path, astronaut_path, "--format", "json"))
    assert face["path"] == str(astronaut_path)
    assert (face["frame"], face["time_s"]) == (0, 0)
    left, top, right, bottom = face["box"]
    assert left < 226 < right
    assert top < 120 < bottom
    assert list(face["probs"]) == list(EMOTIONS)
    assert sum(face["probs"].values()) == pytest.approx(1, abs=1e-3)
    assert face["emotion"] == "happy"
    assert face["confidence"] == face["probs"]["happy"]
    assert face["quality"] == 1


def test_photos_of_any_size_agree(bundle_path: Path, astronaut_path: Path, tmp_path: Path) -> None:
    """A photo eight times as large, or half as large, shows the same emotion."""
    photo = picture(astronaut_path)
    for scale in (0.5, 8):
        cv2.imwrite(str(tmp_path / f"{scale}.png"), cv2.resize(photo, None, fx=scale, fy=scale))
    found = findings(classify(bundle_path, tmp_path, "--format", "json"))
    assert [face["emotion"] for face in found] == ["happy", "happy"]


def test_an_emotion_is_seen_in_the_dark(bundle_path: Path, astronaut_path: Path, tmp_path: Path) -> None:
    """With a thirtieth of the light and sensor noise, the face is still detected and classified as happy."""
    noise = np.random.default_rng(0).normal(size=(512, 512, 3))
    night = (picture(astronaut_path) / 30 + noise).round().clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "night.png"), night)
    (face,) = findings(classify(bundle_path, tmp_path, "--format", "json"))
    assert face["emotion"] == "happy"
    assert face["confidence"] > 0.9


def test_a_folder_gives_a_table_for_each_file(bundle_path: Path, astronaut_path: Path, hopper_path: Path) -> None:
    """Each file has its own table."""
    done = classify(bundle_path, astronaut_path, hopper_path)
    headings = [line for line in done.stdout.splitlines() if "emotion" in line.split()]
    assert (done.returncode, len(headings)) == (0, 2)
    assert astronaut_path.name in done.stdout.splitlines()[0]
    assert "happy" in done.stdout


def test_each_frame_of_a_video_is_told_with_its_time(bundle_path: Path, video_path: Path) -> None:
    """What a face shows can be followed through a recording."""
    found = findings(classify(bundle_path, video_path, "--format", "json"))
    assert [face["frame"] for face in found] == [0, 1, 2, 3, 4]
    assert [face["time_s"] for face in found] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_what_is_no_picture_is_named_and_the_rest_is_done(
    bundle_path: Path, astronaut_path: Path, tmp_path: Path
) -> None:
    """An unreadable file is reported, and the others are still processed."""
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.jpg").write_bytes(astronaut_path.read_bytes()[:200])
    files = [tmp_path / "none.png", tmp_path / "notes.txt", tmp_path / "broken.jpg", astronaut_path]
    done = classify(bundle_path, *files, "--format", "json")
    assert done.returncode == 5
    assert len(findings(done)) == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("edge: error: ")]
    assert [str(file) in line for file, line in zip(files[:3], errors, strict=True)] == [True, True, True]


def test_an_empty_folder_is_an_error(bundle_path: Path, tmp_path: Path) -> None:
    """An empty folder is an error, unlike a photo without faces."""
    done = classify(bundle_path, tmp_path)
    assert (done.returncode, "contains no images" in done.stderr) == (5, True)


def test_annotated_copies_show_box_and_label(
    bundle_path: Path, astronaut_path: Path, hopper_path: Path, video_path: Path, tmp_path: Path
) -> None:
    """Copies go to another folder, of the same size and length, with the face framed; the originals stay."""
    before = astronaut_path.read_bytes()
    done = classify(bundle_path, astronaut_path, hopper_path, video_path, "--annotate", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert astronaut_path.read_bytes() == before
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"astronaut.png", "grace_hopper.jpg", "clip.mp4"}
    changed = cv2.absdiff(picture(tmp_path / "out" / "astronaut.png"), picture(astronaut_path)).max(axis=2) > 0
    assert changed[160:190, 200:250].any(axis=0).all(), "the lower edge of the box"
    assert not changed[300:].any(), "the suit"
    video = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (5, FPS)


def test_one_photo_is_annotated_into_one_file(bundle_path: Path, astronaut_path: Path, tmp_path: Path) -> None:
    """For a single photo, OUT is a file in the format of its suffix."""
    assert classify(bundle_path, astronaut_path, "--annotate", tmp_path / "new" / "a.jpg").returncode == 0
    assert picture(tmp_path / "new" / "a.jpg").shape == (512, 512, 3)


def test_files_of_the_same_name_do_not_replace_each_other(
    bundle_path: Path, astronaut_path: Path, tmp_path: Path
) -> None:
    """Photos called alike in two folders give two copies."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(astronaut_path.read_bytes())
    classify(bundle_path, tmp_path / "a", tmp_path / "b", "--annotate", tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"x.png", "x-2.png"}


@pytest.mark.parametrize("target", [".", "a.png"])
def test_an_original_is_never_overwritten(bundle_path: Path, astronaut_path: Path, tmp_path: Path, target: str) -> None:
    """An input is never overwritten."""
    photo = tmp_path / "a.png"
    photo.write_bytes(astronaut_path.read_bytes())
    done = classify(bundle_path, photo, "--annotate", tmp_path / target)
    assert (done.returncode, "would be overwritten" in done.stderr) == (1, True)
    assert photo.read_bytes() == astronaut_path.read_bytes()


def test_a_copy_that_cannot_be_written_is_an_error(bundle_path: Path, astronaut_path: Path, tmp_path: Path) -> None:
    """An unknown format is reported with the supported ones."""
    done = classify(bundle_path, astronaut_path, "--annotate", tmp_path / "a.docx")
    assert done.returncode == 1
    assert "a.docx: cannot be written. Check the folder's permissions" in done.stderr


def test_a_video_is_not_annotated_into_a_picture(bundle_path: Path, video_path: Path, tmp_path: Path) -> None:
    """A video is not written as a single image."""
    done = classify(bundle_path, video_path, "--annotate", tmp_path / "a.jpg")
    assert done.returncode == 1
    assert "a.jpg: is not a file name for a video. Use one of the suffixes .avi" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_with_a_name_like_a_photo_is_a_folder(bundle_path: Path, astronaut_path: Path, tmp_path: Path) -> None:
    """A folder named trip.jpg is searched, not reported as an unreadable photo."""
    album = tmp_path / "trip.jpg"
    album.mkdir()
    (album / "a.png").write_bytes(astronaut_path.read_bytes())
    done = classify(bundle_path, tmp_path, "--format", "json")
    assert done.returncode == 0, done.stderr
    assert [face["path"] for face in findings(done)] == [str(album / "a.png")]


def test_the_table_grows_while_a_video_is_read(bundle_path: Path, video_path: Path, tmp_path: Path) -> None:
    """The first faces of a long video are printed before its end is reached."""
    film = tmp_path / "film.mjpeg"
    face = cv2.resize(np.asarray(cv2.VideoCapture(str(video_path)).read()[1]), (320, 180))
    nobody = cv2.imencode(".jpg", np.zeros_like(face))[1].tobytes()
    film.write_bytes(cv2.imencode(".jpg", face)[1].tobytes() + 5000 * nobody)  # several milliseconds each
    command = [EDGE, "classify", "--model", str(bundle_path), str(film)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        still_reading = process.poll() is None
        process.kill()
    assert [lines[0].strip(), lines[1].split()[0]] == [str(film), "time"]
    assert "happy" in lines[2]
    assert still_reading


def test_a_photo_in_a_folder_that_may_not_be_entered_is_named(
    bundle_path: Path, astronaut_path: Path, tmp_path: Path
) -> None:
    """The other files are still read; a link to the inaccessible folder is skipped."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    album = tmp_path / "album"
    album.mkdir()
    (album / "link.jpg").symlink_to(locked / "a.jpg")
    (album / "photo.png").symlink_to(astronaut_path)
    command = [
        *AS_ANYBODY,
        EDGE,
        "classify",
        "--model",
        bundle_path,
        "--format",
        "json",
        locked / "a.jpg",
        album,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert f"{locked}/a.jpg: " in done.stderr
    assert "Traceback" not in done.stderr
    assert [face["path"] for face in findings(done)] == [str(album / "photo.png")]


def test_what_may_not_be_read_in_a_folder_is_named(bundle_path: Path, astronaut_path: Path, tmp_path: Path) -> None:
    """Every unreadable file and folder is reported as a lack of permission."""
    (tmp_path / "photo.png").symlink_to(astronaut_path)
    (tmp_path / "private.png").write_bytes(astronaut_path.read_bytes())
    (tmp_path / "private.png").chmod(0)
    (tmp_path / "locked").mkdir(mode=0)
    (tmp_path / "listed").mkdir(mode=0o444)
    command = [*AS_ANYBODY, EDGE, "classify", "--model", bundle_path, "--format", "json", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    for name in ("private.png", "locked", "listed"):
        assert f"edge: error: {tmp_path / name}: cannot be read (Permission denied)" in done.stderr
    assert [face["path"] for face in findings(done)] == [str(tmp_path / "photo.png")]


def test_a_name_that_is_not_utf8_takes_nothing_down(
    bundle_path: Path, astronaut_path: Path, video_path: Path, tmp_path: Path
) -> None:
    """A photo with a name that is not UTF-8 is read and copied; for a video, the error has a remedy."""
    album = tmp_path / "album"
    album.mkdir()
    photo, film = (album / os.fsdecode(name) for name in (b"caf\xe9.png", b"film\xe9.mp4"))
    photo.write_bytes(astronaut_path.read_bytes())
    film.write_bytes(video_path.read_bytes())
    done = classify(bundle_path, album, "--format", "json", "--annotate", tmp_path / "out")
    assert done.returncode == 5, done.stderr
    assert [face["path"] for face in findings(done)] == [str(photo)]
    assert "film?.mp4: its path is not valid UTF-8. Rename the file" in done.stderr
    (copy,) = (tmp_path / "out").iterdir()
    assert copy.name == photo.name
    assert cv2.imdecode(np.fromfile(copy, np.uint8), cv2.IMREAD_COLOR) is not None


@pytest.mark.parametrize(
    ("original", "name"),
    [("video_path", b"caf\xe9/a.mp4"), ("video_path", b"caf\xe9.mp4"), ("astronaut_path", b"a.\xe9")],
)
def test_a_copy_whose_name_is_not_utf8_is_an_error(
    bundle_path: Path, tmp_path: Path, request: pytest.FixtureRequest, original: str, name: bytes
) -> None:
    """OpenCV cannot write such names, which is reported as an error."""
    done = classify(bundle_path, request.getfixturevalue(original), "--annotate", tmp_path / os.fsdecode(name))
    assert (done.returncode, "cannot be written (its name is not UTF-8)" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("original", "copy"), [("video_path", "a.mp4"), ("video_path", "a.avi"), ("astronaut_path", "a.png")]
)
def test_a_copy_for_which_there_is_no_room_is_an_error(
    bundle_path: Path, tmp_path: Path, request: pytest.FixtureRequest, original: str, copy: str
) -> None:
    """A truncated copy is an error."""
    command = [
        EDGE,
        "classify",
        "--model",
        bundle_path,
        request.getfixturevalue(original),
        "--annotate",
        tmp_path / copy,
    ]
    done = subprocess.run(["prlimit", "--fsize=10000", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert f"{copy}: cannot be written" in done.stderr
    assert "that the disk is not full" in done.stderr
