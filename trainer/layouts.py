"""The readers of FER-2013's layouts on disk: each yields one `Item` for each image, whatever the layout.

    the Kaggle folder     train/<emotion>/Training_*.jpg, test/<emotion>/{PublicTest,PrivateTest}_*.jpg
    a plain folder        {train,validation,test}/<emotion>/*.{png,jpg,...}
    the challenge table   fer2013.csv with the columns emotion, pixels, Usage

A folder may be a .zip; a table may be a .csv.gz, or lie in a folder or a .zip.
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
"""FER-2013's images are this many pixels wide and high."""

VOTE_COLUMNS: Final = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt", "unknown", "NF",
)  # fmt: skip
"""FER+'s columns in file order; `NF` counts the votes for "not a face"."""

LAYOUT_HINT: Final = (
    "Give {train,validation,test}/<emotion>/*.jpg as a folder or .zip (Kaggle's has PublicTest_*.jpg in test/ in place "
    "of validation/), or fer2013.csv (also .csv.gz or in a .zip) with the columns emotion,pixels,Usage; the emotions "
    f"are {', '.join(EMOTIONS)}"
)

_VOTES_HINT: Final = "FER+ votes come as fer2013new.csv"
_USAGES: Final = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
_FOLDERS: Final = {
    "train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test",
}  # fmt: skip
_ALIASES: Final = {
    "anger": "angry", "disgusted": "disgust", "fearful": "fear", "happiness": "happy", "sadness": "sad",
    "surprised": "surprise",
}  # fmt: skip
_NUMBERS: Final = tuple(map(str, range(len(EMOTIONS))))
_IMAGE_SUFFIXES: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif", ".avif"}
)
"""What is an image by its name. One that cannot be decoded is unreadable, and not passed over."""
_TABLES: Final = frozenset({"fer2013.csv", "fer2013.csv.gz", "icml_face_data.csv"})


class Item(NamedTuple):
    """One image as a layout gives it.

    Attributes:
        split: `train`, `validation` or `test`.
        label: Index into `EMOTIONS`.
        name: Its path in the data set, or `row 123` of the table (1 is the first after the header).
        pixels: uint8 (H, W) gray 0-255, or None when it could not be decoded.
        votes: FER+'s ten votes in the order of `VOTE_COLUMNS`, where they were given.
    """

    split: str
    label: int
    name: str
    pixels: NDArray[np.uint8] | None
    votes: tuple[int, ...] | None = None


def read_layout(path: Path, votes: Path | None) -> Iterator[Item]:
    """Tells the layout of `path` and reads it.

    Raises:
        DataError: The path, its layout, a class, a column or a row is not as it should be.
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
    raise DataError("is neither a folder, a .zip, a .csv nor a .csv.gz", where=path, remedy=LAYOUT_HINT)


def classes_hint(emotions: tuple[str, ...]) -> str:
    """What `read_classes` takes, as the way out of an error."""
    return f"Give a folder that holds <emotion>/*.png or *.jpg; the emotions are {', '.join(emotions)}"


def read_classes(path: Path, emotions: tuple[str, ...] = EMOTIONS) -> Iterator[Item]:
    """Reads a folder of `<emotion>/*.{png,jpg}` without splits, as `test`; labels are indices into `emotions`.

    An emotion's images may lie in folders of their own, such as one for each person.

    Raises:
        DataError: No such folder, an unknown emotion, or an image outside of the emotions' folders.
    """
    hint = classes_hint(emotions)
    if not path.is_dir():
        raise DataError("no such folder", where=path, remedy=hint)
    for name in filter(_is_image, _names(path)):
        emotion, below, _ = name.partition("/")
        if not below:
            raise DataError(f"{name} does not lie in an emotion's folder", where=path, remedy=hint)
        yield Item("test", _label(emotion, path, emotions, hint), name, decode(_content(path / name)))


def decode(encoded: bytes) -> NDArray[np.uint8] | None:
    """Decodes an image in any format of OpenCV's to uint8 (H, W) gray, or None if it is none."""
    if not encoded:
        return None
    try:
        gray = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_GRAYSCALE)
    except cv2.error:  # a header that promises more pixels than OpenCV accepts
        return None
    return None if gray is None else np.asarray(gray, np.uint8)


def _read_folder(path: Path, votes: Path | None) -> Iterator[Item]:
    for name in sorted(_TABLES):
        if (path / name).is_file():
            return _read_table_file(path / name, votes)
    return _read_images(_names(path), lambda name: _content(path / name), path, votes)


def _names(folder: Path) -> list[str]:
    """The paths of all below it, folders with a slash at their end, as a zip file has them."""
    return sorted(path.relative_to(folder).as_posix() + "/" * path.is_dir() for path in _below(folder))


def _content(path: Path) -> bytes:
    """Of a file; nothing where a link leads nowhere, or to what is no file."""
    return path.read_bytes() if path.is_file() else b""


def _below(folder: Path, around: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All folders and files, also those that links lead to, but not what leads back to a folder `around` it."""
    here = folder.resolve()
    if here not in around:
        for path in folder.iterdir():
            yield path
            if path.is_dir():
                yield from _below(path, (*around, here))


def _read_zip(path: Path, votes: Path | None) -> Iterator[Item]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(archive.namelist())
            table = next((name for name in names if PurePosixPath(name).name in _TABLES), None)
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
        raise _damaged_zip(path, error) from error  # bzip2's own fault
    except (RuntimeError, NotImplementedError) as error:  # a password, a method of compression that Python lacks
        raise DataError(f"cannot be unpacked ({error})", where=path, remedy="Unpack it and give the folder") from error


def _damaged_zip(path: Path, error: Exception) -> DataError:
    return DataError(f"is not a whole zip file ({error})", where=path, remedy="Download it again")


def _read_images(names: list[str], read: Callable[[str], bytes], path: Path, votes: Path | None) -> Iterator[Item]:
    """Reads the images among `names`, which also holds folders and other files."""
    if votes is not None:
        raise DataError("FER+ votes share the row order of the challenge table only", where=votes,
                        remedy=f"Give fer2013.csv in place of {path.name}")  # fmt: skip
    empty = {PurePosixPath(name).name.lower() for name in names} & _FOLDERS.keys()
    folders: dict[str, tuple[str, ...]] = {}  # by the split that each stands for
    for name in filter(_is_image, names):
        parts = PurePosixPath(name).parts
        if len(parts) < 3 or parts[-3].lower() not in _FOLDERS:
            raise DataError(f"{name} does not lie in a split's folder", where=path, remedy=LAYOUT_HINT)
        folder = parts[-3].lower()
        empty.discard(folder)
        split = _FOLDERS[folder]
        if folders.setdefault(split, parts[:-2]) != parts[:-2]:
            places = " and ".join(str(PurePosixPath(*place)) for place in (folders[split], parts[:-2]))
            raise DataError(f"holds {places}: images of one may be among those that judge the other", where=path,
                            remedy="Give a folder with one data set, and one folder for each split")  # fmt: skip
        if split == "test":  # where the Kaggle folder has two splits, which the files' names tell apart
            split = next((s for usage, s in _USAGES.items() if parts[-1].startswith(f"{usage}_")), split)
        yield Item(split, _label(parts[-2], path), name, decode(read(name)))
    if empty:
        raise DataError(f"the folder {', '.join(sorted(empty))} holds no image", where=path, remedy=LAYOUT_HINT)


def _is_image(name: str) -> bool:
    # macOS puts files called ._<name> beside the real ones, in a zip under __MACOSX/.
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
            raise DataError(
                f"is not a whole compressed file ({error})", where=path, remedy="Download it again"
            ) from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"is no table of text ({error})", where=path, remedy=LAYOUT_HINT) from error


def _read_table(lines: TextIO, path: Path, votes: Path | None) -> Iterator[Item]:
    # The pixels of one row take up to 9,200 characters, under the csv module's limit of 131,072.
    rows = csv.DictReader(lines)
    columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    missing = [name for name in ("emotion", "pixels", "usage") if name not in columns]
    if missing:
        found = ", ".join(columns) or "none"
        raise DataError(f"has no column {', '.join(missing)} (found: {found})", where=path, remedy=LAYOUT_HINT)
    all_votes = None if votes is None else _read_votes(votes)
    count = 0
    for count, row in enumerate(rows, 1):
        if all_votes is not None and count > len(all_votes):
            break
        if all_votes is not None and all_votes[count - 1].usage != row[columns["usage"]]:
            raise DataError(f"row {count} is of another split than in {path.name}", where=votes,
                            remedy="FER+ votes go with the rows of the original table in their order")  # fmt: skip
        item = _table_item(row[columns["emotion"]], row[columns["pixels"]], row[columns["usage"]], f"row {count}", path)
        yield item if all_votes is None else item._replace(votes=all_votes[count - 1].counts)
    if all_votes is not None and count != len(all_votes):
        raise DataError(f"has {len(all_votes)} rows where {path.name} has another number", where=votes,
                        remedy="FER+ votes go with the original table of 35,887 rows")  # fmt: skip


def _table_item(emotion: str, pixels: str, usage: str, name: str, path: Path) -> Item:
    if usage not in _USAGES:
        raise DataError(f"{name}: unknown Usage {usage!r}", where=path, remedy=f"Usage is one of {', '.join(_USAGES)}")
    if emotion not in _NUMBERS:
        raise DataError(f"{name}: unknown emotion {emotion!r}", where=path, remedy=f"emotion is 0 to {_NUMBERS[-1]}")
    return Item(_USAGES[usage], int(emotion), name, _parse_pixels(pixels or ""))


def _parse_pixels(text: str) -> NDArray[np.uint8] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # numpy 1 only warns of text that is no number
            flat = np.fromstring(text, np.int64, sep=" ")  # five times faster than splitting in Python
    except (ValueError, DeprecationWarning):
        return None
    if flat.size != SIZE_PX * SIZE_PX or flat.min() < 0 or flat.max() > 255:
        return None
    return flat.astype(np.uint8).reshape(SIZE_PX, SIZE_PX)


class _Votes(NamedTuple):
    """A row of FER+'s table."""

    usage: str
    counts: tuple[int, ...]


def _read_votes(path: Path) -> list[_Votes]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            return [_row_of_votes(row, rows.line_num, path) for row in rows]
    except FileNotFoundError as error:
        raise DataError("no such file", where=path, remedy=_VOTES_HINT) from error
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=path, remedy=_VOTES_HINT) from error
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"is not FER+'s table ({error})", where=path, remedy=_VOTES_HINT) from error


def _row_of_votes(row: Mapping[str, str], line: int, path: Path) -> _Votes:
    counts = tuple(int(row[column]) for column in VOTE_COLUMNS)
    if min(counts) < 0:
        raise DataError(
            f"line {line}: {min(counts)} votes", where=path, remedy=f"Correct it, or take the original: {_VOTES_HINT}"
        )
    return _Votes(row["Usage"], counts)
