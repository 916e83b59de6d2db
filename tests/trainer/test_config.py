"""Configurations of training runs that are rejected."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.trainer.stripes import TINY
from trainer.config import FitConfig
from trainer.errors import CheckpointError
from trainer.recipes import read_recipe
from trainer.run import read_config


@pytest.mark.parametrize(
    "content",
    ["", "[1]", '{"stages": [[48, 1]], "speed": 9}', '{"peak_lr": 0.1}', '{"stages": [[64, 1]]}', "[" * 200_000],
    ids=["empty", "list", "speed", "no stages", "large", "deep"],
)
def test_a_file_that_is_not_a_configuration_is_a_clear_error(content: str, tmp_path: Path) -> None:
    """The error names it, and the files that could be used."""
    (tmp_path / "best.json").write_text(content)
    with pytest.raises(
        CheckpointError, match=r"best.json: is not a run configuration .* Name best.json of trainer tune"
    ):
        read_recipe(tmp_path / "best.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stages", []), ("stages", [48, 1]), ("stages", [[48]]), ("stages", [["48", 1]]), ("stages", [[48, 1.5]]),
        ("stages", [[48, 0]]), ("stages", [[48, 1_000_001]]), ("stages", [[48, 10**400]]), ("stages", [[8, 1]]),
        ("stages", [[64, 1]]), ("stages", "48"),
        ("batch_size", 0), ("batch_size", "14"), ("batch_size", 14.5), ("batch_size", True),
        ("peak_lr", "fast"), ("peak_lr", 0), ("peak_lr", math.nan), ("weight_decay", math.inf), ("warmup_epochs", -1),
        ("momentum", 1.1), ("label_smoothing", 1), ("mixup", 0.6), ("dropout", None), ("votes_weight", False),
        ("seed", -1), ("seed", 2**32), ("width", 0), ("top_channels", 8), ("blocks", [1, 1]), ("blocks", [0, -1, 1]),
        ("teachers", "runs/first"), ("teachers", [1]), ("initial_weights", 1), ("live_teachers", 1),
        ("copies", -1), ("copies", 1.5), ("recompose_share", 2),
        ("bfloat16", "yes"), ("labels", "FERPlus"), ("labels", ["fer2013"]),
    ],
)  # fmt: skip
def test_an_invalid_value_is_named(name: str, value: object, tmp_path: Path) -> None:
    """The error names the key and what it allows."""
    (tmp_path / "mine.json").write_text(json.dumps({"stages": [[48, 1]], name: value}))
    with pytest.raises(CheckpointError, match=rf"mine.json: is not a run configuration \({name} must be .*, not "):
        read_recipe(tmp_path / "mine.json")


@pytest.mark.parametrize("name", [field.name for field in fields(FitConfig)])
def test_every_field_is_validated(name: str) -> None:
    """A new field must declare its allowed values."""
    with pytest.raises(ValueError, match=f"^{name} must be "):
        replace(TINY, **{name: {}})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "content", ["", "[1]", '"fit"', '{"fit": "stages"}', "[" * 200_000], ids=["empty", "list", "text", "stages", "deep"]
)
def test_a_damaged_configuration_of_a_run_is_a_clear_error(content: str, tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config.json: cannot be read"):
        read_config(tmp_path)
