"""A model bundle: what it promises is checked, and what is wrong is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from edge.classify import BundleClassifier
from edge.contract import BundleCorrupt, BundleError, BundleIncompatible, BundleMissing, load_bundle


@pytest.fixture
def copy(bundle_path: Path, tmp_path: Path) -> Path:
    """A copy of the committed bundle that a test may damage."""
    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


Edit = Callable[[Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def edit(copy: Path) -> Edit:
    """Changes the copy's manifest."""

    def edit(change: Callable[[dict[str, Any]], None]) -> None:
        path = copy / "manifest.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return edit


def test_the_committed_bundle_is_whole_and_computes_what_it_promises(bundle_path: Path) -> None:
    """All files match their checksums, and the self-test passes on the installed runtime."""
    classifier = BundleClassifier(bundle_path)
    assert classifier.bundle.manifest.input.dtype == "int8"
    assert len(classifier.bundle.model) < 1_000_000


def test_int8_input_is_the_pixel_itself(bundle_path: Path) -> None:
    """Quantizing the input costs nothing: one gray level is one step, black is -128 and white is 127."""
    classifier = BundleClassifier(bundle_path)
    np.testing.assert_array_equal(classifier._model._table, np.arange(-128, 128))


def test_no_faces_give_no_logits(bundle_path: Path) -> None:
    """A frame without faces is no special case."""
    assert BundleClassifier(bundle_path).classify(np.empty((0, 48, 48), np.uint8)).shape == (0, 7)


def test_a_missing_folder_and_a_missing_file_are_named(copy: Path) -> None:
    """The error contains the missing path."""
    with pytest.raises(BundleMissing, match="elsewhere"):
        load_bundle(copy / "elsewhere")
    (copy / "golden.npz").unlink()
    with pytest.raises(BundleMissing, match=r"golden\.npz"):
        load_bundle(copy)


def test_a_single_changed_bit_is_noticed(copy: Path) -> None:
    """A damaged model is never run."""
    model = copy / "classifier.int8.tflite"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"classifier\.int8\.tflite.*sha256"):
        load_bundle(copy)


def test_a_truncated_file_is_noticed(copy: Path) -> None:
    """A truncated file is reported with both sizes."""
    model = copy / "classifier.int8.tflite"
    model.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(BundleCorrupt, match="1000 bytes"):
        load_bundle(copy)


def test_a_model_that_would_see_other_light_fails_the_self_test(copy: Path, edit: Edit) -> None:
    """As with an agent that does not support `intensity`: one of the golden inputs is dark."""
    edit(lambda document: document["preprocessing"].pop("intensity"))
    with pytest.raises(BundleCorrupt, match="self-test"):
        BundleClassifier(copy)


def test_bounds_of_light_that_hold_nothing_are_named(edit: Edit, copy: Path) -> None:
    """A lower limit above the upper one is an error."""
    edit(lambda document: document["preprocessing"]["intensity"].update(mean_low=200))
    with pytest.raises(BundleCorrupt, match=r"preprocessing\.intensity: .*low must not be above high"):
        load_bundle(copy)


def test_wrong_golden_vectors_fail_the_self_test(copy: Path, edit: Edit) -> None:
    """A runtime that computes different results is detected before it is used."""
    with np.load(copy / "golden.npz") as arrays:
        inputs, logits = arrays["inputs"], arrays["logits"]
    np.savez(copy / "golden.npz", inputs=inputs, logits=logits + 5)

    def forget_checksum(document: dict[str, Any]) -> None:
        content = (copy / "golden.npz").read_bytes()
        document["files"]["golden.npz"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    edit(forget_checksum)
    with pytest.raises(BundleCorrupt, match="self-test"):
        BundleClassifier(copy)


def test_another_major_schema_is_refused_and_a_newer_minor_one_is_read(copy: Path, edit: Edit) -> None:
    """An old agent rejects a new format, and ignores added fields."""
    edit(lambda document: document.update(schema_version="1.9", novelty={"a": 1}))
    load_bundle(copy)
    edit(lambda document: document.update(schema_version="2.0"))
    with pytest.raises(BundleIncompatible, match=r"2\.0.*Update the agent"):
        load_bundle(copy)


def test_a_bundle_for_a_newer_agent_is_refused(copy: Path, edit: Edit) -> None:
    """The error names both versions."""
    edit(lambda document: document.update(minimum_agent_version="99.0.0"))
    with pytest.raises(BundleIncompatible, match=r"99\.0\.0"):
        BundleClassifier(copy)


def test_labels_are_found_by_their_names(copy: Path, bundle_path: Path, edit: Edit) -> None:
    """Sad is never published as happy because two lists differ in order."""
    faces = np.random.default_rng(1).integers(0, 256, (3, 48, 48)).astype(np.uint8)
    before = BundleClassifier(bundle_path).classify(faces)
    edit(lambda document: document["labels"].__setitem__(slice(3, 5), ["sad", "happy"]))
    np.testing.assert_array_equal(BundleClassifier(copy).classify(faces), before[:, [0, 1, 2, 4, 3, 5, 6]])


def test_a_bundle_that_lacks_an_emotion_is_refused(copy: Path, edit: Edit) -> None:
    """The error names what the bundle has and what the agent needs."""
    edit(lambda document: document["labels"].__setitem__(3, "joy"))
    with pytest.raises(BundleIncompatible, match=r"joy.*needs angry"):
        BundleClassifier(copy)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda document: document.pop("labels"), "labels"),
        (lambda document: document["calibration"].update(temperature=-1), "calibration.temperature"),
        (lambda document: document["files"].update({"../../etc/passwd": {"sha256": "0" * 64, "size": 0}}), "passwd"),
        (lambda document: document.update(model="other.tflite"), "other.tflite"),
        (lambda document: document["input"].update(dtype="float64"), "input.dtype"),
        (lambda document: document["input"].update(height_px=96), "input.*must be square, not 48x96 pixels"),
    ],
)
def test_a_faulty_manifest_is_told_by_the_field(
    copy: Path, edit: Edit, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    """The error names the invalid field."""
    edit(change)
    with pytest.raises(BundleCorrupt, match=named):
        load_bundle(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema_version": 3}'])
def test_what_is_no_manifest_is_a_clear_error(copy: Path, content: bytes) -> None:
    """Any content of manifest.json that is not a manifest gives a clear error."""
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_bundle(copy)


def test_the_committed_manifest_follows_the_published_schema(bundle_path: Path) -> None:
    """The committed manifest conforms to docs/schema/manifest.json."""
    schema = json.loads((Path(__file__).parents[3] / "docs" / "schema" / "manifest.json").read_text())
    jsonschema.validate(json.loads((bundle_path / "manifest.json").read_text()), schema)
