"""Model card of a bundle: intended use, evaluation, limitations and training."""

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
    """Names of the data set and its splits in the card.

    Attributes:
        data: The data set.
        own: The data set in the possessive, for the labels that come with the images.
        train: The split used for training.
        validation: The split used for model selection.
        test: The held-out split.
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
        "aaa9869d7259cbe59dae77eb906b3d215544b91fd2e54529b6fd517fb1af5c21",  # the challenge table
        "2ee0fea31a3fe4e1b303aa7094f4c032ca802e02e40fdd22cbb02946daddea81",  # Kaggle's JPEGs
    }
)
"""Content hashes of FER-2013: the card states facts about it only for data with one of these, whatever its name."""

_LIMITS_OF_FER2013: Final = """\
- Label noise: the most frequent vote of FER+'s ten raters agrees with the FER-2013 label on only 62.3 % of the images (fear 12.6 %, disgust 30.5 %,
  sad 40.2 %), and on 67.5 % of those with a strict majority, that is, more than half of the votes that remain after single votes are dropped
  (`python -m tests.bench.crowd --data fer2013.csv --votes fer2013new.csv`). The model learns these errors: it tends to classify calm
  faces as sad or afraid. Some of its errors in the tables above are label errors.
- Class imbalance: disgust has 436 training images, 1.5 % of them all."""  # noqa: E501
_LIMITS_OF_FERPLUS: Final = """\
- Evaluation and calibration cover only the 88 % of the images with a strict majority, that is, more than half of the ten raters' votes
  that remain after single votes are dropped. The confidence is calibrated on these as a whole. Outside the 76 % of the images on which
  more than half of all ten votes agree, people disagree about the expression and the model is overconfident;
  `python -m tests.bench.crowd BUNDLE --data fer2013.csv --votes fer2013new.csv` shows by how much.
- Class imbalance: disgust and contempt are the majority label of 119 training images each, 0.5 % of those with a majority; the recall
  of both is low. The agent does not publish contempt."""  # noqa: E501
_PEOPLE_OF_FER2013: Final = """\
- Demographic bias: the images were collected by web searches for emotion words (Goodfellow et al. 2013); many are posed. Age, gender
  and skin tone are not annotated, so differences in accuracy between groups of people are unknown. Assume that they exist."""  # noqa: E501

_LIMITS_OF_OTHERS: Final = (
    "- Label noise: the accuracy of the labels is unknown. Some of the model's errors are label errors."
)
_LIMITS_OF_VOTES: Final = """\
- Evaluation and calibration cover only the images with a strict majority, that is, more than half of the votes that remain after single
  votes are dropped. On other images the model is expected to be overconfident. The agent does not publish contempt."""  # noqa: E501
_PEOPLE_OF_OTHERS: Final = (
    "- Demographic bias: differences in accuracy between groups of people are unknown. Assume that they exist."
)


def model_card(manifest: Manifest, evaluations: Mapping[str, Evaluation]) -> str:
    """Returns the text of MODEL_CARD.md, with all figures of the model taken from the manifest and the evaluations."""
    test = evaluations["test"].models[manifest.arithmetic]
    training, names = manifest.training, _names(manifest)
    return _TEMPLATE.read_text(encoding="utf-8").format(
        name=manifest.name,
        version=manifest.version,
        kind="An int8-quantized" if manifest.arithmetic == "int8" else "A float32",
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
        license=manifest.licence,
        data_license="FER-2013 itself is for research use only; no" if _is_fer2013(training) else "No",
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
    """Returns the limitations due to labels and images."""
    ferplus = manifest.labels == FERPLUS_EMOTIONS
    if _is_fer2013(manifest.training):
        parts = (_LIMITS_OF_FERPLUS if ferplus else _LIMITS_OF_FER2013, _PEOPLE_OF_FER2013)
    else:
        parts = (_LIMITS_OF_VOTES if ferplus else _LIMITS_OF_OTHERS, _PEOPLE_OF_OTHERS)
    return "\n".join(parts)


def _light(manifest: Manifest) -> str:
    """Describes the intensity normalization; empty for a bundle without it."""
    light = manifest.preprocessing.intensity
    if light is None:
        return ""
    return (
        "All results include intensity normalization, as on a device: a linear map limits the mean gray level of a "
        f"crop to {light.mean_low:g} to {light.mean_high:g} and its standard deviation to {light.deviation_low:g} to "
        f"{light.deviation_high:g}.\nValues within these ranges, as each is for four in five training images, are "
        "unchanged.\n"
    )


def _smoothing(manifest: Manifest) -> str:
    share = manifest.calibration.label_smoothing
    if not share:
        return ""
    return (
        f"The network was trained with label smoothing of {share:.0%}, which is removed from the predicted "
        "probabilities.\n"
    )


def _metrics_table(evaluations: Mapping[str, Evaluation], names: _Names) -> str:
    protocol = {
        "validation": f"{names.validation} (model selection, calibration)",
        "test": f"{names.test} (held-out test)",
    }
    rows = [
        [protocol[split], arithmetic, str(evaluation.images), *_scores(result)]
        for split, evaluation in evaluations.items()
        for arithmetic, result in evaluation.models.items()
    ]
    return _table(
        ["split", "model", "images", "top-1 accuracy (95 % interval)", "deduplicated", "macro F1", "ECE"], rows
    )


def _scores(result: ModelResult) -> list[str]:
    score, without_leaked = result.classification, result.without_leaked
    deduplicated = "" if without_leaked is None else f"{without_leaked.accuracy.value:.2%}"
    return [_with_interval(score.accuracy), deduplicated, f"{score.macro_f1:.3f}", f"{result.calibration.ece:.3f}"]


def _agreement(evaluations: Mapping[str, Evaluation], names: _Names) -> str:
    comparisons = evaluations["test"].comparisons
    if not comparisons:
        return ""
    agreement = comparisons[0].agreement.value
    return f"The predictions of the int8 and the float model agree on {agreement:.2%} of the {names.test} images."


def _class_table(score: Classification) -> str:
    rows = [
        [one.name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", str(one.support)]
        for one in score.classes
    ]
    return _table(["class", "precision", "recall", "F1", "images"], rows)


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
    rows.append(["mean", *_percents(*model.robustness.by_severity), mean])
    return _table(["corruption", *(f"severity {severity}" for severity in SEVERITIES), "mean"], rows)


def _with_interval(share: Proportion) -> str:
    return f"**{share.value:.2%}** ({share.low:.2%} to {share.high:.2%})"


def _percents(*shares: float) -> list[str]:
    return [f"{share:.1%}" for share in shares]


def _votes(manifest: Manifest, names: _Names) -> str:
    config = manifest.training.config
    votes = "the FER+ votes (Barsoum et al. 2016) of the training images"
    if manifest.labels == FERPLUS_EMOTIONS:
        auxiliary = (
            ""
            if config["labels"] == "ferplus"
            else f", with an auxiliary head, dropped at export, for {names.own} labels"
        )
        return f"Labels: {votes} as soft targets{auxiliary}; evaluated against their strict majority."
    if config["votes_weight"]:
        return f"Labels: {names.own} labels, with an auxiliary head, dropped at export, for {votes}."
    return f"Labels: {names.own} labels only."


def _weights(training: Provenance) -> str:
    """Describes the initial weights."""
    initial = training.config.get("initial_weights")
    return f"the weights of `{initial}`" if initial else "random weights"


def _data_before(training: Provenance) -> str:
    """Warns about initial weights from other data, which may include images of the evaluation splits."""
    if not training.initial_data:
        return ""
    return (
        f" These were trained on other data, `{training.initial_data}`: if it includes images of the splits used for "
        "model selection or evaluation, the reported accuracy is too high."
    )


def _teachers(config: Mapping[str, Any], names: _Names) -> str:
    if not config.get("teachers"):
        return "Knowledge distillation: none."
    teachers = ", ".join(f"`{teacher}`" for teacher in config["teachers"])
    if config.get("copies"):
        return (
            f"Knowledge distillation: the targets of each head are the mean predictions of {teachers}, trained on the "
            f"same images, for {config['copies']} augmented copies of each training image, "
            f"{config['recompose_share']:.0%} of them composed of the halves of two faces. Labels and votes were used "
            "only through the teachers."
        )
    share = f"{config['teacher_weight']:.0%}"
    whose = f"{names.own} labels" if config["labels"] == "fer2013" else "the FER+ votes"
    if config.get("live_teachers"):
        heads, views = "each head", "for each augmented training image"
    else:
        heads, views = f"the head for {whose}", "averaged over ten views of each training image"
    return (
        f"Knowledge distillation: the predictions of {teachers} (trained on the same images), {views}, make up {share} "
        f"of the target of {heads}."
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
