"""The audit and the evaluation as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trainer.audit import Audit, Counts
from trainer.corruptions import CORRUPTIONS, SEVERITIES
from trainer.evaluate import Evaluation, ModelResult, Subject
from trainer.metrics import Classification, ClassScore, Comparison, Proportion

_NAMES_SHOWN = 5


def audit_text(audit: Audit) -> RenderableType:
    """What `trainer data check` prints."""
    sections = [_titled(f"Images in {audit.path}", _count_table(audit.counts))]
    if audit.ferplus_counts is not None:
        sections.append(_titled("Images on which the crowd of FER+ agrees", _count_table(audit.ferplus_counts)))
    sections.append(_titled("Unusual images", _unusable_table(audit)))
    sections.append(_titled("Images that show up again", _overlap_table(audit)))
    largest = max((len(group.images) for group in audit.groups), default=0)
    summary = (
        f"{len(audit.groups):,} groups of duplicates, the largest of {largest} images; "
        f"in {len(audit.conflicts):,} of them the labels contradict each other."
    )
    return Group(*sections, summary)


def evaluation_text(subject: Subject, evaluation: Evaluation) -> RenderableType:
    """What `trainer evaluate` prints: all models in short, and the first at length."""
    name, model = next(iter(evaluation.models.items()))
    title = f"{subject.target} on {subject.place}, {evaluation.images:,} images"
    return Group(
        _titled(title, _summary_table(evaluation)),
        *(comparison_sentence(comparison) for comparison in evaluation.comparisons),
        _titled(f"Classes, {name}", _class_table(model)),
        _titled(f"Answers (columns) by label (rows), {name}", _confusion_table(model.classification)),
        *_robustness(evaluation),
    )


def percent(share: float) -> str:
    """0.7234 as 72.3 %."""
    return f"{100 * share:.1f} %"


def with_interval(share: Proportion) -> str:
    """Value and 95 % interval: 72.3 % (70.8 to 73.7)."""
    return f"{percent(share.value)} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def comparison_sentence(comparison: Comparison) -> str:
    """How two models relate, in a sentence."""
    first, second, agreement = comparison.first, comparison.second, percent(comparison.agreement.value)
    return (
        f"{first} and {second} give the same answer to {agreement} of the images; "
        f"only {first} is right on {comparison.first_only}, only {second} on {comparison.second_only} "
        f"(McNemar's p = {comparison.p_value:.2g})."
    )


def _count_table(counts: Counts) -> Table:
    table = _table("emotion", *counts)
    for emotion in next(iter(counts.values())):
        table.add_row(emotion, *(f"{by_emotion[emotion]:,}" for by_emotion in counts.values()))
    table.add_section()
    table.add_row("all", *(f"{sum(by_emotion.values()):,}" for by_emotion in counts.values()))
    return table


def _unusable_table(audit: Audit) -> Table:
    table = _table("", "images")
    table.add_column("the first of them", overflow="fold")
    table.add_row("unreadable, left out", f"{len(audit.unreadable):,}", _first(audit.unreadable))
    table.add_row("not 48x48, scaled", f"{len(audit.resized):,}", _first(audit.resized))
    table.add_row("blank", f"{len(audit.blank):,}", _first(image.name for image in audit.blank))
    return table


def _overlap_table(audit: Audit) -> Table:
    table = _table("of", "in", "exact copies", "near-duplicates", "share")
    for overlap in audit.overlaps:
        total = sum(audit.counts[overlap.of].values())
        table.add_row(
            overlap.of, overlap.into, f"{overlap.exact:,}", f"{overlap.near:,}", percent(overlap.near / total)
        )
    return table


def _summary_table(evaluation: Evaluation) -> Table:
    table = _table("", *evaluation.models)
    models = evaluation.models.values()
    table.add_row("accuracy (95 % interval)", *(with_interval(model.classification.accuracy) for model in models))
    if evaluation.robustness:
        spoilt = (model.robustness for model in models)
        cells = (with_interval(one.mean_corruption_accuracy) if one else "-" for one in spoilt)
        table.add_row("mean accuracy under corruption", *cells)
    if evaluation.leaked:
        cells = (with_interval(m.without_leaked.accuracy) if m.without_leaked else "-" for m in models)
        table.add_row(f"without the {evaluation.leaked:,} near-duplicates of training images", *cells)
    table.add_row("macro F1", *(f"{model.classification.macro_f1:.3f}" for model in models))
    table.add_row("balanced accuracy", *(percent(model.classification.balanced_accuracy) for model in models))
    table.add_row("calibration error (ECE)", *(f"{model.calibration.ece:.4f}" for model in models))
    table.add_row("Brier score", *(f"{model.calibration.brier:.4f}" for model in models))
    table.add_row("negative log likelihood", *(f"{model.calibration.nll:.4f}" for model in models))
    return table


def _robustness(evaluation: Evaluation) -> Iterator[Group]:
    """The first model by severity, all by their means; nothing where it was not measured."""
    measured = evaluation.robustness
    if not measured:
        return
    name, first = next(iter(measured.items()))
    table = _table("accuracy, %", *map(str, SEVERITIES), *(f"mean, {model}" for model in measured))
    for number, corruption in enumerate(CORRUPTIONS):
        means = (model.corruptions[number].mean for model in measured.values())
        table.add_row(corruption.title, *_hundredths(*first.corruptions[number].accuracies, *means))
    table.add_section()
    means = (model.mean_corruption_accuracy.value for model in measured.values())
    table.add_row("all", *_hundredths(*first.by_severity, *means))
    yield _titled(f"Under corruption of severity 1 to 5, {name}", table)


def _hundredths(*shares: float) -> Iterator[str]:
    return (f"{100 * share:.1f}" for share in shares)


def _class_table(model: ModelResult) -> Table:
    table = _table("emotion", "precision", "recall", "F1", "images", "answers")
    for score in model.classification.classes:
        table.add_row(score.name, *_score_cells(score))
    return table


def _score_cells(score: ClassScore) -> tuple[str, ...]:
    shares = (f"{share:.3f}" for share in (score.precision, score.recall, score.f1))
    return (*shares, f"{score.support:,}", f"{score.predicted:,}")


def _confusion_table(result: Classification) -> Table:
    names = [score.name for score in result.classes]
    table = _table("", *names)
    for label, row in zip(names, result.confusion, strict=True):
        table.add_row(label, *map(str, row))
    return table


def _titled(title: str, table: Table) -> Group:
    # Rich would fold a table's own title to the width of the table.
    return Group("", Text(title, style="bold"), table)


def _table(first: str, *others: str) -> Table:
    table = Table(header_style="")
    table.add_column(first)
    for header in others:
        table.add_column(header, justify="right")
    return table


def _first(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
