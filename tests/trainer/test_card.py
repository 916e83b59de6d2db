"""The model card: what it says of FER-2013 and of other data, and of what a run began with."""

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
    """The card of a committed model, had it been trained otherwise."""
    manifest: Manifest = read_manifest(MODELS / model)
    origin = manifest.training
    origin = origin.model_copy(update={"config": {**origin.config, **(config or {})}, **training})
    return model_card(manifest.model_copy(update={"training": origin}), evaluations(model))


@pytest.mark.parametrize("name", ["mine", "fer2013.csv"])
@pytest.mark.parametrize("model", ["default", "ferplus"])
def test_of_other_data_no_fact_of_fer2013_is_told(model: str, name: str) -> None:
    """Nobody reads of images that were never trained on, nor of those that somebody took out of FER-2013's table."""
    mine = card(model, data=name, data_sha256="0" * 64)
    for fact in ("FER-2013", "Goodfellow", "PublicTest", "PrivateTest", "436", "119", "88 %", "62.3 %"):
        assert fact not in mine
    for known in (
        f"on `{name}` by",
        f"- Data: `{name}`;",
        "the test split (reported)",
        "groups of people is not known",
    ):
        assert known in mine


def test_fer2013_is_known_in_every_layout() -> None:
    """By the hash of its images, whatever the file is called."""
    told = card("default", data="archive.zip", data_sha256=JPEGS)
    for fact in ("FER-2013 (Goodfellow et al. 2013), archive.zip;", "Disgust has 436", "PrivateTest (reported)"):
        assert fact in told


@pytest.mark.parametrize(
    ("initial", "told"), [(None, "random weights"), ("runs/refined", "the weights of `runs/refined`")]
)
def test_what_the_run_began_with_is_told_first_and_last(initial: str | None, told: str) -> None:
    """A run that went on from another is not called trained from scratch."""
    text = card("default", {"initial_weights": initial})
    assert f"trained from {told} on FER-2013" in text
    assert f"- It began with {told}." in text
    assert "scratch" not in text


def test_the_crowd_s_card_says_where_its_confidence_holds() -> None:
    """Who reads of a calibration error reads on which faces it was measured."""
    for text in card("ferplus"), card("ferplus", data="mine", data_sha256="0" * 64):
        assert "has more than half of the" in text
        assert "surer than it is right" in text
    assert "surer than it is right" not in card("default")


def test_the_card_says_in_which_light_its_figures_are() -> None:
    """And nothing of it for a bundle whose crops are left as they are."""
    assert "a crop's mean gray level is brought into 86 to 173" in card("default")
    manifest = read_manifest(MODELS / "default")
    plain = manifest.preprocessing.model_copy(update={"intensity": None})
    text = model_card(manifest.model_copy(update={"preprocessing": plain}), evaluations("default"))
    assert "intensity normalization" not in text
