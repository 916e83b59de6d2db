"""Model card: statements about FER-2013 and other data, and about the initial weights."""

from __future__ import annotations

from typing import Any

import pytest

from edge.contract import Manifest
from edge.contract.manifest import read_manifest
from tests.docs import MODELS, evaluations
from trainer.card import model_card

JPEGS = "2ee0fea31a3fe4e1b303aa7094f4c032ca802e02e40fdd22cbb02946daddea81"
"""`data_sha256` of Kaggle's images."""


def card(model: str, config: dict[str, Any] | None = None, **training: str) -> str:
    """Returns the card of a committed model with changed training provenance."""
    manifest: Manifest = read_manifest(MODELS / model)
    origin = manifest.training
    origin = origin.model_copy(update={"config": {**origin.config, **(config or {})}, **training})
    return model_card(manifest.model_copy(update={"training": origin}), evaluations(model))


@pytest.mark.parametrize("name", ["mine", "fer2013.csv"])
@pytest.mark.parametrize("model", ["default", "ferplus"])
def test_no_facts_about_fer2013_for_other_data(model: str, name: str) -> None:
    """The card of a model trained on other data, or on a part of FER-2013, states no facts about FER-2013."""
    mine = card(model, data=name, data_sha256="0" * 64)
    for fact in ("FER-2013", "Goodfellow", "PublicTest", "PrivateTest", "436", "119", "88 %", "62.3 %"):
        assert fact not in mine
    for known in (
        f"on `{name}` by",
        f"- Data: `{name}`;",
        "the test split (held-out test)",
        "groups of people are unknown",
    ):
        assert known in mine


def test_fer2013_is_recognized_in_every_layout() -> None:
    """FER-2013 is identified by the hash of its images, not by file name."""
    text = card("default", data="archive.zip", data_sha256=JPEGS)
    for fact in ("FER-2013 (Goodfellow et al. 2013), archive.zip;", "disgust has 436", "PrivateTest (held-out test)"):
        assert fact in text


@pytest.mark.parametrize(
    ("initial", "weights"), [(None, "random weights"), ("runs/refined", "the weights of `runs/refined`")]
)
def test_the_initial_weights_are_stated_twice(initial: str | None, weights: str) -> None:
    """The initial weights are named in the first and the last section."""
    text = card("default", {"initial_weights": initial})
    assert f"Trained from {weights} on FER-2013" in text
    assert f"- Initialization: {weights}." in text
    assert "scratch" not in text


def test_the_ferplus_card_states_where_the_model_is_overconfident() -> None:
    """The card states on which images the calibration error was measured."""
    for text in card("ferplus"), card("ferplus", data="mine", data_sha256="0" * 64):
        assert "more than half of the" in text
        assert "overconfident" in text
    assert "overconfident" not in card("default")


def test_intensity_normalization_is_stated_if_there_is_any() -> None:
    """A bundle without intensity normalization has no such statement."""
    assert "limits the mean gray level of a crop to 86 to 173" in card("default")
    manifest = read_manifest(MODELS / "default")
    plain = manifest.preprocessing.model_copy(update={"intensity": None})
    text = model_card(manifest.model_copy(update={"preprocessing": plain}), evaluations("default"))
    assert "intensity normalization" not in text
