"""Intensity normalization: maps the gray levels of crops into the range of the training images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.contract.intensity import mean_and_deviation, normalized
from edge.contract.manifest import Intensity

LIMITS = Intensity(mean_low=80, mean_high=170, deviation_low=35, deviation_high=70)


@pytest.fixture
def face() -> NDArray[np.uint8]:
    """A crop in ordinary light: its gray levels have the mean 120 and the standard deviation 55."""
    levels = np.random.default_rng(0).normal(size=(48, 48))
    levels = (levels - levels.mean()) / levels.std()
    return np.asarray((120 + 55 * levels).round().clip(0, 255), np.uint8)


def test_mean_and_deviation_are_those_of_the_pixels(face: NDArray[np.uint8]) -> None:
    """The results equal numpy's mean and standard deviation."""
    assert mean_and_deviation(face) == pytest.approx((face.mean(), face.std()))


def test_a_crop_in_ordinary_light_is_not_changed(face: NDArray[np.uint8]) -> None:
    """A crop within the limits is returned unchanged."""
    np.testing.assert_array_equal(normalized(face, LIMITS), face)


@pytest.mark.parametrize(
    ("gain", "offset", "mean", "deviation"),
    [
        pytest.param(0.1, 0, 80, 35, id="a dark room"),
        pytest.param(0.3, 160, 170, 35, id="fog"),
        pytest.param(0.65, 0, 80, 35.8, id="dark with ordinary contrast"),
        pytest.param(0.4, 70, 118, 35, id="low contrast with ordinary brightness"),
    ],
)
def test_a_crop_beyond_the_limits_is_mapped_to_the_nearest_ones(
    face: NDArray[np.uint8], gain: float, offset: float, mean: float, deviation: float
) -> None:
    """The map is linear, so that the face itself does not change."""
    changed = (gain * face + offset).round().clip(0, 255).astype(np.uint8)
    result = normalized(changed, LIMITS)
    assert mean_and_deviation(result) == pytest.approx((mean, deviation), abs=2)
    assert np.corrcoef(result.ravel(), face.ravel())[0, 1] > 0.99


def test_excessive_contrast_is_reduced() -> None:
    """A crop that is half black and half white, as under a lamp from the side, is mapped to the limit."""
    image = np.repeat(np.array([0, 255], np.uint8), 24)[np.newaxis].repeat(48, axis=0)
    assert set(np.unique(normalized(image, LIMITS)).tolist()) == {58, 198}  # 127.5 plus and minus 70


@pytest.mark.parametrize(("level", "expected"), [(0, 80), (120, 120), (255, 170)])
def test_a_uniform_crop_stays_uniform(level: int, expected: int) -> None:
    """A uniform crop has no contrast to amplify."""
    assert np.unique(normalized(np.full((48, 48), level, np.uint8), LIMITS)).tolist() == [expected]
