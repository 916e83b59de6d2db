"""A run folder: where a training run keeps its configuration, history, weights and checkpoints.

config.json        the configuration (`FitConfig`), the hash of the data and the versions of the libraries
history.jsonl      one line per epoch
teaching.npz       the teachers' predictions for the training images, if they are computed before training
best.weights.h5    averaged weights of the epoch with the best PublicTest accuracy so far
checkpoint/        what `--resume` needs: weights, averaged weights, optimizer, epoch, random generator
tensorboard/       the history as TensorBoard event files
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from trainer.config import FitConfig
from trainer.disk import atomic_create, lock
from trainer.errors import CheckpointError
from trainer.provenance import Provenance

CONFIG: Final = "config.json"
HISTORY: Final = "history.jsonl"
SOFT_TARGETS: Final = "teaching.npz"
BEST_WEIGHTS: Final = "best.weights.h5"
CHECKPOINTS: Final = "checkpoint"
TENSORBOARD: Final = "tensorboard"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keeps other processes from training the same run inside the block.

    Raises:
        CheckpointError: Another process is training it.
    """
    file = lock(run / CONFIG)
    if file is None:
        raise CheckpointError("is being trained by another process", where=run,
                              remedy="Wait for it to finish, or stop it")  # fmt: skip
    with file:
        yield


def require_new(run: Path) -> None:
    """Checks that the folder does not hold a run yet.

    Raises:
        CheckpointError: It does.
    """
    if (run / CONFIG).exists():
        raise _already_exists(run)


def _already_exists(run: Path) -> CheckpointError:
    return CheckpointError("already holds a run", where=run,
                           remedy="Add --resume to continue it, or name another folder")  # fmt: skip


def write_config(run: Path, config: FitConfig, origin: Provenance) -> None:
    """Writes `config.json`, which makes the folder a run.

    Raises:
        CheckpointError: The folder already has one.
        OSError: It cannot be written.
    """
    document = {"fit": config.to_dict(), **asdict(origin)}
    try:
        # Atomically: half a configuration could not be resumed, and would block a new run in the same folder.
        with atomic_create(run / CONFIG) as temporary:
            temporary.write_text(json.dumps(document, indent=2) + "\n")
    except FileExistsError:
        raise _already_exists(run) from None


def read_config(run: Path) -> tuple[FitConfig, Provenance]:
    """Reads `config.json`.

    Raises:
        CheckpointError: `run` is not a run folder, or its configuration is damaged or of another version.
    """
    try:
        document: dict[str, Any] = json.loads((run / CONFIG).read_text())
        config = FitConfig.from_dict(document.pop("fit"))
        return config, Provenance(**document)
    except OSError as error:
        raise CheckpointError(
            "is not a run folder (no config.json)", where=run, remedy="Name a folder that trainer fit wrote"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"cannot be read ({error})", where=run / CONFIG, remedy="Train again with this version"
        ) from error
