"""Calibration of the network's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from edge.contract import calibrated, softmax
from edge.contract.manifest import Calibration


def calibration(*, label_smoothing: float = 0.0, temperature: float = 1.0) -> Calibration:
    """The calibration in a manifest."""
    return Calibration(
        label_smoothing=label_smoothing, temperature=temperature, fitted_on="PublicTest", unknown_below=0.0
    )


def test_a_temperature_divides_the_logits() -> None:
    """Without label smoothing, calibration only divides by the temperature."""
    outputs = np.array([[4.0, -2.0, 0.0]], np.float32)
    np.testing.assert_allclose(calibrated(outputs, calibration(temperature=2.0)), [[2.0, -1.0, 0.0]])


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_label_smoothing_is_inverted(smoothing: float) -> None:
    """If the network predicts its smoothed targets exactly, the true probabilities are restored."""
    truth = np.random.default_rng(0).dirichlet(np.full(7, 0.7), 50)
    smoothed = truth * (1 - smoothing) + smoothing / 7
    found = softmax(calibrated(np.log(smoothed).astype(np.float32), calibration(label_smoothing=smoothing)))
    np.testing.assert_allclose(found, truth, atol=0.1 * smoothing)


def test_probabilities_below_the_smoothing_stay_finite_and_change_no_prediction() -> None:
    """Networks are not exact, so probabilities below the minimum occur."""
    outputs = np.array([[30.0, -30.0, 0.0, 1.0], [0.1, 0.0, 0.0, 0.0]], np.float32)
    found = calibrated(outputs, calibration(label_smoothing=0.1, temperature=1.2))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found.argmax(axis=1), [0, 0])
    assert softmax(found)[0, 0] > 0.95
