"""`edge classify` with real photographs and a real video."""

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
from tests.e2e.process import EDGE, UNPRIVILEGED


@pytest.fixture(scope="module")
def video_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of five frames with the astronaut's face, at 25 frames per second."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH_PX, HEIGHT_PX))
    with DemoSource() as source:
        for index in range(5):
            writer.write(source._render(4 + index / FPS))
    writer.release()
    return path


def classify(bundle: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the command and returns its result."""
    command = [EDGE, "classify", "--model", bundle, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def results(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """Parses the JSON lines of the output."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def read_image(path: Path) -> NDArray[np.uint8]:
    """Returns the pixels of an image file."""
    pixels = cv2.imread(str(path))
    assert pixels is not None, f"{path} is not an image"
    return np.asarray(pixels, np.uint8)


def test_a_photo_gives_a_line_for_its_face(bundle_path: Path, astronaut_path: Path) -> None:
    """The face is detected at its position, with a probability of each emotion."""
    (face,) = results(classify(bundle_path, astronaut_path, "--format", "json"))
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


def test_the_emotion_does_not_depend_on_the_size_of_a_photo(
    bundle_path: Path, astronaut_path: Path, tmp_path: Path
) -> None:
    """A photo is classified as the same emotion at half and at eight times its size."""
    photo = read_image(astronaut_path)
    for scale in (0.5, 8):
        cv2.imwrite(str(tmp_path / f"{scale}.png"), cv2.resize(photo, None, fx=scale, fy=scale))
    found = results(classify(bundle_path, tmp_path, "--format", "json"))
    assert [face["emotion"] for face in found] == ["happy", "happy"]


def test_a_face_in_a_dark_photo_is_detected_and_classified(
    bundle_path: Path, astronaut_path: Path, tmp_path: Path
) -> None:
    """At a thirtieth of the brightness and with sensor noise, the face is still detected and classified as happy."""
    noise = np.random.default_rng(0).normal(size=(512, 512, 3))
    night = (read_image(astronaut_path) / 30 + noise).round().clip(0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "night.png"), night)
    (face,) = results(classify(bundle_path, tmp_path, "--format", "json"))
    assert face["emotion"] == "happy"
    assert face["confidence"] > 0.9


def test_a_folder_gives_a_table_for_each_file(bundle_path: Path, astronaut_path: Path, hopper_path: Path) -> None:
    """Each file has a table of its own."""
    done = classify(bundle_path, astronaut_path, hopper_path)
    headings = [line for line in done.stdout.splitlines() if "emotion" in line.split()]
    assert (done.returncode, len(headings)) == (0, 2)
    assert astronaut_path.name in done.stdout.splitlines()[0]
    assert "happy" in done.stdout


def test_each_frame_of_a_video_is_reported_with_its_time(bundle_path: Path, video_path: Path) -> None:
    """Each face has the number of its frame and its time in the video."""
    found = results(classify(bundle_path, video_path, "--format", "json"))
    assert [face["frame"] for face in found] == [0, 1, 2, 3, 4]
    assert [face["time_s"] for face in found] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])


def test_unreadable_files_are_reported_and_the_others_are_processed(
    bundle_path: Path, astronaut_path: Path, tmp_path: Path
) -> None:
    """An unreadable file is reported, and the others are still processed."""
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "broken.jpg").write_bytes(astronaut_path.read_bytes()[:200])
    files = [tmp_path / "none.png", tmp_path / "notes.txt", tmp_path / "broken.jpg", astronaut_path]
    done = classify(bundle_path, *files, "--format", "json")
    assert done.returncode == 5
    assert len(results(done)) == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("edge: error: ")]
    assert [str(file) in line for file, line in zip(files[:3], errors, strict=True)] == [True, True, True]


def test_an_empty_folder_is_an_error(bundle_path: Path, tmp_path: Path) -> None:
    """An empty folder is an error, unlike a photo without faces."""
    done = classify(bundle_path, tmp_path)
    assert (done.returncode, "contains no images" in done.stderr) == (5, True)


def test_annotated_copies_show_box_and_label(
    bundle_path: Path, astronaut_path: Path, hopper_path: Path, video_path: Path, tmp_path: Path
) -> None:
    """Annotated copies have the same size and length, with a box around the face; the originals are unchanged."""
    before = astronaut_path.read_bytes()
    done = classify(bundle_path, astronaut_path, hopper_path, video_path, "--annotate", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert astronaut_path.read_bytes() == before
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"astronaut.png", "grace_hopper.jpg", "clip.mp4"}
    changed = cv2.absdiff(read_image(tmp_path / "out" / "astronaut.png"), read_image(astronaut_path)).max(axis=2) > 0
    assert changed[160:190, 200:250].any(axis=0).all(), "the lower edge of the box"
    assert not changed[300:].any(), "the suit"
    video = cv2.VideoCapture(str(tmp_path / "out" / "clip.mp4"))
    assert (video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)) == (5, FPS)


def test_one_photo_is_annotated_into_one_file(bundle_path: Path, astronaut_path: Path, tmp_path: Path) -> None:
    """For a single photo, the target is a file in the format of its suffix."""
    assert classify(bundle_path, astronaut_path, "--annotate", tmp_path / "new" / "a.jpg").returncode == 0
    assert read_image(tmp_path / "new" / "a.jpg").shape == (512, 512, 3)


def test_copies_with_the_same_name_do_not_overwrite_each_other(
    bundle_path: Path, astronaut_path: Path, tmp_path: Path
) -> None:
    """Photos with the same name in two folders give two copies."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(astronaut_path.read_bytes())
    classify(bundle_path, tmp_path / "a", tmp_path / "b", "--annotate", tmp_path / "out")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"x.png", "x-2.png"}


@pytest.mark.parametrize("target", [".", "a.png"])
def test_an_original_is_never_overwritten(bundle_path: Path, astronaut_path: Path, tmp_path: Path, target: str) -> None:
    """An output path that is an input file is an error."""
    photo = tmp_path / "a.png"
    photo.write_bytes(astronaut_path.read_bytes())
    done = classify(bundle_path, photo, "--annotate", tmp_path / target)
    assert (done.returncode, "would be overwritten" in done.stderr) == (1, True)
    assert photo.read_bytes() == astronaut_path.read_bytes()


def test_a_copy_that_cannot_be_written_is_an_error(bundle_path: Path, astronaut_path: Path, tmp_path: Path) -> None:
    """An unknown image format is reported as an error with a remedy."""
    done = classify(bundle_path, astronaut_path, "--annotate", tmp_path / "a.docx")
    assert done.returncode == 1
    assert "a.docx: cannot be written. Check the folder's permissions" in done.stderr


def test_a_video_is_not_annotated_into_an_image_file(bundle_path: Path, video_path: Path, tmp_path: Path) -> None:
    """A file name with an image suffix is rejected for a video, with the supported suffixes."""
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
    assert [face["path"] for face in results(done)] == [str(album / "a.png")]


def test_the_table_is_printed_while_a_video_is_read(bundle_path: Path, video_path: Path, tmp_path: Path) -> None:
    """The first faces of a long video are printed before its end is reached."""
    film = tmp_path / "film.mjpeg"
    face = cv2.resize(np.asarray(cv2.VideoCapture(str(video_path)).read()[1]), (320, 180))
    empty_frame = cv2.imencode(".jpg", np.zeros_like(face))[1].tobytes()
    film.write_bytes(cv2.imencode(".jpg", face)[1].tobytes() + 5000 * empty_frame)  # several milliseconds each
    command = [EDGE, "classify", "--model", str(bundle_path), str(film)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        still_reading = process.poll() is None
        process.kill()
    assert [lines[0].strip(), lines[1].split()[0]] == [str(film), "time"]
    assert "happy" in lines[2]
    assert still_reading


def test_a_photo_in_an_inaccessible_folder_is_reported(bundle_path: Path, astronaut_path: Path, tmp_path: Path) -> None:
    """The photo is reported and the other files are processed; a link into the inaccessible folder is skipped."""
    locked = tmp_path / "locked"
    locked.mkdir(mode=0)
    album = tmp_path / "album"
    album.mkdir()
    (album / "link.jpg").symlink_to(locked / "a.jpg")
    (album / "photo.png").symlink_to(astronaut_path)
    command = [
        *UNPRIVILEGED,
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
    assert [face["path"] for face in results(done)] == [str(album / "photo.png")]


def test_unreadable_files_in_a_folder_are_reported(bundle_path: Path, astronaut_path: Path, tmp_path: Path) -> None:
    """Every unreadable file and subfolder is reported with the reason "Permission denied"."""
    (tmp_path / "photo.png").symlink_to(astronaut_path)
    (tmp_path / "private.png").write_bytes(astronaut_path.read_bytes())
    (tmp_path / "private.png").chmod(0)
    (tmp_path / "locked").mkdir(mode=0)
    (tmp_path / "listed").mkdir(mode=0o444)
    command = [*UNPRIVILEGED, EDGE, "classify", "--model", bundle_path, "--format", "json", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    for name in ("private.png", "locked", "listed"):
        assert f"edge: error: {tmp_path / name}: cannot be read (Permission denied)" in done.stderr
    assert [face["path"] for face in results(done)] == [str(tmp_path / "photo.png")]


def test_file_names_that_are_not_utf8_are_handled(
    bundle_path: Path, astronaut_path: Path, video_path: Path, tmp_path: Path
) -> None:
    """A photo with a name that is not UTF-8 is processed and copied; a video with one is an error with a remedy."""
    album = tmp_path / "album"
    album.mkdir()
    photo, film = (album / os.fsdecode(name) for name in (b"caf\xe9.png", b"film\xe9.mp4"))
    photo.write_bytes(astronaut_path.read_bytes())
    film.write_bytes(video_path.read_bytes())
    done = classify(bundle_path, album, "--format", "json", "--annotate", tmp_path / "out")
    assert done.returncode == 5, done.stderr
    assert [face["path"] for face in results(done)] == [str(photo)]
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
    """OpenCV cannot write to names that are not UTF-8, which is reported as an error."""
    done = classify(bundle_path, request.getfixturevalue(original), "--annotate", tmp_path / os.fsdecode(name))
    assert (done.returncode, "cannot be written (its name is not UTF-8)" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("original", "copy"), [("video_path", "a.mp4"), ("video_path", "a.avi"), ("astronaut_path", "a.png")]
)
def test_a_copy_that_does_not_fit_on_the_disk_is_an_error(
    bundle_path: Path, tmp_path: Path, request: pytest.FixtureRequest, original: str, copy: str
) -> None:
    """A copy that could only be written in part is an error."""
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
