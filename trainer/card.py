"""The model card of a bundle: what it is, what it can do, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edge.contract import Manifest
from trainer.evaluate import Evaluation
from trainer.metrics import Classification

_PROTOCOL_NAMES: Final = {"validation": "PublicTest (chose the checkpoint and the temperature)", "test": "PrivateTest (reported)"}

_CARD: Final = """\
# Model card: {name} {version}

An {arithmetic} convolutional network that says which of {count} expressions a 48x48 gray picture of a face shows:
{labels}. {size_kb} kB, trained from scratch on FER-2013 by the `trainer` of this project.

## Intended use

{intended_use}

It sees a displayed expression, which is not what a person feels. Do not use it to judge, select, sell to or watch people,
nor where a mistake does harm. In the European Union, Regulation (EU) 2024/1689, Article 5(1)(f), forbids systems that infer
emotions in the workplace and in education, medical and safety reasons apart; elsewhere, transparency duties (Article 50) apply.

## How well it does

{metrics}

Intervals are Wilson's at 95 %. *Clean* leaves out the images that have a near-duplicate among the training images.
{agreement}

Per class, PrivateTest:

{classes}

Confusion on PrivateTest, row by label, column by answer:

{confusion}

## Calibration

Logits are divided by a temperature of {temperature}, fitted on {fitted_on} on this very file. The agent says `unknown` when the
confidence is under {unknown_below:.2f}: on PublicTest, answers above it are right at least three times in four.

## Limits

- FER-2013's own label agrees with the majority of FER+'s ten raters on only 62.5 % of the images (fear 36 %, disgust 31 %). What
  the model gets wrong includes what the labels get wrong; it learns to call calm faces sad or afraid.
- The images were found by searching the web for words of emotion (Goodfellow et al. 2013); many are posed. Neither age, gender
  nor skin tone is annotated, so how accuracy differs between groups is not known. Assume that it does.
- Accuracy was measured on the data set's own crops. Faces turned away, covered, masked or in low light were not measured
  apart: expect less.
- Disgust has 436 training images, 1.5 % of them all.

## Data and training

- Data: FER-2013 (Goodfellow et al. 2013), {data}; content hash `{data_sha256}`.
- {votes}
- Training fits on Training, chooses on PublicTest; PrivateTest was measured at export and chose nothing.
- Seed {seed}, revision `{git_revision}`, {libraries}.
- Configuration: `{config}`

## Licence

{licence} for the weights. FER-2013 itself is for research; no image of it is in this bundle.
"""


def model_card(manifest: Manifest, evaluations: Mapping[str, Evaluation]) -> str:
    """The text of MODEL_CARD.md, every figure of it out of the manifest or the evaluations."""
    test = evaluations["test"].models[manifest.arithmetic].classification
    training = manifest.training
    return _CARD.format(
        name=manifest.name,
        version=manifest.version,
        arithmetic=manifest.arithmetic,
        count=len(manifest.labels),
        labels=", ".join(manifest.labels),
        size_kb=round(manifest.files[manifest.model].size / 1000),
        intended_use=manifest.intended_use,
        metrics=_metrics_table(evaluations),
        agreement=_agreement(evaluations),
        classes=_class_table(test),
        confusion=_confusion_table(test),
        temperature=manifest.calibration.temperature,
        fitted_on=manifest.calibration.fitted_on,
        unknown_below=manifest.calibration.unknown_below,
        data=training.data,
        data_sha256=training.data_sha256,
        votes=_votes(training.config),
        seed=training.seed,
        git_revision=training.git_revision,
        libraries=", ".join(f"{library} {version}" for library, version in training.libraries.items()),
        config=training.config,
        licence=manifest.licence,
    )


def _metrics_table(evaluations: Mapping[str, Evaluation]) -> str:
    rows = []
    for split, evaluation in evaluations.items():
        for arithmetic, result in evaluation.models.items():
            score, clean = result.classification, result.without_leaked
            accuracy = score.accuracy
            rows.append(
                [
                    _PROTOCOL_NAMES[split], arithmetic, str(evaluation.images),
                    f"**{accuracy.value:.2%}** ({accuracy.low:.2%} to {accuracy.high:.2%})",
                    "" if clean is None else f"{clean.accuracy.value:.2%}", f"{score.macro_f1:.3f}", f"{result.calibration.ece:.3f}",
                ]
            )  # fmt: skip
    return _table(["split", "model", "images", "accuracy", "clean", "macro F1", "ECE"], rows)


def _agreement(evaluations: Mapping[str, Evaluation]) -> str:
    comparisons = evaluations["test"].comparisons
    if not comparisons:
        return ""
    return f"The int8 file and the float model give the same answer on {comparisons[0].agreement.value:.2%} of PrivateTest."


def _class_table(score: Classification) -> str:
    rows = [
        [one.name, f"{one.precision:.3f}", f"{one.recall:.3f}", f"{one.f1:.3f}", str(one.support)] for one in score.classes
    ]
    return _table(["emotion", "precision", "recall", "F1", "images"], rows)


def _confusion_table(score: Classification) -> str:
    names = [one.name for one in score.classes]
    rows = [[name, *map(str, counts)] for name, counts in zip(names, score.confusion, strict=True)]
    return _table(["", *names], rows)


def _votes(config: Mapping[str, object]) -> str:
    if config["labels"] == "ferplus":
        return "Labels: the votes of FER+ (Barsoum et al. 2016) as soft targets; scored against their strict majority."
    if config["votes_weight"]:
        return "A second head, dropped at export, learnt the FER+ votes (Barsoum et al. 2016) of the training images beside it."
    return "Labels: FER-2013's own, nothing else."


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
