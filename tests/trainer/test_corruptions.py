"""Corruptions are deterministic, and stronger with each severity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.trainer.conftest import blobs
from trainer.corruptions import CORRUPTIONS, SEVERITIES, Corruption, corrupt
from trainer.data import load_dataset

each_corruption = pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    """Forty smooth textures."""
    return blobs(40, seed=7)


def distortions(images: NDArray[np.uint8], corruption: Corruption) -> list[float]:
    """Returns the mean distance from the image in gray levels at each severity."""
    spoilt = (corrupt(images, corruption, severity) for severity in SEVERITIES)
    return [float(np.abs(one.astype(float) - images).mean()) for one in spoilt]


def named(name: str) -> Corruption:
    """Returns a corruption by name."""
    return next(corruption for corruption in CORRUPTIONS if corruption.name == name)


def test_names_are_stable() -> None:
    """The names in the JSON are stable."""
    assert [corruption.name for corruption in CORRUPTIONS] == [
        "brightness", "contrast", "gamma", "low_light", "motion_blur", "defocus_blur", "jpeg", "rotation", "scale",
        "detector_crop", "occlusion",
    ]  # fmt: skip


@each_corruption
def test_corruption_does_not_depend_on_other_images(corruption: Corruption, images: NDArray[np.uint8]) -> None:
    """The result does not depend on order, other images or repetition; the input is not modified."""
    before = images.copy()
    spoilt = corrupt(images, corruption, 3)
    order = np.random.default_rng(0).permutation(len(images))
    np.testing.assert_array_equal(corrupt(images[order], corruption, 3), spoilt[order])
    np.testing.assert_array_equal(corrupt(images[5:6], corruption, 3), spoilt[5:6])
    np.testing.assert_array_equal(images, before)


@each_corruption
def test_shape_and_type_are_preserved(corruption: Corruption, images: NDArray[np.uint8]) -> None:
    """Shape and type are preserved at every severity, also for zero images."""
    for severity in SEVERITIES:
        spoilt = corrupt(images, corruption, severity)
        assert spoilt.shape == (40, 48, 48)
        assert spoilt.dtype == np.uint8
    assert corrupt(images[:0], corruption, 1).shape == (0, 48, 48)


@each_corruption
def test_distance_increases_with_severity(corruption: Corruption, images: NDArray[np.uint8]) -> None:
    """The distance from the clean image increases with severity."""
    clean_to_worst = [0.0, *distortions(images, corruption)]
    assert clean_to_worst == sorted(clean_to_worst)
    assert len(set(clean_to_worst)) == len(clean_to_worst)


@each_corruption
def test_distance_increases_with_severity_on_real_faces(corruption: Corruption, real_table: tuple[Path, Path]) -> None:
    """The same holds for faces."""
    faces = load_dataset(real_table[0]).split("train").images
    clean_to_worst = [0.0, *distortions(faces, corruption)]
    assert clean_to_worst == sorted(clean_to_worst)
    assert len(set(clean_to_worst)) == len(clean_to_worst)


@each_corruption
@pytest.mark.parametrize("gray", [0, 255])
def test_blank_images_cause_no_warning(corruption: Corruption, gray: int) -> None:
    """Black and white images, which the data set contains, cause no warning."""
    blank = np.full((2, 48, 48), gray, np.uint8)
    assert corrupt(blank, corruption, 5).shape == blank.shape


@pytest.mark.parametrize("name", ["brightness", "gamma"])
def test_light_corruptions_brighten_and_darken(name: str, images: NDArray[np.uint8]) -> None:
    """Some images become lighter and some darker."""
    change = corrupt(images, named(name), 2).mean(axis=(1, 2)) - images.mean(axis=(1, 2))
    assert 5 < np.count_nonzero(change > 0) < 35


def test_low_light_scales_brightness_and_adds_noise(images: NDArray[np.uint8]) -> None:
    """An exposure of 0.25 leaves a quarter of the brightness and adds noise."""
    dark = corrupt(images, named("low_light"), 3).astype(float)
    assert dark.mean() == pytest.approx(images.mean() / 4, rel=0.05)
    assert (dark - images / 4.0).std() > 2


def test_occlusion_covers_a_square_that_grows(images: NDArray[np.uint8]) -> None:
    """Severity 5 covers what severity 1 covers, and about half of the image."""
    hidden = [corrupt(images, named("occlusion"), severity) != images for severity in (1, 5)]
    assert (hidden[0] & ~hidden[1]).mean() < 0.01  # where the gray level happens to be that of the image
    assert hidden[1].mean() == pytest.approx(0.49, abs=0.03)


def test_motion_blur_turns_a_dot_into_a_line() -> None:
    """A dot becomes a line of the kernel's length."""
    dot = np.zeros((1, 48, 48), np.uint8)
    dot[0, 24, 24] = 255
    rows, columns = np.nonzero(corrupt(dot, named("motion_blur"), 5)[0] > 6)
    assert 8 <= np.hypot(np.ptp(rows) + 1, np.ptp(columns) + 1) <= 14
    assert len(rows) <= 30


def test_rotation_is_about_the_center() -> None:
    """The center does not move, and a vertical line is rotated by up to 45 degrees."""
    line = np.zeros((1, 48, 48), np.uint8)
    line[0, :, 23:25] = 255
    turned = corrupt(line, named("rotation"), 5)[0].astype(float)
    y, x = np.indices(turned.shape) - 23.5
    assert abs(np.average(x * y, weights=turned)) == pytest.approx(np.average(x * x, weights=turned), rel=0.1)
    assert np.average(x, weights=turned) == pytest.approx(0, abs=0.2)
