"""`edge classify`: detects the faces in photos and videos, and classifies their emotions."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from rich.text import Text

from edge.align import align
from edge.classify import BundleClassifier
from edge.cli import print_error
from edge.commands.annotate import Annotator, plan_outputs
from edge.commands.console import Console
from edge.commands.formatting import COLORS, bar, emotion
from edge.config import default_bundle
from edge.contract import EMOTIONS, UNKNOWN, softmax
from edge.detect import create_detector
from edge.domain import Face, Frame
from edge.errors import SourceError, SourceUnavailable
from edge.ports import Detector
from edge.printable import printable
from edge.source.recording import IMAGE_SUFFIXES, Recording, is_folder, is_image

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})

_WIDTHS: Final = {"time": 12, "left, top": 12, "size": 11, "emotion": 15, "confidence": 21, "quality": 7}
"""Widths of the table's columns; fixed, because rows are printed as soon as they are known."""


@dataclass(frozen=True, slots=True)
class FaceResult:
    """A face in a frame; its fields are the keys of the JSON output.

    Attributes:
        path: The file.
        frame: Number of the frame, from 0.
        time_s: Position in the video, in seconds.
        box: left, top, right, bottom in pixels.
        emotion: The most likely emotion, or `unknown` if the model is too uncertain.
        confidence: Probability of the most likely emotion.
        probs: Probability of each emotion.
        quality: Quality of the face crop, 0 to 1.
    """

    path: str
    frame: int
    time_s: float
    box: tuple[float, float, float, float]
    emotion: str
    confidence: float
    probs: dict[str, float]
    quality: float


def run(arguments: argparse.Namespace) -> int:
    """Classifies all files. Returns 0, or the exit code of the first failure; the other files are still processed."""
    analyzer = _Analyzer(
        detector=create_detector(arguments.detector),
        classifier=BundleClassifier(arguments.model or default_bundle()),
    )
    files, errors = _files(arguments.paths)
    codes = [print_error(error) for error in errors]
    outputs = plan_outputs(files, arguments.annotate) if arguments.annotate else {}
    for file in files:
        faces = _faces(file, analyzer, outputs.get(file))
        try:
            if arguments.format == "json":
                _print_lines(faces)
            else:
                _print_table(file, faces)
        except SourceError as error:
            codes.append(print_error(error))
    return codes[0] if codes else 0


class _Analyzer:
    """Detects the faces in a frame and classifies their emotions."""

    def __init__(self, *, detector: Detector, classifier: BundleClassifier) -> None:
        self._detector = detector
        self._classifier = classifier
        manifest = classifier.bundle.manifest
        self._framing = manifest.preprocessing.framing
        self._size_px = manifest.input.width_px
        self._unknown_below = manifest.calibration.unknown_below

    def analyze(self, frame: Frame, file: Path) -> list[FaceResult]:
        """Returns the faces in a frame, highest detector score first."""
        faces = self._detector.detect(frame.image_bgr)
        crops, qualities = align(frame, faces, self._framing, self._size_px)
        probabilities = softmax(self._classifier.classify(crops))
        rows = zip(faces, probabilities.tolist(), qualities, strict=True)
        return [self._result(file, frame, *row) for row in rows]

    def _result(self, file: Path, frame: Frame, face: Face, shares: list[float], quality: float) -> FaceResult:
        confidence, name = max(zip(shares, EMOTIONS, strict=True))
        box = face.box
        return FaceResult(
            path=str(file),
            frame=frame.index,
            time_s=round(frame.time_s, 3),
            box=(round(box.left, 1), round(box.top, 1), round(box.right, 1), round(box.bottom, 1)),
            emotion=name if confidence >= self._unknown_below else UNKNOWN,
            confidence=round(confidence, 4),
            probs={label: round(share, 4) for label, share in zip(EMOTIONS, shares, strict=True)},
            quality=round(quality, 4),
        )


def _files(paths: Sequence[Path]) -> tuple[list[Path], list[SourceError]]:
    """Returns the given files and the images and videos in the given folders, and an error for each unusable folder."""
    files: list[Path] = []
    errors: list[SourceError] = []
    for path in paths:
        if not is_folder(path):
            files.append(path)
            continue
        inside, inaccessible = _files_below(path)
        if not inside and not inaccessible:
            errors.append(SourceUnavailable("the folder contains no images or videos", where=path))
        files += inside
        errors += inaccessible
    return list(dict.fromkeys(files)), errors


def _files_below(top: Path) -> tuple[list[Path], list[SourceUnavailable]]:
    """Returns the images and videos below a folder, sorted by path, and an error for each inaccessible folder."""
    files: list[Path] = []
    inaccessible: list[OSError] = []
    for folder, _, names in os.walk(top, onerror=inaccessible.append):
        if not os.access(folder, os.X_OK):  # its names are readable, its files are not
            inaccessible.append(PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder))
        # Unlike Path.is_file, os.path.isfile raises no error for a file that this user cannot access.
        files += [
            file
            for file in (Path(folder, name) for name in names)
            if file.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES and os.path.isfile(file)  # noqa: PTH113
        ]
    errors = [
        SourceUnavailable(
            f"cannot be read ({error.strerror})", where=error.filename, remedy="Check the folder's permissions"
        )
        for error in inaccessible
    ]
    return sorted(files), errors


def _faces(file: Path, analyzer: _Analyzer, output: Path | None) -> Iterator[FaceResult]:
    """Yields the faces in a file as they are detected, and writes the annotated copy."""
    with (
        Recording(path=file) as recording,
        Annotator(output, video_fps=None if is_image(file) else recording.fps) as annotator,
        suppress(EOFError),
    ):
        while (frame := recording.read(timeout_s=0)) is not None:
            faces = analyzer.analyze(frame, file)
            annotator.add(frame.image_bgr, faces)
            yield from faces


def _print_lines(faces: Iterable[FaceResult]) -> None:
    for face in faces:
        sys.stdout.write(f"{json.dumps(asdict(face))}\n")


def _print_table(file: Path, faces: Iterator[FaceResult]) -> None:
    console = Console(highlight=False)
    first = next(faces, None)
    console.print(Text(printable(str(file)), "bold"), soft_wrap=True)
    if first is None:
        console.print(Text("no faces found", "dim"))
        return
    columns = [name for name in _WIDTHS if name != "time" or not is_image(file)]
    headings = {name: Text(name, "dim") for name in columns}
    for cells in chain([headings], map(_cells, chain([first], faces))):
        console.print(Text().join(_padded(cells[name], _WIDTHS[name]) for name in columns), soft_wrap=True)


def _cells(face: FaceResult) -> dict[str, Text]:
    left, top, right, bottom = face.box
    return {
        "time": Text(f"{face.time_s:.2f} s"),
        "left, top": Text(f"{left:.0f}, {top:.0f}"),
        "size": Text(f"{right - left:.0f}x{bottom - top:.0f}"),
        "emotion": emotion(face.emotion, face.confidence),
        "confidence": Text(bar(face.confidence, 20), COLORS[face.emotion]),
        "quality": Text(f"{face.quality:.2f}"),
    }


def _padded(cell: Text, width: int) -> Text:
    cell.pad_right(width - len(cell))
    return cell
