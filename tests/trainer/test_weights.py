"""Damaged or missing weights files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.config import FitConfig
from trainer.errors import CheckpointError
from trainer.provenance import Provenance
from trainer.run import BEST_WEIGHTS, write_config
from trainer.weights import load_network, network_for, save_weights

TINY = FitConfig(width=0.25, top_channels=16, blocks=(0, 0, 0))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with untrained weights."""
    write_config(tmp_path, TINY, Provenance("faces.csv", "0", "0", {}))
    save_weights(network_for(TINY), tmp_path)
    return tmp_path


def cut_off(weights: Path) -> None:
    """Truncated, as by a full disk: OSError."""
    weights.write_bytes(weights.read_bytes()[:5000])


def without_variables(weights: Path) -> None:
    """Renamed variables: Keras warns, and leaves the layers untrained."""
    weights.write_bytes(weights.read_bytes().replace(b"vars", b"what"))


def without_names(weights: Path) -> None:
    """The signature of the first heap of names is wrong: RuntimeError."""
    weights.write_bytes(weights.read_bytes().replace(b"HEAP", b"HEAD"))


@pytest.mark.parametrize("damage", [cut_off, without_variables, without_names])
def test_damaged_weights_are_a_clear_error(damage: Callable[[Path], None], run: Path) -> None:
    """Whatever the library raises, the error names the run and what to do."""
    damage(run / BEST_WEIGHTS)
    with pytest.raises(CheckpointError, match=rf"^{run}: no usable {BEST_WEIGHTS} \(.*\)\. Copy it again"):
        load_network(run)


def test_a_run_without_a_finished_epoch_is_a_clear_error(run: Path) -> None:
    """Its remedy does not mention copying, as there is nothing to copy."""
    (run / BEST_WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=r"no usable .*\. Wait until trainer fit has finished an epoch"):
        load_network(run)
