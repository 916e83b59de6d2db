"""The model card of a bundle: what it is, what it can do, and what it must not be used for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edge.contract import Manifest
from edge.contract.manifest import Provenance
from trainer.corruptions import CORRUPTIONS, SEVERITIES
from trainer.evaluate import Evaluation, ModelResult
from trainer.labels import FERPLUS_EMOTIONS
from trainer.metrics import Classification, Proportion

_TEMPLATE: Final = Path(__file__).with_name("model_card.md")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """What the card calls the data and its splits.

    Attributes:
        data: The data set.
        own: Whose labels those are that come with the images.
        train: The split that is fitted.
        validation: The split that chooses.
        test: The split that is reported.
    """

    data: str
    own: str
    train: str
    validation: str
    test: str


_FER2013: Final = _Names(
    data="FER-2013", own="FER-2013's own", train="Training", validation="PublicTest", test="PrivateTest"
)

_FER2013_SHA256: Final = frozenset(
    {
        "aaa9869d7259cbe59dae77eb906b3d215544b91fd2e54529b6fd517fb1af5c21",  # the table behind the project's bundles
        "2ee0fea31a3fe4e1b303aa7094f4c032ca802e02e40fdd22cbb02946daddea81",  # Kaggle's JPEGs
    }
)
"""Of other data, whatever its name, the card says nothing but what it knows."""

_LIMITS_OF_FER2013: Final = """\
- What FER+'s ten raters said most often is FER-2013's own label on only 62.3 % of the images (fear 12.6 %, disgust 30.5 %,
  sad 40.2 %), and on 67.5 % of those with a strict majority, in which one answer has more than half of the votes that are left when
  single ones are dropped (`python -m tests.bench.crowd --data fer2013.csv --votes fer2013new.csv`). What the model gets wrong includes
  what the labels get wrong; it learns to call calm faces sad or afraid.
- Disgust has 436 training images, 1.5 % of them all."""  # noqa: E501
_LIMITS_OF_FERPLUS: Final = """\
- It is scored on the 88 % of the images with a strict majority, in which one answer has more than half of the ten raters' votes that
  are left when single ones are dropped, and its confidence is calibrated on these together. Where fewer agree (on 76 % of the images more
  than half of all ten do), people differ, and it is surer than it is right: `python -m tests.bench.crowd BUNDLE --data fer2013.csv
  --votes fer2013new.csv` says by how much.
- Disgust and contempt have a majority on 119 training images each, 0.5 % of those that have one: both are seldom found. The agent
  does not publish contempt."""  # noqa: E501
_PEOPLE_OF_FER2013: Final = """\
- The images were found by searching the web for words of emotion (Goodfellow et al. 2013); many are posed. Neither age, gender
  nor skin tone is annotated, so how accuracy differs between groups is not known. Assume that it does."""  # noqa: E501

_LIMITS_OF_OTHERS: Final = (
    "- How right the labels are is not known. What the model gets wrong includes what they get wrong."
)
_LIMITS_OF_VOTES: Final = """\
- It is scored where one answer has more than half of the votes that are left when single ones are dropped, and its confidence is
  calibrated there alone: on other faces expect it to be surer than it is right. The agent does not publish contempt."""  # noqa: E501
_PEOPLE_OF_OTHERS: Final = "- How accuracy differs between groups of people is not known. Assume that it does."


def model_card(manifest: Manifest, evaluations: Mapping[str, Evaluation]) -> str:
    """The text of MODEL_CARD.md; the figures of the model are out of the manifest or the evaluations."""
    test = evaluations["test"].models[manifest.arithmetic]
    training, names = manifest.training, _names(manifest)
    return _TEMPLATE.read_text(encoding="utf-8").format(
        name=manifest.name,
        version=manifest.version,
        arithmetic=manifest.arithmetic,
        count=len(manifest.labels),
        labels=", ".join(manifest.labels),
        size_kb=round(manifest.files[manifest.model].size / 1000),
        intended_use=manifest.intended_use,
        light=_light(manifest),
        names=names,
        images=evaluations["test"].images,
        weights=_weights(training),
        before=_data_before(training),
        metrics=_metrics_table(evaluations, names),
        agreement=_agreement(evaluations, names),
        classes=_class_table(test.classification),
        confusion=_confusion_table(test.classification),
        robustness=_robustness(test),
        limits=_limits(manifest),
        smoothing=_smoothing(manifest),
        temperature=manifest.calibration.temperature,
        unknown_below=manifest.calibration.unknown_below,
        data=f"FER-2013 (Goodfellow et al. 2013), {training.data}" if _is_fer2013(training) else f"`{training.data}`",
        data_sha256=training.data_sha256,
        votes=_votes(manifest, names),
        teachers=_teachers(training.config, names),
        seed=training.seed,
        git_revision=training.git_revision,
        libraries=", ".join(f"{library} {version}" for library, version in training.libraries.items()),
        config=json.dumps(training.config),
        licence=manifest.licence,
        licence_of_data="FER-2013 itself is for research; no" if _is_fer2013(training) else "No",
    )


def _is_fer2013(training: Provenance) -> bool:
    return training.data_sha256 in _FER2013_SHA256


def _names(manifest: Manifest) -> _Names:
    if _is_fer2013(manifest.training):
        return _FER2013
    return _Names(
        data=f"`{manifest.training.data}`", own="the data set's own",
        train="the training split", validation="the validation split", test="the test split",
    )  # fmt: skip


def _limits(manifest: Manifest) -> str:
    """What its labels and its images keep the model from."""
    of_crowd = manifest.labels == FERPLUS_EMOTIONS
    if _is_fer2013(manifest.training):
        parts = (_LIMITS_OF_FERPLUS if of_crowd else _LIMITS_OF_FER2013, _PEOPLE_OF_FER2013)
    else:
        parts = (_LIMITS_OF_VOTES if of_crowd else _LIMITS_OF_OTHERS, _PEOPLE_OF_OTHERS)
    return "\n".join(parts)


def _light(manifest: Manifest) -> str:
    """In which light a crop is classified."""
    light = manifest.preprocessing.intensity
    if light is None:
        return ""
    return (
        "All figures are with intensity normalization, as on a device: a crop's mean gray level is brought into "
        f"{light.mean_low:g} to {light.mean_high:g} and its standard deviation into {light.deviation_low:g} to "
        f"{light.deviation_high:g} by a linear map.\nEach is left as it is where it lies within, as it does on four in "
        "five training images.\n"
    )


def _smoothing(manifest: Manifest) -> str:
    share = manifest.calibration.label_smoothing
    if not share:
        return ""
    return (
        f"The network learned from labels {share:.0%} of which were spread over all classes, and answers accordingly; "
        "that share is taken out of its probabilities again.\n"
    )


def _metrics_table(evaluations: Mapping[str, Evaluation], names: _Names) -> str:
    protocol = {
        "validation": f"{names.validation} (chose checkpoint and temperature)",
        "test": f"{names.test} (reported)",
    }
    rows = [
        [protocol[split], arithmetic, str(evaluation.images), *_scores(result)]
        for split, evaluation in evaluations.items()
        for arithmetic, result in evaluation.models.items()
    ]
    return _table(["split", "model", "images", "accuracy", "clean", "macro F1", "ECE"], rows)


def _scores(result: ModelResult) -> list[str]:
    score, clean = result.classification, result.without_leaked
    clean_accuracy = "" if clean is None else f"{clean.accuracy.value:.2%}"
    return [_with_interval(score.accuracy), clean_accuracy, f"{score.macro_f1:.3f}", f"{result.calibration.ece:.3f}"]


def _agreement(evaluations: Mapping[str, Evaluation], names: _Names) -> str:
    comparisons = evaluations["test"].comparisons
    if not comparisons:
        return ""
    agreement = comparisons[0].agreement.value
    return f"The int8 file and the float model give the same answer on {agreement:.2%} of these images of {names.test}."


def _class_table(score: Classification) -> str:
    rows = [
        [one.name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", str(one.support)]
        for one in score.classes
    ]
    return _table(["emotion", "precision", "recall", "F1", "images"], rows)


def _confusion_table(score: Classification) -> str:
    names = [one.name for one in score.classes]
    rows = [[name, *map(str, counts)] for name, counts in zip(names, score.confusion, strict=True)]
    return _table(["", *names], rows)


def _robustness(model: ModelResult) -> str:
    if model.robustness is None:
        return "Not measured."
    rows = [
        [corruption.title, *_percents(*score.accuracies, score.mean)]
        for corruption, score in zip(CORRUPTIONS, model.robustness.corruptions, strict=True)
    ]
    mean = _with_interval(model.robustness.mean_corruption_accuracy)
    rows.append(["all", *_percents(*model.robustness.by_severity), mean])
    return _table(["corruption", *(f"severity {severity}" for severity in SEVERITIES), "mean"], rows)


def _with_interval(share: Proportion) -> str:
    return f"**{share.value:.2%}** ({share.low:.2%} to {share.high:.2%})"


def _percents(*shares: float) -> list[str]:
    return [f"{share:.1%}" for share in shares]


def _votes(manifest: Manifest, names: _Names) -> str:
    config = manifest.training.config
    votes = "the FER+ votes (Barsoum et al. 2016) of the training images"
    if manifest.labels == FERPLUS_EMOTIONS:
        beside = "" if config["labels"] == "ferplus" else f", beside a head, dropped at export, for {names.own} labels"
        return f"Labels: {votes} as soft targets{beside}; scored against their strict majority."
    if config["votes_weight"]:
        return f"A second head, dropped at export, learnt {votes}."
    return f"Labels: {names.own}, nothing else."


def _weights(training: Provenance) -> str:
    """With what the training began."""
    initial = training.config.get("initial_weights")
    return f"the weights of `{initial}`" if initial else "random weights"


def _data_before(training: Provenance) -> str:
    """What began with weights that learned from other data may have seen what judges it."""
    if not training.initial_data:
        return ""
    return (
        f" These had learned from other data, `{training.initial_data}`: if images of it are among those that chose or "
        "judge this model, the figures flatter it."
    )


def _teachers(config: Mapping[str, Any], names: _Names) -> str:
    if not config.get("teachers"):
        return "It learned from no other network."
    teachers = ", ".join(f"`{teacher}`" for teacher in config["teachers"])
    if config.get("copies"):
        return (
            f"Each head learned what {teachers}, trained on the same images, said of {config['copies']} varied copies "
            f"of each training image, {config['recompose_share']:.0%} of them joined from the halves of two faces. "
            "Their mean answer was the whole target: labels and votes came through them alone."
        )
    share = f"{config['teacher_weight']:.0%}"
    whose = f"{names.own} labels" if config["labels"] == "fer2013" else "FER+'s votes"
    if config.get("live_teachers"):
        heads, views = "Each head", "about each training image as it was seen"
    else:
        heads, views = f"The head for {whose}", "averaged over ten views of each training image"
    return (
        f"{heads} learned from {teachers} too, trained on the same images: {share} of the target are the "
        f"answers from there, {views}."
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
