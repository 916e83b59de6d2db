"""The report of a study: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainer import plots
from trainer.config import FitConfig
from trainer.metrics import proportion
from trainer.report import render, svg
from trainer.study import Trial, ranking
from trainer.tune import SPACE

_ROWS = 20


def study_report(
    name: str,
    trials: Sequence[Trial],
    *,
    importances: Mapping[str, float],
    images: int,
    best: FitConfig,
    command: str,
) -> str:
    """Renders the report.

    Args:
        name: Name of the study.
        trials: All trials, by number; at least one is complete.
        importances: Importances of the parameters; empty if there are too few trials.
        images: Number of images in PublicTest.
        best: Configuration of the best trial.
        command: Command that trains with it.
    """
    ranked = ranking(trials)
    return render(
        "study_report.html",
        name=name,
        trials=trials,
        counts={state: sum(trial.state == state for trial in trials) for state in ("complete", "pruned", "failed")},
        hours=sum(trial.seconds for trial in trials) / 3600,
        best=ranked[0],
        accuracy=proportion(round(ranked[0].accuracy * images), images),
        config=best.to_dict(),
        command=command,
        ranked=ranked[:_ROWS],
        history=svg(plots.study_history(trials)),
        curves=svg(plots.study_curves(trials)),
        slices=svg(plots.study_slices(trials, (name for name, one in SPACE.items() if one.log))),
        importances=svg(plots.study_importances(importances)) if importances else None,
    )
