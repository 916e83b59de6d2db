"""The named recipes of `--recipe`, and recipes from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from trainer.config import FitConfig
from trainer.errors import CheckpointError

RECIPES: Final[dict[str, FitConfig]] = {
    # trainer fit --data fer2013.csv --votes fer2013new.csv --teacher runs/teacher -o runs/first
    # About an hour on two x86 cores with AVX512-BF16. The README lists the runs behind the bundles, and
    # docs/experiments.md their results.
    "default": FitConfig(),
    # A teacher of twice the width, in about another hour: --recipe teacher -o runs/teacher.
    "teacher": FitConfig(width=2.0, stages=((36, 12), (48, 23)), dropout=0.2, degrade_share=0.0, erase_share=0.1),
    # Fine-tunes a finished run (--initial-weights): at full size from the start, with a lower learning rate and, as
    # these networks underfit, less weight decay. About 50 minutes at width 1.
    "refine": FitConfig(stages=((48, 100),), peak_lr=0.03, weight_decay=2e-4, erase_share=0.1, teacher_weight=0.6),
    # A trial of trainer tune, five minutes on the same machine. Images of one size, because accuracy drops at first
    # after a change of size, and an EMA over fewer steps, because there are few.
    "trial": FitConfig(stages=((48, 10),), ema_decay=0.995),
    # To try out the whole workflow in a few minutes: --recipe quick.
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
        CheckpointError: The file cannot be read, or is not such a file.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        return FitConfig.from_dict(document.get("fit", document))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"is not a run configuration ({error})", where=path,
            remedy="Name best.json of trainer tune, or config.json of trainer fit",
        ) from error  # fmt: skip
