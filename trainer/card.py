"""The model card of a bundle: what it is, what it can do, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edge.contract import Manifest
from trainer.corruptions import CORRUPTIONS, SEVERITIES
from trainer.evaluate import Evaluation, ModelResult
from trainer.labels import FERPLUS_EMOTIONS
from trainer.metrics import Classification

_TEMPLATE: Final = Path(__file__).with_name("model_card.md")

_PROTOCOL_NAMES: Final = {
    "validation": "PublicTest (chose checkpoint and temperature)",
    "test": "PrivateTest (reported)",
}


_LIMITS_OF_FER2013: Final = """\
- FER-2013's own label agrees with the majority of FER+'s ten raters on only 62.5 % of the images (fear 36 %, disgust 31 %). What
  the model gets wrong includes what the labels get wrong; it learns to call calm faces sad or afraid.
- Disgust has 436 training images, 1.5 % of them all."""  # noqa: E501
_LIMITS_OF_FERPLUS: Final = """\
- It is scored where most of ten raters agree, on 88 % of the images. On other faces people differ, and no answer is right.
- Disgust and contempt have a majority on 119 training images each, 0.5 % of those that have one: both are seldom found. The agent
  does not publish contempt."""  # noqa: E501


def model_card(manifest: Manifest, evaluations: Mapping[str, Evaluation]) -> str:
    """The text of MODEL_CARD.md; the figures of the model are out of the manifest or the evaluations."""
    test = evaluations["test"].models[manifest.arithmetic]
    training, of_crowd = manifest.training, manifest.labels == FERPLUS_EMOTIONS
    return _TEMPLATE.read_text(encoding="utf-8").format(
        name=manifest.name,
        version=manifest.version,
        arithmetic=manifest.arithmetic,
        count=len(manifest.labels),
        labels=", ".join(manifest.labels),
        size_kb=round(manifest.files[manifest.model].size / 1000),
        intended_use=manifest.intended_use,
        metrics=_metrics_table(evaluations),
        agreement=_agreement(evaluations),
        classes=_class_table(test.classification),
        confusion=_confusion_table(test.classification),
        robustness=_robustness(test),
        label_limits=_LIMITS_OF_FERPLUS if of_crowd else _LIMITS_OF_FER2013,
        smoothing=_smoothing(manifest),
        temperature=manifest.calibration.temperature,
        fitted_on=manifest.calibration.fitted_on,
        unknown_below=manifest.calibration.unknown_below,
        data=training.data,
        data_sha256=training.data_sha256,
        votes=_votes(manifest),
        beginning=_beginning(training.config),
        teachers=_teachers(training.config),
        seed=training.seed,
        git_revision=training.git_revision,
        libraries=", ".join(f"{library} {version}" for library, version in training.libraries.items()),
        config=training.config,
        licence=manifest.licence,
    )


def _smoothing(manifest: Manifest) -> str:
    share = manifest.calibration.label_smoothing
    if not share:
        return ""
    return (
        f"The network learned from labels {share:.0%} of which were spread over all classes, and answers accordingly; "
        "that share is taken out of its probabilities again.\n"
    )


def _metrics_table(evaluations: Mapping[str, Evaluation]) -> str:
    rows = [
        [_PROTOCOL_NAMES[split], arithmetic, str(evaluation.images), *_scores(result)]
        for split, evaluation in evaluations.items()
        for arithmetic, result in evaluation.models.items()
    ]
    return _table(["split", "model", "images", "accuracy", "clean", "macro F1", "ECE"], rows)


def _scores(result: ModelResult) -> list[str]:
    score, clean = result.classification, result.without_leaked
    accuracy = f"**{score.accuracy.value:.2%}** ({score.accuracy.low:.2%} to {score.accuracy.high:.2%})"
    clean_accuracy = "" if clean is None else f"{clean.accuracy.value:.2%}"
    return [accuracy, clean_accuracy, f"{score.macro_f1:.3f}", f"{result.calibration.ece:.3f}"]


def _agreement(evaluations: Mapping[str, Evaluation]) -> str:
    comparisons = evaluations["test"].comparisons
    if not comparisons:
        return ""
    agreement = comparisons[0].agreement.value
    return f"The int8 file and the float model give the same answer on {agreement:.2%} of PrivateTest."


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
    mean = model.robustness.mean_corruption_accuracy
    interval = f"**{mean.value:.2%}** ({mean.low:.2%} to {mean.high:.2%})"
    rows.append(["all", *_percents(*model.robustness.by_severity), interval])
    return _table(["corruption", *(f"severity {severity}" for severity in SEVERITIES), "mean"], rows)


def _percents(*shares: float) -> list[str]:
    return [f"{share:.1%}" for share in shares]


def _votes(manifest: Manifest) -> str:
    config = manifest.training.config
    votes = "the FER+ votes (Barsoum et al. 2016) of the training images"
    if manifest.labels == FERPLUS_EMOTIONS:
        beside = (
            "" if config["labels"] == "ferplus" else ", beside a head, dropped at export, for FER-2013's own labels"
        )
        return f"Labels: {votes} as soft targets{beside}; scored against their strict majority."
    if config["votes_weight"]:
        return f"A second head, dropped at export, learnt {votes}."
    return "Labels: FER-2013's own, nothing else."


def _beginning(config: Mapping[str, Any]) -> str:
    initial = config.get("initial_weights")
    return f"It began with the weights of `{initial}`." if initial else "It began with random weights."


def _teachers(config: Mapping[str, Any]) -> str:
    if not config.get("teachers"):
        return "It learned from no other network."
    names = ", ".join(f"`{teacher}`" for teacher in config["teachers"])
    share = f"{config['teacher_weight']:.0%}"
    whose = "FER-2013's labels" if config["labels"] == "fer2013" else "FER+'s votes"
    if config.get("live_teachers"):
        heads, views = "Each head", "about each training image as it was seen"
    else:
        heads, views = f"The head for {whose}", "averaged over ten views of each training image"
    return (
        f"{heads} learned from {names} too, trained on the same images: {share} of the target are the "
        f"answers from there, {views}."
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
