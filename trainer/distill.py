"""What teachers say of the training images, from which a smaller network learns (Hinton et al. 2015, arXiv:1503.02531).

Teachers are runs of `trainer fit` themselves. Each sees every training image in several views, and the mean of what
they say is computed once and kept, by a run for its resumption and by a study for all of its trials.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import keras
import numpy as np
from numpy.typing import NDArray

from trainer.errors import CheckpointError
from trainer.layers import Tensor
from trainer.model import normalize
from trainer.run import BEST_WEIGHTS, load_network, read_config

log = logging.getLogger(__name__)

_SHIFTS_PX: Final = ((0, 0), (3, 3), (3, -3), (-3, 3), (-3, -3))
"""Five places of the crop, each upright and mirrored: the ten views that are customary in evaluation."""

_BATCH: Final = 256

_DAMAGE: Final = (zipfile.BadZipFile, LookupError, EOFError, ValueError)
"""What numpy raises for a file that is cut off or changed."""

_Ask = Callable[[NDArray[np.uint8]], Tensor]
"""uint8 (N, 48, 48, 1) to probabilities float32 (N, classes)."""


def teaching(kept: Path, teachers: Sequence[str], images: NDArray[np.uint8], labels: str) -> NDArray[np.float32]:
    """The teachers' mean probabilities for the training images.

    Args:
        kept: File (.npz) from which they are read, or to which they are written if there is none.
        teachers: Folders of finished runs.
        images: uint8 (N, 48, 48), all training images in the order of training.
        labels: The kind of labels that the run learns.

    Returns:
        float32 (N, classes), each row summing to 1.

    Raises:
        CheckpointError: A teacher cannot be read or has other labels, or what is kept is of other teachers or images.
    """
    images_sha256 = hashlib.sha256(images.tobytes()).hexdigest()
    if kept.exists():
        try:
            return _read(kept, teachers, images_sha256)
        except _DAMAGE as error:
            log.warning("%s cannot be read, asking the teachers again (%s)", kept, error)
    weights = [_weights_sha256(teacher) for teacher in teachers]  # before they are asked: one may still be in training
    answers = np.mean([_taught_by(Path(teacher), images, labels) for teacher in teachers], axis=0, dtype=np.float32)
    partial = kept.with_name(f"partial.{os.getpid()}.{kept.name}")
    np.savez(partial, probabilities=answers, images_sha256=images_sha256, teachers=list(teachers), weights=weights)
    partial.replace(kept)
    return np.asarray(answers, np.float32)


def _read(kept: Path, teachers: Sequence[str], images_sha256: str) -> NDArray[np.float32]:
    with kept.open("rb") as file, np.load(file) as arrays:  # given a path, numpy leaves a damaged file open
        if list(arrays.get("teachers", ())) != list(teachers):
            raise CheckpointError("holds what other teachers say", where=kept,
                                  remedy="Name the teachers that it began with, or another folder")  # fmt: skip
        if str(arrays["images_sha256"]) != images_sha256:
            raise CheckpointError("belongs to other images, or to the same in another order", where=kept,
                                  remedy="Resume with the very files that the run began with")  # fmt: skip
        # Those that are gone have been asked already; files of earlier versions do not say what their weights were.
        for teacher, weights in zip(teachers, arrays.get("weights", ()), strict=False):
            if _weights_sha256(teacher) not in {"", weights}:
                raise CheckpointError(f"holds what {teacher} said before its weights changed", where=kept,
                                      remedy="Give it the former weights, or name another folder")  # fmt: skip
        return np.asarray(arrays["probabilities"], np.float32)


def _weights_sha256(teacher: str) -> str:
    """Of a teacher's weights; empty where there are none."""
    weights = Path(teacher) / BEST_WEIGHTS
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""


def require_teacher(teacher: Path, labels: str, data_sha256: str | None = None, *, votes_head: bool = False) -> None:
    """Refuses a folder that is no run, one without weights, and one that learned other labels or from other images.

    Args:
        teacher: Folder of a run.
        labels: What it must have learned.
        data_sha256: Of the training images that it must have learned from, since among others may be those that judge
            its pupil; None where that was seen to before.
        votes_head: Whether it must have learned FER+'s votes beside the labels.

    Raises:
        CheckpointError: It cannot teach; the error says why.
    """
    theirs, origin = read_config(teacher)
    if theirs.labels != labels:
        raise CheckpointError(
            f"learned the labels {theirs.labels}, not {labels}",
            where=teacher,
            remedy="Name a teacher with the same labels",
        )
    if data_sha256 is not None and (other := origin.other_data(data_sha256)):
        raise CheckpointError(
            f"learned from other data ({other}), among which may be what judges this run", where=teacher,
            remedy="Name a teacher of the same data",
        )  # fmt: skip
    if votes_head and not theirs.votes_weight:
        raise CheckpointError("has no votes head, which this run would learn from", where=teacher,
                              remedy="Name a teacher that learned --votes, or leave them out here")  # fmt: skip
    if not (teacher / BEST_WEIGHTS).exists():
        raise CheckpointError(
            f"has no {BEST_WEIGHTS} to teach with", where=teacher, remedy="Let trainer fit finish an epoch"
        )


def _taught_by(teacher: Path, images: NDArray[np.uint8], labels: str) -> NDArray[np.float32]:
    require_teacher(teacher, labels)
    log.info("asking the teacher %s about %d images", teacher, len(images))
    ask = _answering(load_network(teacher))
    return np.concatenate([_mean_over_views(ask, batch) for batch in _batches(images)])


def _answering(network: keras.Model) -> _Ask:
    def ask(batch: Tensor) -> Tensor:
        return keras.ops.softmax(network(normalize(batch), training=False))

    if keras.backend.backend() != "tensorflow":
        return ask
    import tensorflow as tf  # not needed, and perhaps not there, with another backend

    batches = tf.TensorSpec((None, None, None, 1), tf.uint8)
    compiled: _Ask = tf.function(ask, input_signature=[batches], jit_compile=False)
    return compiled


def _batches(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]


def _mean_over_views(ask: _Ask, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    answers = [keras.ops.convert_to_numpy(ask(view[..., np.newaxis])) for view in _views(images)]
    return np.asarray(np.mean(answers, axis=0), np.float32)


def _views(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """uint8 (N, 48, 48) shifted and mirrored; what a shift uncovers repeats the edge."""
    margin, side = max(max(shift) for shift in _SHIFTS_PX), images.shape[1]
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    for down, right in _SHIFTS_PX:
        top, left = margin + down, margin + right
        view = padded[:, top : top + side, left : left + side]
        yield view
        yield view[:, :, ::-1]
