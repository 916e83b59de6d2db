"""Data set fixtures: a generated one in each layout of FER-2013, and the real one if available."""

from __future__ import annotations

import csv
import gzip
import io
import math
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.contract import EMOTIONS
from tests.trainer.stripes import stripe_dataset
from trainer.data import Dataset, FaceSet
from trainer.layouts import VOTE_COLUMNS
from trainer.targets import Predictor

REAL = Path(__file__).parents[3] / "shared" / "fer2013"

USAGES = {"Training": 4, "PublicTest": 2, "PrivateTest": 1}
"""Number of images per emotion in the generated data set."""


class Example(NamedTuple):
    """A generated image: distinct from all others, and smooth, so that JPEG compression changes it little."""

    usage: str
    label: int
    pixels: NDArray[np.uint8]


def blobs(count: int, seed: int) -> NDArray[np.uint8]:
    """Returns uint8 (count, 48, 48): smooth random textures."""
    random = np.random.default_rng(seed)
    coarse = random.uniform(0, 255, (count, 7, 7)).astype(np.uint8)
    return np.array([cv2.resize(image, (48, 48), interpolation=cv2.INTER_CUBIC) for image in coarse], np.uint8)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes, too small for the weights of a network."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """A data set that is easy to learn."""
    return stripe_dataset()


@pytest.fixture(scope="session")
def examples() -> list[Example]:
    """A tiny FER-2013, in the row order of its table."""
    kinds = [(usage, label) for usage, count in USAGES.items() for label in range(len(EMOTIONS)) for _ in range(count)]
    return [Example(*kind, pixels) for kind, pixels in zip(kinds, blobs(len(kinds), seed=1), strict=True)]


@pytest.fixture
def kaggle_folder(examples: list[Example], tmp_path: Path) -> Path:
    """Kaggle's layout, as a folder."""
    root = tmp_path / "kaggle"
    for number, example in enumerate(examples):
        split = "train" if example.usage == "Training" else "test"
        _write_image(root / split / EMOTIONS[example.label] / f"{example.usage}_{number:08d}.jpg", example.pixels)
    return root


@pytest.fixture
def kaggle_zip(kaggle_folder: Path, tmp_path: Path) -> Path:
    """Kaggle's layout, as a .zip file."""
    return Path(shutil.make_archive(str(tmp_path / "archive"), "zip", kaggle_folder))


@pytest.fixture
def plain_folder(examples: list[Example], tmp_path: Path) -> Path:
    """A folder for each split, without FER-2013's file names."""
    root = tmp_path / "plain"
    folders = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
    for number, example in enumerate(examples):
        _write_image(root / folders[example.usage] / EMOTIONS[example.label] / f"{number}.png", example.pixels)
    return root


@pytest.fixture
def table(examples: list[Example], tmp_path: Path) -> Path:
    """The challenge table."""
    path = tmp_path / "fer2013.csv"
    write_table(path, examples)
    return path


@pytest.fixture
def table_gz(table: Path) -> Path:
    """The table as .csv.gz."""
    path = table.with_name("fer2013.csv.gz")
    path.write_bytes(gzip.compress(table.read_bytes(), mtime=0))
    return path


@pytest.fixture
def table_zip(table: Path, tmp_path: Path) -> Path:
    """The table in a folder in a .zip file."""
    path = tmp_path / "challenge.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(table, "fer2013/fer2013.csv")
    return path


@pytest.fixture
def votes(examples: list[Example], tmp_path: Path) -> Path:
    """FER+ votes for the generated data set: eight of ten for `surprise`, whatever the label."""
    path = tmp_path / "fer2013new.csv"
    write_votes(path, [example.usage for example in examples])
    return path


@pytest.fixture(params=["kaggle_folder", "kaggle_zip", "plain_folder", "table", "table_gz", "table_zip"])
def any_layout(request: pytest.FixtureRequest) -> Path:
    """Each layout in turn."""
    path = request.getfixturevalue(request.param)
    assert isinstance(path, Path)
    return path


@pytest.fixture
def make_faces() -> Callable[..., FaceSet]:
    """Builds a `FaceSet` of random textures: `make_faces([0, 0, 3], seed=5)`."""

    def make(labels: list[int], seed: int = 0) -> FaceSet:
        names = tuple(f"image {number}" for number in range(len(labels)))
        return FaceSet(blobs(len(labels), seed), np.array(labels, np.int64), names)

    return make


@pytest.fixture
def make_predictor() -> Callable[..., Predictor]:
    """Builds a model that classifies `faces` correctly, except for wrong predictions by index: `{3: "sad"}`."""

    def make(faces: FaceSet, wrong: dict[int, str] | None = None, confidence: float = 0.9) -> Predictor:
        answers = faces.labels.copy()
        for index, emotion in (wrong or {}).items():
            answers[index] = EMOTIONS.index(emotion)
        answer_of = {image.tobytes(): answer for image, answer in zip(faces.images, answers, strict=True)}
        logit = math.log(confidence / (1 - confidence) * (len(EMOTIONS) - 1))

        def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.eye(len(EMOTIONS), dtype=np.float32)[[answer_of[i.tobytes()] for i in images]] * np.float32(logit)

        return predict

    return make


@pytest.fixture(scope="session")
def real_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every 40th image of each class and split of the real archive."""
    source = _real("archive.zip")
    path = tmp_path_factory.mktemp("real") / "archive.zip"
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(path, "w") as slice_:
        by_kind: dict[str, list[str]] = {}
        for name in sorted(archive.namelist()):
            if not name.endswith("/"):
                by_kind.setdefault(name.split("_")[0], []).append(name)  # train/happy/Training
        for names in by_kind.values():
            for name in names[::40]:
                slice_.writestr(name, archive.read(name))
    return path


@pytest.fixture(scope="session")
def real_table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first 300 rows of the real table and of FER+."""
    folder = tmp_path_factory.mktemp("real_table")
    with gzip.open(_real("fer2013.csv.gz"), "rt") as source:
        (folder / "fer2013.csv").write_text("".join(islice(source, 301)))
    with _real("fer2013new.csv").open() as source:
        (folder / "fer2013new.csv").write_text("".join(islice(source, 301)))
    return folder / "fer2013.csv", folder / "fer2013new.csv"


def write_table(path: Path, examples: list[Example], columns: str = "emotion,pixels,Usage") -> None:
    """Writes the challenge table."""
    lines = (f"{e.label},{' '.join(map(str, e.pixels.ravel()))},{e.usage}" for e in examples)
    path.write_text("\n".join([columns, *lines]) + "\n")


def write_data_set(path: Path, dataset: Dataset) -> None:
    """Writes a data set as the challenge table."""
    usages = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
    rows = [
        Example(usages[split], int(label), image)
        for split, faces in dataset.splits.items()
        for image, label in zip(faces.images, faces.labels, strict=True)
    ]
    write_table(path, rows)


def write_votes(path: Path, usages: Sequence[str]) -> None:
    """Writes FER+ votes for rows of these splits, eight of ten for `surprise`."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["Usage", "Image name", *VOTE_COLUMNS])
    writer.writerows([usage, f"fer{row:07d}.png", 2, 0, 8, *[0] * 7] for row, usage in enumerate(usages))
    path.write_text(buffer.getvalue())


def _write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def _real(name: str) -> Path:
    path = REAL / name
    if not path.exists():
        pytest.skip(f"the real data set is not at {REAL}")
    return path
