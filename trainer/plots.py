"""Plots for audits, evaluations and studies; each function returns a matplotlib figure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from numpy.typing import NDArray

from edge.contract import EMOTIONS
from trainer.audit import Audit, Counts, DuplicateGroup
from trainer.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from trainer.data import Dataset, FaceSet
from trainer.evaluate import Evaluation, ModelResult
from trainer.layouts import SIZE_PX
from trainer.metrics import Classification

if TYPE_CHECKING:
    from trainer.study import Trial  # imports Optuna, which is only needed for studies

_COLORS: Final = ("#2f5d8a", "#e08a2e", "#5b9e6f", "#9a6fb0")
_TEXT_COLOR: Final = "#24292f"
_GRID_COLOR: Final = "#d8dee4"
_FACES_PER_ROW: Final = 14
_GROUPS_SHOWN: Final = 6
_MISTAKES_SHAPE: Final = (4, 8)  # rows, columns
_SLICES_PER_ROW: Final = 4


def class_balance(counts: Counts) -> Figure:
    """Bar chart of the class distribution of each split, annotated with the number of images."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = _axes(figure, title="Class balance", y="share of the split, %")
    emotions, width = list(next(iter(counts.values()))), 0.8 / len(counts)
    for number, (split, by_emotion) in enumerate(counts.items()):
        total = sum(by_emotion.values())
        at = np.arange(len(emotions)) + (number - (len(counts) - 1) / 2) * width
        shares = [100 * by_emotion[emotion] / total for emotion in emotions]
        bars = axes.bar(at, shares, 0.92 * width, color=_COLORS[number], label=f"{split} ({total:,})")
        axes.bar_label(bars, [f"{by_emotion[emotion]:,}" for emotion in emotions], fontsize=6.5, padding=2)
    axes.set_xticks(range(len(emotions)), emotions)
    axes.legend(frameon=False)
    return figure


def contact_sheet(dataset: Dataset, audit: Audit) -> Figure:
    """Random images of each emotion, then the largest groups of duplicates, those with conflicting labels first."""
    groups = sorted(audit.groups, key=lambda group: not group.conflicting)[:_GROUPS_SHOWN]
    rows = [(emotion, _sample(dataset, label)) for label, emotion in enumerate(EMOTIONS)]
    rows += [(_caption(group), _members(dataset, group)) for group in groups]
    figure = Figure(figsize=(13.5, 0.94 * len(rows)))
    figure.subplots_adjust(left=0.1, right=0.995, bottom=0.005, top=0.995, hspace=0.06)
    for position, (caption, images) in enumerate(rows):
        axes = figure.add_subplot(len(rows), 1, position + 1)
        axes.imshow(_strip(images), cmap="gray", vmin=0, vmax=255)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(caption, rotation=0, ha="right", va="center", fontsize=9, color=_TEXT_COLOR)
    return figure


def confusion(result: Classification) -> Figure:
    """Confusion matrix; cells show counts, colors are normalized by label."""
    counts = np.array(result.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [score.name for score in result.classes]
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = _axes(figure, title="Confusion matrix", x="prediction", y="label")
    axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.55 else _TEXT_COLOR
        axes.text(column + 0.5, row + 0.5, f"{count:,}", ha="center", va="center", fontsize=9, color=color)
    middles = np.arange(len(names)) + 0.5
    axes.set_xticks(middles, names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(middles, names)
    axes.invert_yaxis()
    axes.grid(visible=False)
    return figure


def reliability(models: Mapping[str, ModelResult]) -> Figure:
    """Reliability diagram: accuracy against confidence; a perfectly calibrated model is on the diagonal."""
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = _axes(figure, title="Reliability diagram", x="confidence", y="accuracy")
    axes.plot([0, 1], [0, 1], color=_TEXT_COLOR, linewidth=0.8, linestyle=":")
    for (name, model), color in zip(models.items(), cycle(_COLORS), strict=False):
        filled = [b for b in model.calibration.bins if b.count]
        confidence, accuracy = np.array([(b.confidence, b.accuracy) for b in filled], np.float64).T
        sizes = np.array([b.count for b in filled])
        axes.plot(confidence, accuracy, color=color, linewidth=1.2, label=f"{name}, ECE {model.calibration.ece:.3f}")
        axes.scatter(confidence, accuracy, 8 + 80 * sizes / sizes.max(), color=color, linewidth=0)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    return figure


def risk_coverage(models: Mapping[str, ModelResult]) -> Figure:
    """Risk-coverage curve, as accuracy against coverage when predictions of low confidence are rejected."""
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = _axes(figure, title="Accuracy against coverage", x="coverage", y="accuracy of accepted predictions")
    for (name, model), color in zip(models.items(), cycle(_COLORS), strict=False):
        accepted = [p for p in model.risk_coverage if p.coverage]
        coverage, accuracy = np.array([(p.coverage, p.accuracy) for p in accepted], np.float64).T
        axes.plot(coverage, accuracy, ".-", color=color, linewidth=1.2, label=name)
    first = next(iter(models.values()))
    for point in first.risk_coverage[6::3]:  # thresholds 0.30, 0.45, ...
        if point.accuracy is not None:
            axes.annotate(f"≥ {point.threshold:.2f}", (point.coverage, point.accuracy), (4, 5),
                          textcoords="offset points", fontsize=8, color=_TEXT_COLOR)  # fmt: skip
    axes.set_xlim(0, 1.05)
    axes.legend(frameon=False, loc="lower left")
    return figure


def mistakes(faces: FaceSet, model: ModelResult, labels: Sequence[str]) -> Figure:
    """The most confident misclassifications, each with prediction, confidence and label."""
    confidence, predictions = model.probabilities.max(axis=1), model.probabilities.argmax(axis=1)
    wrong = np.flatnonzero(predictions != faces.labels)
    shown = wrong[np.argsort(-confidence[wrong], kind="stable")][: _MISTAKES_SHAPE[0] * _MISTAKES_SHAPE[1]]
    rows = max(1, -(-len(shown) // _MISTAKES_SHAPE[1]))
    figure = Figure(figsize=(10.5, 1.75 * rows), layout="constrained")
    for position, index in enumerate(shown):
        axes = figure.add_subplot(rows, _MISTAKES_SHAPE[1], position + 1)
        axes.imshow(faces.images[index], cmap="gray", vmin=0, vmax=255)
        axes.axis("off")
        prediction = f"{labels[predictions[index]]} {confidence[index]:.2f}"
        axes.set_title(f"{prediction}\nlabel {labels[faces.labels[index]]}", fontsize=8, color=_TEXT_COLOR)
    return figure


def by_severity(evaluation: Evaluation) -> Figure:
    """One panel per corruption: accuracy at severity 0 (uncorrupted) to 5."""
    columns = 4
    figure = Figure(figsize=(10.5, 7), layout="constrained")
    panels = figure.subplots(-(-len(CORRUPTIONS) // columns), columns, sharex=True, sharey=True).flat
    for number, (corruption, axes) in enumerate(zip(CORRUPTIONS, panels, strict=False)):
        _style(axes, title=corruption.title)
        for (name, robustness), color in zip(evaluation.robustness.items(), cycle(_COLORS), strict=False):
            clean = evaluation.models[name].classification.accuracy.value
            accuracies = (clean, *robustness.corruptions[number].accuracies)
            axes.plot((0, *SEVERITIES), accuracies, ".-", color=color, linewidth=1.2, label=name)
        axes.set(xticks=(0, *SEVERITIES), ylim=(0, 1))
    for axes in panels:
        axes.axis("off")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), frameon=False, loc="lower right")
    figure.supxlabel("severity", fontsize=10, color=_TEXT_COLOR)
    return figure


def corruption_sheet(faces: FaceSet, model: ModelResult) -> Figure:
    """The correctly classified image of highest confidence, under each corruption (row) at each severity (column)."""
    correct = model.probabilities.argmax(axis=1) == faces.labels
    index = int((model.probabilities.max(axis=1) * correct).argmax())
    figure = Figure(figsize=(6.9, 1.25 * len(CORRUPTIONS)), layout="constrained")
    rows = figure.subplots(len(CORRUPTIONS), len(SEVERITIES))
    for corruption, row in zip(CORRUPTIONS, rows, strict=True):
        for axes, severity, level in zip(row, SEVERITIES, corruption.levels, strict=True):
            (image,) = corrupt(faces.images[[index]], corruption, severity)
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)
            axes.set_title(f"{level:g}", fontsize=8, color=_TEXT_COLOR, pad=2)
            axes.set(xticks=(), yticks=())
        row[0].set_ylabel(corruption.title, rotation=0, ha="right", va="center", fontsize=9, color=_TEXT_COLOR)
    return figure


def study_history(trials: Sequence[Trial]) -> Figure:
    """Accuracy of the trials in chronological order, and the best so far."""
    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = _axes(figure, title="Trials", x="trial", y="PublicTest accuracy")
    best = np.maximum.accumulate([trial.accuracy if trial.state == "complete" else 0.0 for trial in trials])
    shown = best > 0
    axes.step(np.flatnonzero(shown), best[shown], where="post", color=_COLORS[1], linewidth=1.2, label="best so far")
    for state, face in (("complete", _COLORS[0]), ("pruned", "none")):
        chosen = [trial for trial in trials if trial.state == state and trial.curve]
        axes.scatter([trial.number for trial in chosen], [trial.accuracy for trial in chosen], 24,
                     facecolor=face, edgecolor=_COLORS[0], linewidth=1, label=state)  # fmt: skip
    axes.legend(frameon=False, loc="best")
    return figure


def study_curves(trials: Sequence[Trial]) -> Figure:
    """Learning curves of all trials; the best trial is highlighted."""
    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = _axes(figure, title="Learning curves", x="epoch", y="PublicTest accuracy")
    best = max((t for t in trials if t.state == "complete"), key=lambda t: t.accuracy, default=None)
    for trial in trials:
        epochs, accuracies, chosen = list(trial.curve), list(trial.curve.values()), trial is best
        axes.plot(epochs, accuracies, ".-", color=_COLORS[1] if chosen else _COLORS[0], zorder=3 if chosen else 2,
                  alpha=1.0 if trial.state == "complete" else 0.35, linewidth=1.8 if chosen else 0.8)  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def study_slices(trials: Sequence[Trial], logarithmic: Iterable[str]) -> Figure:
    """Accuracy against each parameter; later trials, which the sampler chose more deliberately, are darker."""
    completed = [trial for trial in trials if trial.state == "complete"]
    names = list(completed[0].params)
    rows, logarithmic = -(-len(names) // _SLICES_PER_ROW), set(logarithmic)
    figure = Figure(figsize=(10.8, 2.6 * rows), layout="constrained")
    all_axes = figure.subplots(rows, _SLICES_PER_ROW, sharey=True, squeeze=False).ravel()
    for name, axes in zip(names, all_axes, strict=False):
        _style(axes, title=name)
        axes.scatter([trial.params[name] for trial in completed], [trial.accuracy for trial in completed], 20,
                     c=[t.number for t in completed], cmap="Blues", vmin=-len(trials) / 2, linewidth=0)  # fmt: skip
        if name in logarithmic:
            axes.set_xscale("log", subs=[])
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for axes in all_axes[len(names) :]:
        axes.axis("off")
    return figure


def study_importances(importances: Mapping[str, float]) -> Figure:
    """Bar chart of parameter importance, most important on top."""
    figure = Figure(figsize=(5.4, 0.6 + 0.4 * len(importances)), layout="constrained")
    axes = _axes(figure, title="Importance", x="share of the variance among the best trials")
    names, shares = list(importances), list(importances.values())
    bars = axes.barh(names, shares, color=_COLORS[0])
    axes.bar_label(bars, [f"{share:.2f}" for share in shares], fontsize=8, padding=2)
    axes.invert_yaxis()
    axes.grid(visible=False)
    return figure


def _axes(figure: Figure, *, title: str, x: str = "", y: str = "") -> Axes:
    axes = figure.add_subplot()
    axes.set(xlabel=x, ylabel=y)
    _style(axes, title=title)
    return axes


def _style(axes: Axes, *, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_TEXT_COLOR)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_GRID_COLOR, linewidth=0.6)
    axes.set_axisbelow(True)


def _sample(dataset: Dataset, label: int) -> list[NDArray[np.uint8]]:
    faces = next(iter(dataset.splits.values()))
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(faces.labels == label))[:_FACES_PER_ROW]
    return list(faces.images[chosen])


def _members(dataset: Dataset, group: DuplicateGroup) -> list[NDArray[np.uint8]]:
    return [dataset.splits[image.split].images[image.index] for image in group.images[:_FACES_PER_ROW]]


def _caption(group: DuplicateGroup) -> str:
    kind = "conflicting" if group.conflicting else "duplicates"
    return "\n".join([f"{kind}:", *(f"{count} x {emotion}" for emotion, count in group.emotions.most_common(3))])


def _strip(images: Iterable[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Returns uint8 (48, W): the images side by side, padded with white to a full row."""
    strip = np.full((SIZE_PX, (SIZE_PX + 2) * _FACES_PER_ROW), 255, np.uint8)
    for number, image in enumerate(images):
        strip[:, number * (SIZE_PX + 2) : number * (SIZE_PX + 2) + SIZE_PX] = image
    return strip
