"""`trainer data check` on a data set with known defects."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from rich.console import Console

from tests.trainer.test_cli import ROOT, TRAINER
from trainer.audit import Audit, audit
from trainer.cli import main
from trainer.data import Dataset, FaceSet, load_dataset
from trainer.text import audit_text

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schema" / "audit.json").read_text())


@pytest.fixture
def faulty(make_faces: Callable[..., FaceSet]) -> Dataset:
    """Train: 0 = 1 (copy, other label), 2 ~ 3 (mirrored), 4 blank. Test: 0 = train 0, 1 ~ train 5 (relit), 2 new."""
    train, test = make_faces([0, 3, 1, 1, 2, 6, 6], seed=1), make_faces([0, 6, 4], seed=2)
    train.images[1] = train.images[0]
    train.images[3] = train.images[2][:, ::-1]
    train.images[4] = 17
    test.images[0] = train.images[0]
    test.images[1] = train.images[5] * 0.7 + 40
    return Dataset(Path("faulty"), {"train": train, "test": test}, ("bad.jpg",), ("big.jpg",))


def test_counts_and_problematic_images(faulty: Dataset) -> None:
    """Every split and class is counted; damaged, resized and blank images are listed."""
    findings = audit(faulty)
    assert findings.counts["train"] == {
        "angry": 1, "disgust": 2, "fear": 1, "happy": 1, "sad": 0, "surprise": 0, "neutral": 2,
    }  # fmt: skip
    assert sum(findings.counts["test"].values()) == 3
    assert (findings.unreadable, findings.resized) == (("bad.jpg",), ("big.jpg",))
    assert [(image.split, image.index, image.emotion) for image in findings.blank] == [("train", 4, "fear")]


def test_duplicates_inside_and_across_splits(faulty: Dataset) -> None:
    """Exact copies and near-duplicates are counted for each pair of splits."""
    overlaps = {(o.of, o.into): (o.exact, o.near) for o in audit(faulty).overlaps}
    assert overlaps == {("train", "train"): (2, 4), ("test", "train"): (1, 2), ("test", "test"): (0, 0)}


def test_groups_and_conflicting_labels(faulty: Dataset) -> None:
    """Duplicates form groups; a photograph with two labels is reported as a conflict."""
    findings = audit(faulty)
    members = [[(image.split, image.index) for image in group.images] for group in findings.groups]
    assert members[0] == [("train", 0), ("train", 1), ("test", 0)]
    assert sorted(members[1:]) == [[("train", 2), ("train", 3)], [("train", 5), ("test", 1)]]
    assert [group.exact for group in findings.groups] == [True, False, False]
    assert findings.conflicts == (findings.groups[0],)
    assert findings.groups[0].emotions == {"angry": 2, "happy": 1}


def test_ferplus_majority_labels_are_counted(table: Path, votes: Path) -> None:
    """With FER+ votes, the images with a strict majority are counted by emotion."""
    findings = audit(load_dataset(table, votes))
    assert findings.ferplus_counts is not None
    assert findings.ferplus_counts["train"]["surprise"] == sum(findings.ferplus_counts["train"].values()) == 28


def test_many_copies_of_one_picture(make_faces: Callable[..., FaceSet]) -> None:
    """Two thousand copies of a placeholder image are one group, not two million pairs."""
    faces = make_faces([0, 1])
    many = faces.take(np.array([0] * 2000 + [1]))
    findings = audit(Dataset(Path("many"), {"train": many}))
    assert [len(group.images) for group in findings.groups] == [2000]
    assert (findings.overlaps[0].exact, findings.overlaps[0].near) == (2000, 2000)


def test_only_blank_images(make_faces: Callable[..., FaceSet]) -> None:
    """A data set of black images is reported as blank."""
    faces = replace(make_faces([0, 1]), images=np.zeros((2, 48, 48), np.uint8))
    findings = audit(Dataset(Path("black"), {"train": faces}))
    assert len(findings.blank) == 2
    assert not findings.groups
    assert not findings.overlaps
    assert "black" in text_of(findings)


def test_real_photographs(real_zip: Path) -> None:
    """A slice of the real archive: known counts by class, no damaged image, and splits that overlap as in the whole."""
    findings = audit(load_dataset(real_zip))
    counts = findings.counts["train"]
    assert max(counts, key=counts.__getitem__) == "happy"
    assert min(counts, key=counts.__getitem__) == "disgust"
    assert findings.unreadable == ()
    assert all(overlap.exact <= overlap.near for overlap in findings.overlaps)
    jsonschema.validate(findings.to_dict(), SCHEMA)


def test_json_keeps_its_documented_keys(faulty: Dataset) -> None:
    """docs/schema/audit.json describes the whole output."""
    findings = audit(faulty).to_dict()
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(findings, SCHEMA)
    assert findings["duplicates"]["conflicting_groups"] == 1


def text_of(findings: Audit) -> str:
    """Returns the tables as printed."""
    console = Console(width=120)
    with console.capture() as capture:
        console.print(audit_text(findings))
    return capture.get()


def test_tables_list_all_findings(faulty: Dataset) -> None:
    """The tables list all findings."""
    text = text_of(audit(faulty))
    for expected in (
        "Images in faulty",
        "bad.jpg",
        "big.jpg",
        "3 groups of duplicates, the largest with 3 images",
        "1 of them",
    ):
        assert expected in text


def test_command_writes_report_and_plots(kaggle_zip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`trainer data check` prints JSON and writes the same, with two plots, to the report folder."""
    report = tmp_path / "new" / "report"
    assert main(["data", "check", str(kaggle_zip), "--format", "json", "--report", str(report)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((report / "audit.json").read_text())
    assert sum(printed["counts"]["train"].values()) == 28
    for name in ("class_balance.png", "contact_sheet.png"):
        picture = cv2.imread(str(report / name))
        assert picture is not None
        assert picture.std() > 10


def test_command_prints_tables(table: Path, votes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without further options `trainer data check` prints tables."""
    assert main(["data", "check", str(table), "--votes", str(votes)]) == 0
    printed = capsys.readouterr().out
    assert "Images with a majority label in FER+" in printed
    assert "Images with duplicates" in printed


@pytest.mark.parametrize("format_", ["text", "json"])
def test_file_names_are_printed_verbatim(format_: str, kaggle_folder: Path, tmp_path: Path) -> None:
    """[Brackets] and :colons: are not markup, and file names may not be UTF-8."""
    latin = os.fsdecode(b"caf\xe9.jpg")
    for name in ("me [copy].jpg", ":cat:.jpg", latin):
        (kaggle_folder / "train" / "happy" / name).write_bytes(b"no image")
    report = tmp_path / "report"
    command = [*TRAINER, "data", "check", str(kaggle_folder), "--format", format_, "--report", str(report)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    written = (report / "audit.json").read_text()
    for text in (printed, written):
        assert "me [copy].jpg" in text
        assert ":cat:.jpg" in text
        assert r"caf\udce9.jpg" in text
    assert latin in [Path(name).name for name in json.loads(written)["unreadable"]]
