"""Near-duplicate detection: recall and precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainer.data import FaceSet, load_dataset
from trainer.duplicates import connected_components, is_blank, leaked, near_duplicates, unique_images

Images = NDArray[np.uint8]


def shifted(image: Images) -> Images:
    """Shifts by a pixel right and down, like another crop of the photograph."""
    return np.pad(image, ((1, 0), (1, 0)), mode="edge")[:48, :48]


def relit(image: Images) -> Images:
    """Reduces contrast and brightens."""
    return np.asarray(image * 0.6 + 70, np.uint8)


def compressed(image: Images) -> Images:
    """Compresses with low JPEG quality."""
    return np.asarray(
        cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_GRAYSCALE)
    )


def mirrored(image: Images) -> Images:
    """Mirrors horizontally."""
    return np.ascontiguousarray(image[:, ::-1])


@pytest.mark.parametrize("change", [np.copy, shifted, relit, compressed, mirrored])
def test_modified_copies_are_found(make_faces: Callable[..., FaceSet], change: Callable[[Images], Images]) -> None:
    """Shifted, relit, compressed and mirrored copies are found, and nothing else."""
    images = make_faces([0] * 40).images
    copies = np.array([change(image) for image in images[10:30]])
    assert near_duplicates(images, copies).tolist() == [[i + 10, i] for i in range(20)]
    assert near_duplicates(np.concatenate([images, copies])).tolist() == [[i + 10, i + 40] for i in range(20)]


def test_video_frames_are_matched_by_matrix_product(
    make_faces: Callable[..., FaceSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hundreds of frames of each face: all pairs of the same face are found, and few need template matching."""
    really, alone = cv2.matchTemplate, []

    def match(*arguments: Any) -> NDArray[np.float32]:
        alone.append(arguments)
        return np.asarray(really(*arguments))

    monkeypatch.setattr(cv2, "matchTemplate", match)
    random = np.random.default_rng(0)
    changes = (np.copy, shifted, relit, mirrored)
    faces = np.repeat(make_faces([0, 0]).images, 240, axis=0)
    noisy = np.clip(faces + random.normal(0, 6, faces.shape), 0, 255).astype(np.uint8)
    frames = np.array([changes[number % 4](image) for number, image in enumerate(noisy)])
    i, j = np.triu_indices(len(frames), 1)
    expected = np.stack([i, j], axis=1)[i // 240 == j // 240]
    assert np.array_equal(near_duplicates(frames), expected)
    assert len(alone) < len(expected) / 20
    leaked_frames = leaked(FaceSet(frames[::10], np.zeros(48, np.int64), ("",) * 48), make_faces([0]))
    assert leaked_frames.tolist() == list(range(24))


@pytest.mark.parametrize("change", [shifted, relit, compressed, mirrored])
def test_modified_copies_of_real_faces_are_found(real_zip: Path, change: Callable[[Images], Images]) -> None:
    """On real faces, almost all modified copies are found, with hardly a false positive."""
    images = load_dataset(real_zip).split("validation").images
    images = images[~is_blank(images)]
    found = near_duplicates(images, np.array([change(image) for image in images]))
    own = np.unique(found[found[:, 0] == found[:, 1], 0])
    assert len(own) >= 0.9 * len(images)
    assert len(found) - len(own) <= 0.03 * len(images)


def test_blank_images_are_not_duplicates_of_each_other(make_faces: Callable[..., FaceSet]) -> None:
    """Blank images are not reported as duplicates of each other."""
    faint = np.clip(128 + np.random.default_rng(0).normal(0, 2, (3, 48, 48)), 0, 255).astype(np.uint8)
    images = np.concatenate([np.zeros((2, 48, 48), np.uint8), faint, make_faces([0]).images])
    assert is_blank(images).tolist() == [True] * 5 + [False]
    assert near_duplicates(images).size == 0
    assert near_duplicates(images[:0]).shape == (0, 2)


def test_exact_copies_have_the_same_index(make_faces: Callable[..., FaceSet]) -> None:
    """Images with equal pixels have the same index."""
    a, b = make_faces([0, 0]).images
    first, content = unique_images(np.array([a, b, a, b, b]))
    assert first.tolist() == [0, 1]
    assert content.tolist() == [0, 1, 0, 1, 1]


def test_leaked_test_images(make_faces: Callable[..., FaceSet]) -> None:
    """Each test image with a near-duplicate in the training split is listed once."""
    train, test = make_faces([0] * 6, seed=1), make_faces([0] * 4, seed=2)
    test.images[3], test.images[1] = mirrored(train.images[5]), train.images[0]
    train.images[4] = shifted(train.images[0])
    assert leaked(test, into=train).tolist() == [1, 3]


@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_groups_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    """Two images are in the same group if and only if they are connected by pairs."""
    reach = np.eye(20, dtype=np.int64)
    for a, b in pairs:
        reach[a, b] = reach[b, a] = 1
    for _ in range(5):  # chains of up to 32 pairs
        reach = np.minimum(reach @ reach, 1)
    groups = connected_components(20, np.array(pairs, np.int64).reshape(-1, 2))
    assert ((groups[:, None] == groups[None]) == reach.astype(bool)).all()
