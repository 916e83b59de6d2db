"""A run folder: where a training run keeps what it is made of, its history and its weights.

config.json        what the run is made of (`FitConfig`), the data's hash and the versions of the libraries
history.jsonl      one line an epoch
teaching.npz       what its teachers say of the training images, if it has any
best.weights.h5    averaged weights of the epoch with the best PublicTest accuracy so far
checkpoint/        what `--resume` needs: weights, averages, optimizer, step, random generator
tensorboard/       the history for TensorBoard
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from edge.contract import UserError
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.errors import CheckpointError
from trainer.labels import LabelKind, class_names
from trainer.model import Policy, build_network, heads, normalize

CONFIG: Final = "config.json"
HISTORY: Final = "history.jsonl"
TEACHING: Final = "teaching.npz"
BEST_WEIGHTS: Final = "best.weights.h5"
CHECKPOINTS: Final = "checkpoint"
TENSORBOARD: Final = "tensorboard"

_PREDICT_BATCH: Final = 256


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
    """

    data: str
    data_sha256: str
    git_revision: str
    libraries: dict[str, str]
    validation_sha256: str = ""
    votes_sha256: str = ""
    initial_data: str = ""

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
        git_revision=_git_revision(),
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


def lock(path: Path) -> IO[bytes] | None:
    """Claims a file for this process, until what is returned is closed or the process ends; None if another has it.

    The file is made where there is none, and its content is left alone.

    Raises:
        OSError: The file cannot be opened.
    """
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


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


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Tells of a full disk, or of what else keeps the block from writing, where and what to do.

    Raises:
        UserError: Something cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror or error})", where=place,
            remedy="Make room there and repeat the command, with --resume where the run has begun",
        ) from error  # fmt: skip


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
    """
    document = {"fit": config.to_dict(), **asdict(origin)}
    try:
        file = (run / CONFIG).open("x")
    except FileExistsError:
        raise _taken(run) from None
    try:
        with file:
            file.write(json.dumps(document, indent=2) + "\n")
    except BaseException:  # a full disk: half a configuration would be neither a run nor room for one
        (run / CONFIG).unlink()
        raise


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
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"cannot be read ({error})", where=run / CONFIG, remedy="Train again with this version"
        ) from error


def read_recipe(path: Path) -> FitConfig:
    """Reads a `FitConfig` from JSON: `best.json` of a study, or `config.json` of a run.

    Raises:
        CheckpointError: The file cannot be read, or is something else.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        return FitConfig.from_dict(document.get("fit", document))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"holds no configuration of a run ({error})", where=path,
            remedy="Give best.json of trainer tune, or config.json of trainer fit",
        ) from error  # fmt: skip


def network_for(config: FitConfig, *, dropout: float = 0.0, policy: Policy = "float32") -> keras.Model:
    """The untrained network of a run with all its heads, as `build_network` makes it."""
    return build_network(
        classes=len(class_names(config.labels)), width=config.width, top_channels=config.top_channels,
        blocks=config.blocks, dropout=dropout, vote_head=config.votes_weight > 0, mirror=config.mirror,
        policy=policy,
    )  # fmt: skip


def load_network(run: Path, labels: LabelKind | None = None) -> keras.Model:
    """The network with the best weights of a run and one of its heads: normalized float32 (N, 48, 48, 1) to logits.

    Args:
        run: The folder.
        labels: Whose labels the head speaks; without it, the main head.

    Raises:
        CheckpointError: There is no run, no finished epoch, or no head that learned these labels.
    """
    config, _ = read_config(run)
    main_head = labels in (None, config.labels)
    if not main_head and not (labels == "ferplus" and config.votes_weight):
        raise CheckpointError(f"has learned {config.labels} only, not {labels}", where=run,
                              remedy=f"Train one with --labels {labels}")  # fmt: skip
    full = load_full_network(run)
    return keras.Model(full.inputs, full.outputs[0 if main_head else 1])


def load_full_network(run: Path, policy: Policy = "float32") -> keras.Model:
    """The network with the best weights of a run and all its heads, as `build_network` makes it.

    Raises:
        CheckpointError: There is no run, or no finished epoch.
    """
    network = network_for(read_config(run)[0], policy=policy)
    try:
        network.load_weights(run / BEST_WEIGHTS)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"no usable {BEST_WEIGHTS} ({error})", where=run, remedy="Let trainer fit finish an epoch"
        ) from error
    return network


def predict(network: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits float32 (N, classes) of the network's main head for uint8 (N, 48, 48)."""
    batches = []
    for start in range(0, len(images), _PREDICT_BATCH):
        outputs = network(normalize(images[start : start + _PREDICT_BATCH, :, :, np.newaxis]), training=False)
        batches.append(keras.ops.convert_to_numpy(heads(outputs)[0]))
    return np.concatenate(batches)


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


def _git_revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return "unknown"
