"""Readers for the on-disk layouts of FER-2013; each yields one `Item` per image.

    Kaggle folder         train/<emotion>/Training_*.jpg, test/<emotion>/{PublicTest,PrivateTest}_*.jpg
    plain folder          {train,validation,test}/<emotion>/*.{png,jpg,...}
    challenge table       fer2013.csv with the columns emotion, pixels, Usage

A folder may also be a .zip file; a table may be a .csv.gz, or be inside a folder or a .zip file.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Final, NamedTuple, TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.contract import EMOTIONS
from trainer.errors import DataError

SIZE_PX: Final = 48
"""Width and height of FER-2013's images in pixels."""

VOTE_COLUMNS: Final = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF",
)  # fmt: skip
"""Vote columns of FER+ in file order; `NF` counts the votes for "not a face"."""

LAYOUT_HINT: Final = (
    "Give {train,validation,test}/<emotion>/*.jpg as a folder or .zip (in Kaggle's archive, test/ contains the "
    "PublicTest_*.jpg of the validation split), or fer2013.csv (also .csv.gz or in a .zip) with the columns "
    f"emotion,pixels,Usage; the emotions are {', '.join(EMOTIONS)}"
)

_VOTES_HINT: Final = "Give the original FER+ file, fer2013new.csv"
_SPLITS_BY_USAGE: Final = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
_SPLIT_FOLDERS: Final = {
    "train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test",
}  # fmt: skip
_ALIASES: Final = {
    "anger": "angry", "disgusted": "disgust", "fearful": "fear", "happiness": "happy", "sadness": "sad",
    "surprised": "surprise",
}  # fmt: skip
_LABEL_NUMBERS: Final = tuple(map(str, range(len(EMOTIONS))))
_IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif"}
)
"""Suffixes of image files. A file with one of these that cannot be decoded is reported as unreadable."""
_TABLE_NAMES: Final = frozenset({"fer2013.csv", "fer2013.csv.gz", "icml_face_data.csv"})


class Item(NamedTuple):
    """One image as read from a layout.

    Attributes:
        split: `train`, `validation` or `test`.
        label: Index into `EMOTIONS`.
        name: Path within the data set, or `row 123` of the table (row 1 follows the header).
        pixels: uint8 (H, W) gray 0-255, or None if the image could not be decoded.
        votes: The ten FER+ vote counts in the order of `VOTE_COLUMNS`, or None without a votes file.
    """

    split: str
    label: int
    name: str
    pixels: NDArray[np.uint8] | None
    votes: tuple[int, ...] | None = None


def read_layout(path: Path, votes: Path | None) -> Iterator[Item]:
    """Detects the layout of `path` and reads it.

    Raises:
        DataError: The path does not exist, or its layout, a class, a column or a row is invalid.
    """
    if not path.exists():
        raise DataError("no such file or folder", where=path, remedy=LAYOUT_HINT)
    if path.is_dir():
        return _read_folder(path, votes)
    name = path.name.lower()
    if name.endswith(".zip"):
        return _read_zip(path, votes)
    if name.endswith((".csv", ".csv.gz")):
        return _read_table_file(path, votes)
    raise DataError("is not a folder, .zip, .csv or .csv.gz file", where=path, remedy=LAYOUT_HINT)


def classes_hint(emotions: tuple[str, ...]) -> str:
    """Returns the remedy for a folder that `read_classes` cannot read."""
    return f"Give a folder of <emotion>/*.png or *.jpg; the emotions are {', '.join(emotions)}"


def read_classes(path: Path, emotions: tuple[str, ...] = EMOTIONS) -> Iterator[Item]:
    """Reads a folder of `<emotion>/*.{png,jpg}` without splits as split `test`; labels are indices into `emotions`.

    An emotion's folder may have subfolders, for example one per person.

    Raises:
        DataError: The folder does not exist, an emotion is unknown, or an image is not in an emotion's folder.
    """
    hint = classes_hint(emotions)
    if not path.is_dir():
        raise DataError("no such folder", where=path, remedy=hint)
    for name in filter(_is_image, _list_names(path)):
        emotion, below, _ = name.partition("/")
        if not below:
            raise DataError(f"{name} is not in an emotion's folder", where=path, remedy=hint)
        yield Item("test", _label(emotion, path, emotions, hint), name, decode(_read_bytes(path / name)))


def decode(encoded: bytes) -> NDArray[np.uint8] | None:
    """Decodes an image in any format OpenCV supports to uint8 (H, W) gray; returns None if it cannot be decoded."""
    if not encoded:
        return None
    try:
        gray = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # the header declares more pixels than OpenCV accepts
        return None
    return None if gray is None else np.asarray(gray, np.uint8)


def _read_folder(path: Path, votes: Path | None) -> Iterator[Item]:
    for name in sorted(_TABLE_NAMES):
        if (path / name).is_file():
            return _read_table_file(path / name, votes)
    return _read_images(_list_names(path), lambda name: _read_bytes(path / name), path, votes)


def _list_names(folder: Path) -> list[str]:
    """Returns the relative paths of everything below `folder`, folders with a trailing slash, as in a zip file."""
    return sorted(path.relative_to(folder).as_posix() + "/" * path.is_dir() for path in _walk(folder))


def _read_bytes(path: Path) -> bytes:
    """Returns the content of a file; empty for a broken link or anything that is not a regular file."""
    return path.read_bytes() if path.is_file() else b""


def _walk(folder: Path, ancestors: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yields all files and folders, following links except those back to one of the `ancestors`."""
    here = folder.resolve()
    if here not in ancestors:
        for path in folder.iterdir():
            yield path
            if path.is_dir():
                yield from _walk(path, (*ancestors, here))


def _read_zip(path: Path, votes: Path | None) -> Iterator[Item]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
            table = next((name for name in names if PurePosixPath(name).name in _TABLE_NAMES), None)
            if table is None:
                yield from _read_images(names, archive.read, path, votes)
            else:
                with archive.open(table) as file:
                    yield from _read_table_stream(file, table.endswith(".gz"), path, votes)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise _damaged_zip(path, error) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged_zip(path, error) from error  # raised by bzip2 for corrupt data
    except (RuntimeError, NotImplementedError) as error:  # encrypted, or an unsupported compression method
        raise DataError(f"cannot be unpacked ({error})", where=path, remedy="Unpack it and give the folder") from error


def _damaged_zip(path: Path, error: Exception) -> DataError:
    return DataError(f"is not a valid zip file ({error})", where=path, remedy="Download it again")


def _read_images(names: list[str], read: Callable[[str], bytes], path: Path, votes: Path | None) -> Iterator[Item]:
    """Reads the images among `names`, which also contains folders and other files."""
    if votes is not None:
        raise DataError("FER+ votes can only be used with the challenge table, whose row order they share", where=votes,
                        remedy=f"Give fer2013.csv instead of {path.name}")  # fmt: skip
    empty = {PurePosixPath(name).name.lower() for name in names} & _SPLIT_FOLDERS.keys()
    folders: dict[str, tuple[str, ...]] = {}  # folder of each split
    for name in filter(_is_image, names):
        parts = PurePosixPath(name).parts
        if len(parts) < 3 or parts[-3].lower() not in _SPLIT_FOLDERS:
            raise DataError(f"{name} is not in a split's folder", where=path, remedy=LAYOUT_HINT)
        folder = parts[-3].lower()
        empty.discard(folder)
        split = _SPLIT_FOLDERS[folder]
        if folders.setdefault(split, parts[:-2]) != parts[:-2]:
            places = " and ".join(str(PurePosixPath(*place)) for place in (folders[split], parts[:-2]))
            raise DataError(f"contains both {places}: training images may leak into the evaluation", where=path,
                            remedy="Give a single data set with one folder per split")  # fmt: skip
        if split == "test":  # Kaggle's test folder has two splits, distinguished by file name
            split = next((s for usage, s in _SPLITS_BY_USAGE.items() if parts[-1].startswith(f"{usage}_")), split)
        yield Item(split, _label(parts[-2], path), name, decode(read(name)))
    if empty:
        raise DataError(f"the folder {', '.join(sorted(empty))} contains no images", where=path, remedy=LAYOUT_HINT)


def _is_image(name: str) -> bool:
    # macOS adds metadata files named ._<name>, in a zip under __MACOSX/.
    file = PurePosixPath(name)
    return not name.endswith("/") and file.suffix.lower() in _IMAGE_SUFFIXES and not file.name.startswith("._")


def _label(folder: str, path: Path, emotions: tuple[str, ...] = EMOTIONS, remedy: str = LAYOUT_HINT) -> int:
    name = folder.lower()
    try:
        return emotions.index(_ALIASES.get(name, name))
    except ValueError:
        raise DataError(f"unknown emotion {folder!r}", where=path, remedy=remedy) from None


def _read_table_file(path: Path, votes: Path | None) -> Iterator[Item]:
    with path.open("rb") as file:
        yield from _read_table_stream(file, path.suffix.lower() == ".gz", path, votes)


def _read_table_stream(file: IO[bytes], compressed: bool, path: Path, votes: Path | None) -> Iterator[Item]:  # noqa: FBT001
    plain = gzip.GzipFile(fileobj=file) if compressed else file
    with plain, io.TextIOWrapper(plain, "utf-8-sig", newline="") as lines:
        try:
            yield from _read_table(lines, path, votes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"is not a valid gzip file ({error})", where=path, remedy="Download it again") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"is not a CSV text file ({error})", where=path, remedy=LAYOUT_HINT) from error


def _read_table(lines: TextIO, path: Path, votes: Path | None) -> Iterator[Item]:
    # A row's pixels take up to 9,200 characters, below the csv module's limit of 131,072.
    rows = csv.DictReader(lines)
    columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    missing = [name for name in ("emotion", "pixels", "usage") if name not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise DataError(f"has no column {', '.join(missing)} (found: {found})", where=path, remedy=LAYOUT_HINT)
    votes_rows = None if votes is None else _read_votes(votes)
    count = 0
    for count, row in enumerate(rows, 1):
        if votes_rows is not None and count > len(votes_rows):
            break
        if votes_rows is not None and votes_rows[count - 1].usage != row[columns["usage"]]:
            raise DataError(f"row {count} belongs to a different split than in {path.name}", where=votes,
                            remedy="FER+ votes require the original table in its original row order")  # fmt: skip
        item = _parse_row(row[columns["emotion"]], row[columns["pixels"]], row[columns["usage"]], f"row {count}", path)
        yield item if votes_rows is None else item._replace(votes=votes_rows[count - 1].counts)
    if votes_rows is not None and count != len(votes_rows):
        raise DataError(f"has {len(votes_rows)} rows, not as many as {path.name}", where=votes,
                        remedy="FER+ votes require the original table of 35,887 rows")  # fmt: skip


def _parse_row(emotion: str, pixels: str, usage: str, name: str, path: Path) -> Item:
    if usage not in _SPLITS_BY_USAGE:
        raise DataError(f"{name}: unknown Usage {usage!r}", where=path,
                        remedy=f"Usage must be one of {', '.join(_SPLITS_BY_USAGE)}")  # fmt: skip
    if emotion not in _LABEL_NUMBERS:
        raise DataError(f"{name}: unknown emotion {emotion!r}", where=path,
                        remedy=f"emotion must be 0 to {_LABEL_NUMBERS[-1]}")  # fmt: skip
    return Item(_SPLITS_BY_USAGE[usage], int(emotion), name, _parse_pixels(pixels or ""))


def _parse_pixels(text: str) -> NDArray[np.uint8] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # numpy 1 only warns about text that is not a number
            flat = np.fromstring(text, np.int64, sep=" ")  # five times faster than splitting in Python
    except (ValueError, DeprecationWarning):
        return None
    if flat.size != SIZE_PX * SIZE_PX or flat.min() < 0 or flat.max() > 255:
        return None
    return flat.astype(np.uint8).reshape(SIZE_PX, SIZE_PX)


class _Votes(NamedTuple):
    """One row of the FER+ table."""

    usage: str
    counts: tuple[int, ...]


def _read_votes(path: Path) -> list[_Votes]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            return [_parse_votes_row(row, rows.line_num, path) for row in rows]
    except FileNotFoundError as error:
        raise DataError("no such file", where=path, remedy=_VOTES_HINT) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path, remedy=_VOTES_HINT) from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"is not the FER+ table ({error})", where=path, remedy=_VOTES_HINT) from error


def _parse_votes_row(row: Mapping[str, str], line: int, path: Path) -> _Votes:
    counts = tuple(int(row[column]) for column in VOTE_COLUMNS)
    if min(counts) < 0:
        raise DataError(f"line {line}: negative number of votes ({min(counts)})", where=path, remedy=_VOTES_HINT)
    return _Votes(row["Usage"], counts)
