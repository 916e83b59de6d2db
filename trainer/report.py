"""The evaluation as a self-contained HTML report: figures are embedded and nothing is fetched from the network."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from trainer import plots
from trainer.corruptions import CORRUPTIONS, SEVERITIES
from trainer.data import FaceSet
from trainer.evaluate import Evaluation, Subject
from trainer.text import comparison_sentence, percent, with_interval


def html_report(subject: Subject, evaluation: Evaluation, faces: FaceSet) -> str:
    """Renders the HTML report of an evaluation.

    Args:
        subject: What was evaluated on what.
        evaluation: The result.
        faces: The evaluated images; up to 33 of them are embedded in the report as examples.
    """
    name, first = next(iter(evaluation.models.items()))
    return render(
        "report.html",
        subject=subject,
        evaluation=evaluation,
        name=name,
        model=first,
        sentences=[comparison_sentence(comparison) for comparison in evaluation.comparisons],
        confusion=svg(plots.confusion(first.classification)),
        reliability=svg(plots.reliability(evaluation.models)),
        risk_coverage=svg(plots.risk_coverage(evaluation.models)),
        corruptions=CORRUPTIONS,
        severities=SEVERITIES,
        by_severity=svg(plots.by_severity(evaluation)) if evaluation.robustness else None,
        corrupted=_png(plots.corruption_sheet(faces, first)) if evaluation.robustness else None,
        mistakes=_png(plots.mistakes(faces, first, evaluation.labels)),
    )


def render(template: str, **values: Any) -> str:
    """Renders a template of this package; all of them extend `page.html`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, with_interval=with_interval)
    return environment.get_template(template).render(**values)


def svg(figure: Figure) -> str:
    """Returns the figure as an SVG data URI."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "trainer"}):  # reproducible output
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _data_uri("image/svg+xml", buffer)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return _data_uri("image/png", buffer)


def _data_uri(media_type: str, content: io.BytesIO) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
