"""Where a run comes from: its data, known by their hashes, the revision of the trainer, and the libraries."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        data: File name of the data set.
        data_sha256: Hash of the training images and labels as they were read, so that every layout of the same pixels
            gives the same. Kaggle's JPEGs have other pixels than the challenge's table.
        git_revision: Of the trainer's checkout, or `unknown` outside one.
        libraries: Version of each library that shapes the result.
        validation_sha256: The same of PublicTest; empty in runs of earlier versions.
        votes_sha256: Hash of the votes of both, where they are learned; empty otherwise.
        initial_data: File name of the data that the initial weights were fitted to, where that was other data, among
            which may be what judges this run; empty otherwise.
        weights_sha256: Hash of the weights of each teacher, and of those that the run began with, by folder; empty in
            runs of earlier versions.
    """

    data: str
    data_sha256: str
    git_revision: str
    libraries: dict[str, str]
    validation_sha256: str = ""
    votes_sha256: str = ""
    initial_data: str = ""
    weights_sha256: dict[str, str] = field(default_factory=dict)

    def other_data(self, data_sha256: str) -> str:
        """File name of the data, other than those of this hash, that the weights were fitted to; empty without any."""
        return self.data if self.data_sha256 != data_sha256 else self.initial_data


def provenance(dataset: Dataset, config: FitConfig) -> Provenance:
    """Provenance of a run that begins now.

    Raises:
        DataError: The split `train` or `validation` is missing.
    """
    train, validation = dataset.split("train"), dataset.split("validation")
    versions = {name: importlib.metadata.version(name) for name in (keras.backend.backend(), "keras", "numpy")}
    return Provenance(
        data=dataset.path.resolve().name,  # of "." too
        data_sha256=data_sha256(dataset),
        git_revision=_git_revision(Path(__file__).resolve().parents[1]),
        libraries=versions,
        validation_sha256=_sha256(validation),
        votes_sha256=_votes_sha256(train, validation) if config.learns_votes else "",
    )


def data_sha256(dataset: Dataset) -> str:
    """Hash of the training images and labels, as in `Provenance`.

    Raises:
        DataError: The split `train` is missing.
    """
    return _sha256(dataset.split("train"))


def require_data(run: Path, origin: Provenance, dataset: Dataset) -> None:
    """Refuses images or labels other than those that a run was fitted to and chosen on.

    Raises:
        CheckpointError: They are others.
        DataError: The split `train` or `validation` is missing.
    """
    if data_sha256(dataset) != origin.data_sha256:
        raise CheckpointError(f"was begun with other data ({origin.data})", where=run,
                              remedy="Give that data, or name another run")  # fmt: skip
    if origin.validation_sha256 not in {"", _sha256(dataset.split("validation"))}:
        raise CheckpointError("was begun with another PublicTest, which has chosen its weights", where=run,
                              remedy=f"Give the data that it was begun with ({origin.data})")  # fmt: skip


def require_same_votes(run: Path, config: FitConfig, origin: Provenance, dataset: Dataset) -> None:
    """Refuses votes other than those that a run learns.

    Raises:
        CheckpointError: They are others.
        DataError: A split is missing.
    """
    votes = _votes_sha256(dataset.split("train"), dataset.split("validation")) if config.learns_votes else ""
    if votes and origin.votes_sha256 not in {"", votes}:
        raise CheckpointError("was begun with other votes", where=run,
                              remedy="Give the --votes that it was begun with")  # fmt: skip


def _sha256(faces: FaceSet, votes: NDArray[np.int64] | None = None) -> str:
    """Of images with their labels, and of votes int64 (N, 10), whatever the order of the images."""
    beside = [b""] * len(faces) if votes is None else [row.tobytes() for row in votes]
    digests = sorted(
        hashlib.sha256(image.tobytes() + bytes([label]) + more).digest()
        for image, label, more in zip(faces.images, faces.labels, beside, strict=True)
    )
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _votes_sha256(*splits: FaceSet) -> str:
    return hashlib.sha256("".join(_sha256(faces, faces.votes) for faces in splits).encode()).hexdigest()


def _git_revision(checkout: Path) -> str:
    """Of the repository whose top is `checkout`; that of another one around it, where it is installed, says nothing."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # GIT_DIR
    environment["GIT_CEILING_DIRECTORIES"] = str(checkout.parent)
    try:
        return subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
