"""The provenance of a run: hashes of its data, the revision of the trainer and the library versions."""

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
    """What a model was trained with.

    Attributes:
        data: File name of the data set.
        data_sha256: Hash of the training pixels and labels as read, and therefore the same for every layout with the
            same pixels. Kaggle's JPEGs differ in their pixels from the challenge's table.
        git_revision: Revision of the trainer's checkout, or `unknown` outside one.
        libraries: Version of each library that affects the result.
        validation_sha256: Like `data_sha256`, for PublicTest; empty in runs of earlier versions.
        votes_sha256: Hash of the FER+ votes of both splits, if the run is trained on votes; empty otherwise.
        initial_data: File name of the data set that the initial weights were trained on, if it was another one, which
            may contain this run's validation or test images; empty otherwise.
        weights_sha256: Hash of the weights of each teacher and of the initial weights, by run folder; empty in runs of
            earlier versions.
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
        """Returns the file name of a data set other than this one that the weights were trained on; empty if none."""
        return self.data if self.data_sha256 != data_sha256 else self.initial_data


def provenance(dataset: Dataset, config: FitConfig) -> Provenance:
    """Returns the provenance of a run that starts now.

    Raises:
        DataError: The split `train` or `validation` is missing.
    """
    train, validation = dataset.split("train"), dataset.split("validation")
    versions = {name: importlib.metadata.version(name) for name in (keras.backend.backend(), "keras", "numpy")}
    return Provenance(
        data=dataset.path.resolve().name,  # resolved, as "." has no name
        data_sha256=data_sha256(dataset),
        git_revision=_git_revision(Path(__file__).resolve().parents[1]),
        libraries=versions,
        validation_sha256=_sha256(validation),
        votes_sha256=_votes_sha256(train, validation) if config.learns_votes else "",
    )


def data_sha256(dataset: Dataset) -> str:
    """Returns the hash of the training images and labels, as in `Provenance`.

    Raises:
        DataError: The split `train` is missing.
    """
    return _sha256(dataset.split("train"))


def require_data(run: Path, origin: Provenance, dataset: Dataset) -> None:
    """Checks that the training and validation data are those of the run.

    Raises:
        CheckpointError: They differ.
        DataError: The split `train` or `validation` is missing.
    """
    if data_sha256(dataset) != origin.data_sha256:
        raise CheckpointError(f"was started with other data ({origin.data})", where=run,
                              remedy="Use that data set, or name another run")  # fmt: skip
    if origin.validation_sha256 not in {"", _sha256(dataset.split("validation"))}:
        raise CheckpointError("was started with another PublicTest, on which its weights were selected", where=run,
                              remedy=f"Use the data set that it was started with ({origin.data})")  # fmt: skip


def require_same_votes(run: Path, config: FitConfig, origin: Provenance, dataset: Dataset) -> None:
    """Checks that the FER+ votes are those that the run is trained on.

    Raises:
        CheckpointError: They differ.
        DataError: A split is missing.
    """
    votes = _votes_sha256(dataset.split("train"), dataset.split("validation")) if config.learns_votes else ""
    if votes and origin.votes_sha256 not in {"", votes}:
        raise CheckpointError("was started with other votes", where=run,
                              remedy="Use the --votes that it was started with")  # fmt: skip


def _sha256(faces: FaceSet, votes: NDArray[np.int64] | None = None) -> str:
    """Hashes images with their labels, and votes int64 (N, 10) if given, regardless of the order of the images."""
    vote_bytes = [b""] * len(faces) if votes is None else [row.tobytes() for row in votes]
    digests = sorted(
        hashlib.sha256(image.tobytes() + bytes([label]) + row).digest()
        for image, label, row in zip(faces.images, faces.labels, vote_bytes, strict=True)
    )
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _votes_sha256(*splits: FaceSet) -> str:
    return hashlib.sha256("".join(_sha256(faces, faces.votes) for faces in splits).encode()).hexdigest()


def _git_revision(checkout: Path) -> str:
    """Describes HEAD of the repository at `checkout`, ignoring one around it, in which the trainer may be installed."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # GIT_DIR
    environment["GIT_CEILING_DIRECTORIES"] = str(checkout.parent)
    try:
        return subprocess.run(  # noqa: S603
            command, env=environment, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
