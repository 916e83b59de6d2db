"""Reading FER-2013 in each layout, and the errors for invalid data."""

from __future__ import annotations

import gzip
import re
import shutil
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.contract import EMOTIONS
from tests.trainer.conftest import USAGES
from trainer.data import load_dataset, load_folder
from trainer.errors import DataError
from trainer.labels import FERPLUS_EMOTIONS
from trainer.layouts import decode


def test_every_layout_gives_the_same_data_set(any_layout: Path) -> None:
    """All layouts yield the same data set."""
    dataset = load_dataset(any_layout)
    assert {name: len(faces) for name, faces in dataset.splits.items()} == {"train": 28, "validation": 14, "test": 7}
    for faces in dataset.splits.values():
        assert np.bincount(faces.labels).tolist() == [len(faces) // 7] * 7
        assert faces.images.shape == (len(faces), 48, 48)
        assert len(set(faces.names)) == len(faces)
    assert dataset.unreadable == dataset.resized == ()


def test_pixels_of_the_table_are_unchanged(table: Path, plain_folder: Path) -> None:
    """The table and lossless image files yield the same pixels."""
    from_table, from_files = load_dataset(table), load_dataset(plain_folder)
    for split, faces in from_table.splits.items():
        assert {image.tobytes() for image in faces.images} == {i.tobytes() for i in from_files.split(split).images}


def test_images_are_named_by_path_or_row(kaggle_folder: Path, table: Path) -> None:
    """Images are named by path within the data set, or by row of the table."""
    name = load_dataset(kaggle_folder).split("validation").names[0]
    assert (kaggle_folder / name).name.startswith("PublicTest_")
    assert load_dataset(table).split("validation").names[0] == "row 29"


def test_table_with_byte_order_mark_or_spaces_in_the_header(table: Path) -> None:
    """The byte order mark of Excel and the spaces in the header of Kaggle's other edition are accepted."""
    text = table.read_text().replace("emotion,pixels,Usage", "emotion, pixels, Usage")
    table.write_text(text, encoding="utf-8-sig")
    assert len(load_dataset(table).split("train")) == 28


def test_suffixes_in_upper_case(table: Path, table_gz: Path, kaggle_zip: Path) -> None:
    """File names in upper case, as written by Windows and cameras, are recognized."""
    for path in (table, table_gz, kaggle_zip):
        capital = path.rename(path.with_name(path.name.upper()))
        assert len(load_dataset(capital).split("train")) == 28


def test_the_folder_determines_the_split(kaggle_folder: Path) -> None:
    """Training images moved to `val` are validation images, even with Kaggle's names."""
    aside = kaggle_folder / "val" / "happy"
    aside.mkdir(parents=True)
    for image in sorted((kaggle_folder / "train" / "happy").iterdir())[:2]:
        image.rename(aside / image.name)
    sizes = {name: len(load_dataset(kaggle_folder).split(name)) for name in ("train", "validation", "test")}
    by_usage = {usage: len(EMOTIONS) * count for usage, count in USAGES.items()}
    expected = (by_usage["Training"] - 2, by_usage["PublicTest"] + 2, by_usage["PrivateTest"])
    assert tuple(sizes.values()) == expected


def test_emotion_aliases_and_metadata_files_of_macos(plain_folder: Path) -> None:
    """`happiness` is an alias of happy, and the metadata files of macOS are ignored."""
    (plain_folder / "train" / "happy").rename(plain_folder / "train" / "Happiness")
    shadow = plain_folder / "__MACOSX" / "train" / "angry" / "._0.png"
    shadow.parent.mkdir(parents=True)
    shadow.write_bytes(b"\0\5\x16\7")
    dataset = load_dataset(plain_folder)
    assert (dataset.split("train").labels == EMOTIONS.index("happy")).sum() == 4
    assert dataset.unreadable == ()


def test_votes_stay_with_their_row(table: Path, votes: Path) -> None:
    """FER+ votes are kept with their images in splits and subsets."""
    lines = votes.read_text().splitlines()
    lines[29] = "PublicTest,fer0000028.png,0,0,0,0,0,0,0,0,1,9"
    votes.write_text("\n".join(lines))
    validation = load_dataset(table, votes).split("validation")
    assert validation.votes is not None
    assert validation.votes[0].tolist() == [0] * 8 + [1, 9]
    chosen = validation.take(np.array([3, 0])).votes
    assert chosen is not None
    assert chosen[:, 9].tolist() == [0, 9]


def test_damaged_images_are_skipped_with_a_warning(kaggle_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Truncated and undecodable images are skipped with a warning that counts them."""
    victim = next((kaggle_folder / "train" / "fear").iterdir())
    victim.write_bytes(victim.read_bytes()[:-200])
    empty = next((kaggle_folder / "train" / "sad").iterdir())
    empty.write_bytes(b"")
    phone = next((kaggle_folder / "train" / "happy").iterdir()).rename(kaggle_folder / "train" / "happy" / "phone.HEIC")
    phone.write_bytes(b"\0\0\0\x18ftypheic")
    dataset = load_dataset(kaggle_folder)
    assert set(dataset.unreadable) == {f"train/fear/{victim.name}", f"train/sad/{empty.name}", "train/happy/phone.HEIC"}
    assert len(dataset.split("train")) == 25
    assert "skipped 3 unreadable images in" in caplog.text


def test_folders_may_be_links(plain_folder: Path, tmp_path: Path) -> None:
    """Symbolic links to folders are followed, but not in cycles."""
    there = tmp_path / "elsewhere"
    (plain_folder / "train" / "angry").rename(there)
    (plain_folder / "train" / "angry").symlink_to(there)
    (there / "back").symlink_to(plain_folder)
    (plain_folder / "val").rename(plain_folder / "valid")
    dataset = load_dataset(plain_folder)
    assert {name: len(faces) for name, faces in dataset.splits.items()} == {"train": 28, "validation": 14, "test": 7}


@pytest.mark.parametrize("pixels", ["", "1 2 3", "x " * 2304, "1 " * 2303 + "1.5", "1 " * 2303 + "300", "-1 " * 2304])
def test_damaged_rows_are_skipped_with_a_warning(table: Path, pixels: str) -> None:
    """A row whose pixels are too few, out of range or not numbers is skipped."""
    with table.open("a") as file:
        file.write(f"3,{pixels},Training\n")
    dataset = load_dataset(table)
    assert dataset.unreadable == ("row 50",)
    assert len(dataset.split("train")) == 28


def test_images_of_other_sizes_are_resized_and_listed(plain_folder: Path) -> None:
    """Larger color images are converted and resized."""
    picture = np.full((120, 90, 3), (0, 0, 255), np.uint8)
    assert cv2.imwrite(str(plain_folder / "train" / "happy" / "big.png"), picture)
    dataset = load_dataset(plain_folder)
    assert dataset.resized == ("train/happy/big.png",)
    train = dataset.split("train")
    image = train.images[train.names.index("train/happy/big.png")]
    assert set(image.ravel().tolist()) == {76}  # luma of pure red


def test_folder_of_faces_without_splits(tmp_path: Path) -> None:
    """Users' own images can be evaluated, in one folder per emotion."""
    for emotion, size in (("happy", 300), ("anger", 20)):
        (tmp_path / emotion).mkdir()
        assert cv2.imwrite(str(tmp_path / emotion / "me.jpg"), np.zeros((size, size), np.uint8))
    faces = load_folder(tmp_path).split("test")
    assert dict(zip(faces.names, faces.labels.tolist(), strict=True)) == {"anger/me.jpg": 0, "happy/me.jpg": 3}


def test_emotion_folders_may_have_subfolders(tmp_path: Path) -> None:
    """Subfolders, e.g. one per person, are read; a folder with the suffix of an image is not an image."""
    write_gray(tmp_path / "happy" / "anna" / "1.png", tmp_path / "happy" / "2.png")
    (tmp_path / "happy" / "folder.jpg").mkdir()
    assert load_folder(tmp_path).split("test").names == ("happy/2.png", "happy/anna/1.png")


def test_invalid_folders_without_splits_are_a_clear_error(tmp_path: Path) -> None:
    """The remedy describes the folder layout and lists the classes of the model."""
    ferplus = r"Give a folder of <emotion>/\*\.png or \*\.jpg; the emotions are .*contempt"
    with pytest.raises(DataError, match=rf"contains no readable image\. {ferplus}"):
        load_folder(tmp_path, FERPLUS_EMOTIONS)
    write_gray(tmp_path / "own" / "hungry" / "a.png", tmp_path / "flat" / "a.png")
    with pytest.raises(DataError, match=rf"unknown emotion 'hungry'\. {ferplus}"):
        load_folder(tmp_path / "own", FERPLUS_EMOTIONS)
    with pytest.raises(DataError, match=rf"a\.png is not in an emotion's folder\. {ferplus}"):
        load_folder(tmp_path / "flat", FERPLUS_EMOTIONS)


def test_folders_and_links_with_image_names(plain_folder: Path) -> None:
    """A folder with an image's name is skipped, also in a zip; a broken link is an unreadable image."""
    (plain_folder / "train" / "happy" / "folder.jpg").mkdir()
    packed = shutil.make_archive(str(plain_folder.with_name("packed")), "zip", plain_folder)
    assert load_dataset(Path(packed)).unreadable == ()
    (plain_folder / "train" / "happy" / "link.jpg").symlink_to("gone.jpg")
    assert load_dataset(plain_folder).unreadable == ("train/happy/link.jpg",)


def test_error_for_a_missing_split_lists_the_existing_ones(kaggle_folder: Path) -> None:
    """The error for a missing split lists those that exist."""
    shutil.rmtree(kaggle_folder / "test")
    with pytest.raises(DataError, match=r"kaggle: has no test split \(found: train\)"):
        load_dataset(kaggle_folder).split("test")


class TestBadInput:
    """Each raises a DataError (exit code 10) that names the path."""

    def refused(self, path: Path, reason: str, votes: Path | None = None) -> None:
        with pytest.raises(DataError, match=reason) as caught:
            load_dataset(path, votes)
        assert str(caught.value).startswith(str(votes if caught.value.where == votes else path))
        assert caught.value.remedy
        assert caught.value.exit_code == 10

    def test_missing(self, tmp_path: Path) -> None:
        """The path does not exist."""
        self.refused(tmp_path / "nowhere", "no such file or folder")

    def test_other_file(self, tmp_path: Path) -> None:
        """The file has another suffix."""
        (tmp_path / "data.tar").touch()
        self.refused(tmp_path / "data.tar", "is not a folder, .zip")

    def test_unknown_class(self, kaggle_folder: Path) -> None:
        """A folder is not named after an emotion."""
        (kaggle_folder / "train" / "fear").rename(kaggle_folder / "train" / "hungry")
        self.refused(kaggle_folder, "unknown emotion 'hungry'")

    def test_image_outside_of_the_splits(self, kaggle_folder: Path) -> None:
        """An image is outside of the split folders."""
        shutil.copytree(kaggle_folder / "train" / "fear", kaggle_folder / "fear")
        self.refused(kaggle_folder, "fear/Training_.* is not in a split's folder")

    def test_two_data_sets_at_once(self, kaggle_folder: Path) -> None:
        """With two copies of the data set, images would count twice, or leak into the evaluation."""
        for version in ("v1", "v2"):
            shutil.copytree(kaggle_folder / "train", kaggle_folder / version / "train")
        shutil.rmtree(kaggle_folder / "train")
        self.refused(kaggle_folder, "contains both v1/train and v2/train: training images may leak")

    def test_two_folders_of_one_split(self, plain_folder: Path) -> None:
        """Two folders for the same split are ambiguous."""
        shutil.copytree(plain_folder / "val", plain_folder / "validation")
        self.refused(plain_folder, "contains both val and validation: .* one folder per split")

    @pytest.mark.parametrize("zipped", [False, True])
    def test_empty_split(self, kaggle_folder: Path, tmp_path: Path, zipped: bool) -> None:
        """The folder of a split contains no images."""
        shutil.rmtree(kaggle_folder / "test")
        (kaggle_folder / "test" / "happy").mkdir(parents=True)
        path = zip_of(kaggle_folder, tmp_path) if zipped else kaggle_folder
        self.refused(path, "the folder test contains no images")

    def test_split_of_damaged_images(self, kaggle_folder: Path) -> None:
        """No image of a split is readable."""
        for file in (kaggle_folder / "test").rglob("PrivateTest_*"):
            file.write_bytes(b"gone")
        self.refused(kaggle_folder, "contains no readable image in the test split")

    def test_nothing(self, tmp_path: Path) -> None:
        """The folder is empty."""
        self.refused(tmp_path, "contains no readable image")

    @pytest.mark.parametrize("kept", [0.3, 0.999])
    def test_truncated_zip(self, kaggle_zip: Path, kept: float) -> None:
        """The download stopped early."""
        content = kaggle_zip.read_bytes()
        kaggle_zip.write_bytes(content[: int(len(content) * kept)])
        self.refused(kaggle_zip, "not a valid zip file")

    def test_damaged_zip(self, kaggle_zip: Path) -> None:
        """Bytes within the archive were changed."""
        content = bytearray(kaggle_zip.read_bytes())
        content[500:700] = bytes(200)
        kaggle_zip.write_bytes(content)
        self.refused(kaggle_zip, "not a valid zip file")

    @pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    def test_damaged_zip_of_another_method(self, kaggle_folder: Path, tmp_path: Path, method: int) -> None:
        """Each compression method raises different errors for damaged data."""
        image = next((kaggle_folder / "train" / "fear").iterdir())
        with zipfile.ZipFile(packed := tmp_path / "packed.zip", "w", method) as archive:
            archive.write(image, "train/fear/a.jpg")
        content = bytearray(packed.read_bytes())
        content[70:110] = bytes(40)
        packed.write_bytes(content)
        self.refused(packed, r"is not a valid zip file \(.+\)\. Download it again")

    def test_damaged_table_in_a_zip(self, table_zip: Path) -> None:
        """A compressed table is damaged."""
        content = bytearray(table_zip.read_bytes())
        content[2000:2100] = b"\xff" * 100
        table_zip.write_bytes(content)
        self.refused(table_zip, "not a valid zip file")

    def test_zip_with_a_password(self, kaggle_zip: Path) -> None:
        """The zip file is encrypted."""
        content = bytearray(kaggle_zip.read_bytes())
        for entry in re.finditer(rb"PK\x01\x02", bytes(content)):
            content[entry.start() + 8] |= 1  # the flag of encryption in the central directory
        kaggle_zip.write_bytes(content)
        self.refused(kaggle_zip, "cannot be unpacked .*password")

    def test_truncated_gzip(self, table_gz: Path) -> None:
        """The download of the table stopped early."""
        table_gz.write_bytes(table_gz.read_bytes()[:-1000])
        self.refused(table_gz, "not a valid gzip file")

    def test_file_that_is_not_gzip(self, table_gz: Path, table: Path) -> None:
        """An uncompressed table has the suffix .gz."""
        shutil.copy(table, table_gz)
        self.refused(table_gz, "not a valid gzip file")

    def test_wrong_column(self, table: Path) -> None:
        """The table has other columns."""
        table.write_text(table.read_text().replace("emotion,pixels", "emotion,image"))
        self.refused(table, r"has no column pixels \(found: emotion, image, usage\)")

    def test_file_that_is_not_text(self, table: Path) -> None:
        """The table is a binary file."""
        table.write_bytes(gzip.compress(table.read_bytes()))
        self.refused(table, "is not a CSV text file")

    @pytest.mark.parametrize(
        ("row", "reason"),
        [("7,0 0,Training", "row 50: unknown emotion '7'"), ("3,0 0,Practice", "row 50: unknown Usage 'Practice'"),
         ("3", "row 50: unknown Usage None")],
    )  # fmt: skip
    def test_bad_row(self, table: Path, row: str, reason: str) -> None:
        """A row has an unknown emotion or Usage."""
        with table.open("a") as file:
            file.write(row + "\n")
        self.refused(table, reason)

    def test_votes_for_images(self, kaggle_folder: Path, votes: Path) -> None:
        """FER+ votes cannot be joined to image files, which have no row order."""
        self.refused(kaggle_folder, "only be used with the challenge table", votes)

    @pytest.mark.parametrize("change", [-1, 1])
    def test_votes_with_another_number_of_rows(self, table: Path, votes: Path, change: int) -> None:
        """The votes belong to another table."""
        lines = votes.read_text().splitlines()
        votes.write_text("\n".join(lines[:-1] if change < 0 else [*lines, lines[-1]]))
        self.refused(table, "rows, not as many as fer2013.csv", votes)

    def test_votes_in_another_order(self, table: Path, votes: Path) -> None:
        """The rows of the votes or of the table are in another order."""
        header, *lines = votes.read_text().splitlines()
        votes.write_text("\n".join([header, *reversed(lines)]))
        self.refused(table, "row 1 belongs to a different split than in fer2013.csv", votes)

    def test_negative_votes(self, table: Path, votes: Path) -> None:
        """Negative counts are invalid; the error names the line."""
        lines = votes.read_text().splitlines()
        lines[4] = lines[4].replace(",2,0,8,", ",-2,0,8,")
        votes.write_text("\n".join(lines))
        self.refused(table, r"line 5: negative number of votes \(-2\)\. Give the original", votes)

    def test_votes_that_are_none(self, table: Path, tmp_path: Path) -> None:
        """The votes path is the table, a folder, or does not exist."""
        self.refused(table, "no such file", tmp_path / "fer2013new.csv")
        self.refused(table, r"cannot be read \(Is a directory\)\. Give the original FER\+ file", tmp_path)
        with pytest.raises(DataError, match="is not the FER"):
            load_dataset(table, table)


def test_a_header_of_too_many_pixels_is_unreadable() -> None:
    """OpenCV raises an error for such an image, which must not abort reading the others."""
    header = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + (100_000).to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00"
    crc = zlib.crc32(header[12:]).to_bytes(4, "big")
    assert decode(header + crc + b"\x00" * 40) is None


def write_gray(*paths: Path) -> None:
    """Writes an image to each path."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.zeros((48, 48), np.uint8))


def zip_of(folder: Path, tmp_path: Path) -> Path:
    """Zips a folder including empty folders, as file managers do."""
    return Path(shutil.make_archive(str(tmp_path / "packed"), "zip", folder))


def test_real_archive(real_zip: Path) -> None:
    """All images of the original archive are read: 48x48, with every class in every split."""
    dataset = load_dataset(real_zip)
    assert dataset.unreadable == dataset.resized == ()
    assert len(dataset.split("train")) > 700
    for faces in dataset.splits.values():
        assert set(faces.labels.tolist()) == set(range(7))
        assert 20 < faces.images.std() < 100


def test_real_table_with_ferplus_votes(real_table: tuple[Path, Path]) -> None:
    """The original table and FER+ match: each image has ten votes."""
    train = load_dataset(*real_table).split("train")
    assert len(train) == 300
    assert train.images[0, 0, :3].tolist() == [70, 80, 82]
    assert train.votes is not None
    assert set(train.votes.sum(axis=1).tolist()) == {10}
