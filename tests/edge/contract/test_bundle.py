"""Loading of model bundles: checks of the manifest and the files, and the self-test."""

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
def bundle_copy(bundle_path: Path, tmp_path: Path) -> Path:
    """A copy of the committed bundle that a test may damage."""
    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


EditManifest = Callable[[Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def edit_manifest(bundle_copy: Path) -> EditManifest:
    """Returns a function that changes the manifest of the copy."""

    def edit_manifest(change: Callable[[dict[str, Any]], None]) -> None:
        path = bundle_copy / "manifest.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return edit_manifest


def test_the_committed_bundle_passes_checksums_and_self_test(bundle_path: Path) -> None:
    """All files match their checksums, and the self-test passes on the installed runtime."""
    classifier = BundleClassifier(bundle_path)
    assert classifier.bundle.manifest.input.dtype == "int8"
    assert len(classifier.bundle.model) < 1_000_000


def test_int8_input_is_the_pixel_minus_128(bundle_path: Path) -> None:
    """Quantizing the input loses nothing: one gray level is one step, black is -128 and white is 127."""
    classifier = BundleClassifier(bundle_path)
    np.testing.assert_array_equal(classifier._model._table, np.arange(-128, 128))


def test_no_faces_give_no_logits(bundle_path: Path) -> None:
    """A frame without faces gives an empty array."""
    assert BundleClassifier(bundle_path).classify(np.empty((0, 48, 48), np.uint8)).shape == (0, 7)


def test_a_missing_folder_and_a_missing_file_are_named(bundle_copy: Path) -> None:
    """The error contains the missing path."""
    with pytest.raises(BundleMissing, match="elsewhere"):
        load_bundle(bundle_copy / "elsewhere")
    (bundle_copy / "golden.npz").unlink()
    with pytest.raises(BundleMissing, match=r"golden\.npz"):
        load_bundle(bundle_copy)


def test_a_single_changed_bit_is_detected(bundle_copy: Path) -> None:
    """A damaged model is never run."""
    model = bundle_copy / "classifier.int8.tflite"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    with pytest.raises(BundleCorrupt, match=r"classifier\.int8\.tflite.*sha256"):
        load_bundle(bundle_copy)


def test_a_truncated_file_is_detected(bundle_copy: Path) -> None:
    """The error for a truncated file contains its size."""
    model = bundle_copy / "classifier.int8.tflite"
    model.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(BundleCorrupt, match="1000 bytes"):
        load_bundle(bundle_copy)


def test_missing_intensity_normalization_fails_the_self_test(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    """One golden input is dark, so an agent that does not support `intensity` does not pass."""
    edit_manifest(lambda document: document["preprocessing"].pop("intensity"))
    with pytest.raises(BundleCorrupt, match="self-test"):
        BundleClassifier(bundle_copy)


def test_inverted_intensity_limits_are_an_error(edit_manifest: EditManifest, bundle_copy: Path) -> None:
    """A lower limit above the upper one is an error."""
    edit_manifest(lambda document: document["preprocessing"]["intensity"].update(mean_low=200))
    with pytest.raises(BundleCorrupt, match=r"preprocessing\.intensity: .*low must not be above high"):
        load_bundle(bundle_copy)


def test_wrong_golden_vectors_fail_the_self_test(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    """A runtime that computes different results is detected before it is used."""
    with np.load(bundle_copy / "golden.npz") as arrays:
        inputs, logits = arrays["inputs"], arrays["logits"]
    np.savez(bundle_copy / "golden.npz", inputs=inputs, logits=logits + 5)

    def update_checksum(document: dict[str, Any]) -> None:
        content = (bundle_copy / "golden.npz").read_bytes()
        document["files"]["golden.npz"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    edit_manifest(update_checksum)
    with pytest.raises(BundleCorrupt, match="self-test"):
        BundleClassifier(bundle_copy)


def test_another_major_schema_version_is_rejected_and_a_newer_minor_one_is_accepted(
    bundle_copy: Path, edit_manifest: EditManifest
) -> None:
    """An old agent rejects a new format, and ignores added fields."""
    edit_manifest(lambda document: document.update(schema_version="1.9", novelty={"a": 1}))
    load_bundle(bundle_copy)
    edit_manifest(lambda document: document.update(schema_version="2.0"))
    with pytest.raises(BundleIncompatible, match=r"2\.0.*Update the agent"):
        load_bundle(bundle_copy)


def test_a_bundle_for_a_newer_agent_is_rejected(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    """The error contains the agent version that the bundle requires."""
    edit_manifest(lambda document: document.update(minimum_agent_version="99.0.0"))
    with pytest.raises(BundleIncompatible, match=r"99\.0\.0"):
        BundleClassifier(bundle_copy)


def test_logits_are_ordered_by_the_names_of_the_labels(
    bundle_copy: Path, bundle_path: Path, edit_manifest: EditManifest
) -> None:
    """A bundle with another order of labels does not swap emotions, such as sad and happy."""
    faces = np.random.default_rng(1).integers(0, 256, (3, 48, 48)).astype(np.uint8)
    before = BundleClassifier(bundle_path).classify(faces)
    edit_manifest(lambda document: document["labels"].__setitem__(slice(3, 5), ["sad", "happy"]))
    np.testing.assert_array_equal(BundleClassifier(bundle_copy).classify(faces), before[:, [0, 1, 2, 4, 3, 5, 6]])


def test_a_bundle_that_lacks_an_emotion_is_rejected(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    """The error names what the bundle has and what the agent needs."""
    edit_manifest(lambda document: document["labels"].__setitem__(3, "joy"))
    with pytest.raises(BundleIncompatible, match=r"joy.*needs angry"):
        BundleClassifier(bundle_copy)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda document: document.pop("labels"), "labels"),
        (lambda document: document["calibration"].update(temperature=-1), "calibration.temperature"),
        (lambda document: document["files"].update({"../../etc/passwd": {"sha256": "0" * 64, "size": 0}}), "passwd"),
        (lambda document: document.update(model="other.tflite"), "other.tflite"),
        (lambda document: document["input"].update(dtype="float64"), "input.dtype"),
        (lambda document: document["input"].update(height_px=96), "input.*must be square, not 48x96 pixels"),
    ],
)
def test_an_error_in_the_manifest_names_the_field(
    bundle_copy: Path, edit_manifest: EditManifest, change: Callable[[dict[str, Any]], None], expected: str
) -> None:
    """The error names the invalid field."""
    edit_manifest(change)
    with pytest.raises(BundleCorrupt, match=expected):
        load_bundle(bundle_copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"schema_version": 3}'])
def test_invalid_manifest_content_is_an_error(bundle_copy: Path, content: bytes) -> None:
    """The error for a file that is not a manifest names the file."""
    (bundle_copy / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_bundle(bundle_copy)


def test_the_committed_manifest_follows_the_published_schema(bundle_path: Path) -> None:
    """The committed manifest conforms to docs/schema/manifest.json."""
    schema = json.loads((Path(__file__).parents[3] / "docs" / "schema" / "manifest.json").read_text())
    jsonschema.validate(json.loads((bundle_path / "manifest.json").read_text()), schema)
