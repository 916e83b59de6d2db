"""A run folder: where a training run keeps what it is made of, its history and its weights.

config.json        what the run is made of (`FitConfig`), the data's hash and the versions of the libraries
history.jsonl      one line an epoch
teaching.npz       what its teachers say of the training images, if it has any
best.weights.h5    averaged weights of the epoch with the best PublicTest accuracy so far
checkpoint/        what `--resume` needs: weights, averages, optimizer, step, random generator
tensorboard/       the history for TensorBoard
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from trainer.config import FitConfig
from trainer.disk import created, lock
from trainer.errors import CheckpointError
from trainer.provenance import Provenance

CONFIG: Final = "config.json"
HISTORY: Final = "history.jsonl"
TEACHING: Final = "teaching.npz"
BEST_WEIGHTS: Final = "best.weights.h5"
CHECKPOINTS: Final = "checkpoint"
TENSORBOARD: Final = "tensorboard"


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Keeps other processes from training the same run while the block is open.

    Raises:
        CheckpointError: Another process trains it.
    """
    claimed = lock(run / CONFIG)
    if claimed is None:
        raise CheckpointError("is being trained by another process", where=run,
                              remedy="Let that one finish, or stop it")  # fmt: skip
    with claimed:
        yield


def require_new(run: Path) -> None:
    """Refuses a folder that holds a run.

    Raises:
        CheckpointError: It does.
    """
    if (run / CONFIG).exists():
        raise _taken(run)


def _taken(run: Path) -> CheckpointError:
    return CheckpointError(
        "holds a run already", where=run, remedy="Add --resume to go on with it, or name another folder"
    )


def write_config(run: Path, config: FitConfig, origin: Provenance) -> None:
    """Writes `config.json`, which makes the folder a run.

    Raises:
        CheckpointError: There is one already.
        OSError: It cannot be written.
    """
    document = {"fit": config.to_dict(), **asdict(origin)}
    try:
        # Whole or not at all: half a configuration would be neither a run nor room for one.
        with created(run / CONFIG) as fresh:
            fresh.write_text(json.dumps(document, indent=2) + "\n")
    except FileExistsError:
        raise _taken(run) from None


def read_config(run: Path) -> tuple[FitConfig, Provenance]:
    """Reads `config.json`.

    Raises:
        CheckpointError: `run` is no run folder, or its config is of another version.
    """
    try:
        document: dict[str, Any] = json.loads((run / CONFIG).read_text())
        config = FitConfig.from_dict(document.pop("fit"))
        return config, Provenance(**document)
    except OSError as error:
        raise CheckpointError(
            "is not a run folder (no config.json)", where=run, remedy="Give the folder that trainer fit wrote"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"cannot be read ({error})", where=run / CONFIG, remedy="Train again with this version"
        ) from error
