"""Audit and evaluation as tables for the terminal."""

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
    """Renders the output of `trainer data check`."""
    sections = [_titled(f"Images in {audit.path}", _count_table(audit.counts))]
    if audit.ferplus_counts is not None:
        sections.append(_titled("Images with a majority label in FER+", _count_table(audit.ferplus_counts)))
    sections.append(_titled("Problematic images", _unusable_table(audit)))
    sections.append(_titled("Images with duplicates", _overlap_table(audit)))
    largest = max((len(group.images) for group in audit.groups), default=0)
    summary = (
        f"{len(audit.groups):,} groups of duplicates, the largest with {largest} images; "
        f"{len(audit.conflicts):,} of them have conflicting labels."
    )
    return Group(*sections, summary)


def evaluation_text(subject: Subject, evaluation: Evaluation) -> RenderableType:
    """Renders the output of `trainer evaluate`: a summary of all models, and details of the first."""
    name, model = next(iter(evaluation.models.items()))
    title = f"{subject.target} on {subject.source}, {evaluation.images:,} images"
    return Group(
        _titled(title, _summary_table(evaluation)),
        *(comparison_sentence(comparison) for comparison in evaluation.comparisons),
        _titled(f"Per-class metrics, {name}", _class_table(model)),
        _titled(f"Confusion matrix (rows: label, columns: prediction), {name}", _confusion_table(model.classification)),
        *_robustness(evaluation),
    )


def percent(share: float) -> str:
    """Formats a share: 0.7234 as `72.3 %`."""
    return f"{100 * share:.1f} %"


def with_interval(share: Proportion) -> str:
    """Formats a share with its 95 % confidence interval: `72.3 % (70.8 to 73.7)`."""
    return f"{percent(share.value)} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def comparison_sentence(comparison: Comparison) -> str:
    """Summarizes the comparison of two models in a sentence."""
    first, second, agreement = comparison.first, comparison.second, percent(comparison.agreement.value)
    return (
        f"{first} and {second} agree on {agreement} of the images; "
        f"{comparison.first_only} are classified correctly only by {first}, {comparison.second_only} only by {second} "
        f"(exact McNemar test: p = {comparison.p_value:.2g})."
    )


def _count_table(counts: Counts) -> Table:
    table = _table("emotion", *counts)
    for emotion in next(iter(counts.values())):
        table.add_row(emotion, *(f"{by_emotion[emotion]:,}" for by_emotion in counts.values()))
    table.add_section()
    table.add_row("total", *(f"{sum(by_emotion.values()):,}" for by_emotion in counts.values()))
    return table


def _unusable_table(audit: Audit) -> Table:
    table = _table("", "images")
    table.add_column("examples", overflow="fold")
    table.add_row("unreadable (skipped)", f"{len(audit.unreadable):,}", _examples(audit.unreadable))
    table.add_row("not 48x48 (resized)", f"{len(audit.resized):,}", _examples(audit.resized))
    table.add_row("blank", f"{len(audit.blank):,}", _examples(image.name for image in audit.blank))
    return table


def _overlap_table(audit: Audit) -> Table:
    table = _table("images of", "duplicates in", "exact copies", "near-duplicates", "share")
    for overlap in audit.overlaps:
        total = sum(audit.counts[overlap.of].values())
        table.add_row(
            overlap.of, overlap.into, f"{overlap.exact:,}", f"{overlap.near:,}", percent(overlap.near / total)
        )
    return table


def _summary_table(evaluation: Evaluation) -> Table:
    table = _table("", *evaluation.models)
    models = evaluation.models.values()
    table.add_row("top-1 accuracy (95 % interval)", *(with_interval(model.classification.accuracy) for model in models))
    if evaluation.robustness:
        results = (model.robustness for model in models)
        cells = (with_interval(result.mean_corruption_accuracy) if result else "-" for result in results)
        table.add_row("mean corruption accuracy", *cells)
    if evaluation.leaked:
        cells = (with_interval(m.without_leaked.accuracy) if m.without_leaked else "-" for m in models)
        table.add_row(f"accuracy without the {evaluation.leaked:,} near-duplicates of training images", *cells)
    table.add_row("macro F1", *(f"{model.classification.macro_f1:.3f}" for model in models))
    table.add_row("balanced accuracy", *(percent(model.classification.balanced_accuracy) for model in models))
    table.add_row("expected calibration error (ECE)", *(f"{model.calibration.ece:.4f}" for model in models))
    table.add_row("Brier score", *(f"{model.calibration.brier:.4f}" for model in models))
    table.add_row("negative log-likelihood", *(f"{model.calibration.nll:.4f}" for model in models))
    return table


def _robustness(evaluation: Evaluation) -> Iterator[Group]:
    """Yields a table with the first model by severity and the means of all models; nothing if not measured."""
    measured = evaluation.robustness
    if not measured:
        return
    name, first = next(iter(measured.items()))
    table = _table("corruption, accuracy in %", *map(str, SEVERITIES), *(f"mean, {model}" for model in measured))
    for number, corruption in enumerate(CORRUPTIONS):
        means = (model.corruptions[number].mean for model in measured.values())
        table.add_row(corruption.title, *_percents(*first.corruptions[number].accuracies, *means))
    table.add_section()
    means = (model.mean_corruption_accuracy.value for model in measured.values())
    table.add_row("mean", *_percents(*first.by_severity, *means))
    yield _titled(f"Accuracy under corruption at severity 1 to 5, {name}", table)


def _percents(*shares: float) -> Iterator[str]:
    return (f"{100 * share:.1f}" for share in shares)


def _class_table(model: ModelResult) -> Table:
    table = _table("emotion", "precision", "recall", "F1", "images", "predictions")
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
    # Rich wraps a table's own title to the width of the table.
    return Group("", Text(title, style="bold"), table)


def _table(first: str, *others: str) -> Table:
    table = Table(header_style="")
    table.add_column(first)
    for header in others:
        table.add_column(header, justify="right")
    return table


def _examples(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "")
