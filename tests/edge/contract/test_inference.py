"""From what the network gives to what can be believed."""

from __future__ import annotations

import numpy as np
import pytest

from edge.contract import calibrated, softmax
from edge.contract.manifest import Calibration


def calibration(*, label_smoothing: float = 0.0, temperature: float = 1.0) -> Calibration:
    """What a manifest says of it."""
    return Calibration(
        label_smoothing=label_smoothing, temperature=temperature, fitted_on="PublicTest", unknown_below=0.0
    )


def test_a_temperature_divides_the_logits() -> None:
    """Nothing else is changed where labels were not smoothed."""
    outputs = np.array([[4.0, -2.0, 0.0]], np.float32)
    np.testing.assert_allclose(calibrated(outputs, calibration(temperature=2.0)), [[2.0, -1.0, 0.0]])


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_a_network_that_learned_smoothed_labels_gives_the_shares_before_smoothing(smoothing: float) -> None:
    """If it gives exactly what it was taught, each of the true probabilities comes back."""
    truth = np.random.default_rng(0).dirichlet(np.full(7, 0.7), 50)
    taught = truth * (1 - smoothing) + smoothing / 7
    found = softmax(calibrated(np.log(taught).astype(np.float32), calibration(label_smoothing=smoothing)))
    np.testing.assert_allclose(found, truth, atol=0.1 * smoothing)


def test_what_smoothing_alone_explains_stays_finite_and_changes_no_answer() -> None:
    """Probabilities under the floor occur, for networks are not exact."""
    outputs = np.array([[30.0, -30.0, 0.0, 1.0], [0.1, 0.0, 0.0, 0.0]], np.float32)
    found = calibrated(outputs, calibration(label_smoothing=0.1, temperature=1.2))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found.argmax(axis=1), [0, 0])
    assert softmax(found)[0, 0] > 0.95
