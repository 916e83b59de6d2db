"""The named recipes: each states its command, its time and what to expect; and recipes from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from trainer.config import FitConfig
from trainer.errors import CheckpointError

RECIPES: Final[dict[str, FitConfig]] = {
    # trainer fit --data fer2013.csv --votes fer2013new.csv --teacher runs/teacher -o runs/first
    # About an hour on two x86 cores with AVX512-BF16. The README has the runs that made the bundles, and
    # docs/experiments.md what came of each.
    "default": FitConfig(),
    # The network of twice the width that it learned from, in another hour: --recipe teacher -o runs/teacher.
    "teacher": FitConfig(width=2.0, stages=((36, 12), (48, 23)), dropout=0.2, degrade_share=0.0, erase_share=0.1),
    # More of a finished run, from --initial-weights: at full size from the start, with less noise in the steps (a lower
    # rate, and a weaker decay, which the networks that underfit can do without). About 50 minutes at width 1.
    "refine": FitConfig(stages=((48, 100),), peak_lr=0.03, weight_decay=2e-4, erase_share=0.1, teacher_weight=0.6),
    # A trial of trainer tune, five minutes on the same machine. One size of image, because a network that was trained
    # on small ones is at first no good at large ones, and weights averaged over fewer steps, because there are few.
    "trial": FitConfig(stages=((48, 10),), ema_decay=0.995),
    # To see the whole way for oneself in a few minutes: --recipe quick.
    "quick": FitConfig(
        stages=((32, 5), (48, 1)),
        weight_decay=3e-4,
        ema_decay=0.995,
        warmup_epochs=0.5,
        degrade_share=0.0,
        erase_share=0.0,
    ),
}


def read_recipe(path: Path) -> FitConfig:
    """Reads a `FitConfig` from JSON: `best.json` of a study, or `config.json` of a run.

    Raises:
        CheckpointError: The file cannot be read, or is something else.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        return FitConfig.from_dict(document.get("fit", document))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"holds no configuration of a run ({error})", where=path,
            remedy="Give best.json of trainer tune, or config.json of trainer fit",
        ) from error  # fmt: skip
