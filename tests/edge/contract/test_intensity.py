"""Intensity normalization: brings crops just into the range of the training images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.contract.intensity import mean_and_deviation, normalized
from edge.contract.manifest import Intensity

USUAL = Intensity(mean_low=80, mean_high=170, deviation_low=35, deviation_high=70)


@pytest.fixture
def face() -> NDArray[np.uint8]:
    """A crop in ordinary light: its gray levels are 55 about 120."""
    levels = np.random.default_rng(0).normal(size=(48, 48))
    levels = (levels - levels.mean()) / levels.std()
    return np.asarray((120 + 55 * levels).round().clip(0, 255), np.uint8)


def test_mean_and_deviation_are_those_of_the_pixels(face: NDArray[np.uint8]) -> None:
    """Equal to numpy's mean and standard deviation."""
    assert mean_and_deviation(face) == pytest.approx((face.mean(), face.std()))


def test_a_crop_in_ordinary_light_is_left_alone(face: NDArray[np.uint8]) -> None:
    """The crop is returned unchanged."""
    np.testing.assert_array_equal(normalized(face, USUAL), face)


@pytest.mark.parametrize(
    ("gain", "offset", "mean", "deviation"),
    [
        pytest.param(0.1, 0, 80, 35, id="a dark room"),
        pytest.param(0.3, 160, 170, 35, id="fog"),
        pytest.param(0.65, 0, 80, 35.8, id="dark, and of ordinary contrast"),
        pytest.param(0.4, 70, 118, 35, id="flat, and of ordinary brightness"),
    ],
)
def test_other_light_is_brought_to_the_nearest_ordinary_one(
    face: NDArray[np.uint8], gain: float, offset: float, mean: float, deviation: float
) -> None:
    """The map is linear, so that the face stays the same."""
    spoilt = (gain * face + offset).round().clip(0, 255).astype(np.uint8)
    seen = normalized(spoilt, USUAL)
    assert mean_and_deviation(seen) == pytest.approx((mean, deviation), abs=2)
    assert np.corrcoef(seen.ravel(), face.ravel())[0, 1] > 0.99


def test_glaring_contrast_is_taken_back() -> None:
    """Half black, half white, as under a lamp from the side."""
    glaring = np.repeat(np.array([0, 255], np.uint8), 24)[np.newaxis].repeat(48, axis=0)
    assert set(np.unique(normalized(glaring, USUAL)).tolist()) == {58, 198}  # 70 to either side of 127.5


@pytest.mark.parametrize(("level", "expected"), [(0, 80), (120, 120), (255, 170)])
def test_a_crop_of_one_level_stays_one(level: int, expected: int) -> None:
    """A uniform crop has no contrast to amplify."""
    assert np.unique(normalized(np.full((48, 48), level, np.uint8), USUAL)).tolist() == [expected]
