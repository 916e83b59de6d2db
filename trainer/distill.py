"""Knowledge distillation: soft targets that teachers predict before training (Hinton et al. 2015, arXiv:1503.02531).

Teachers are runs of `trainer fit` themselves. They predict every training image, or augmented copies of it, in several
views. The mean of their predictions is computed once and cached: in a run so that it can be resumed, and in a study for
all of its trials, except for copies, which each trial augments differently.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from trainer.config import FitConfig
from trainer.copies import Copies
from trainer.disk import CORRUPT_FILE_ERRORS, atomic_replace, reporting_write_errors
from trainer.errors import CheckpointError
from trainer.inputs import require_teacher
from trainer.layers import Tensor
from trainer.model import heads, normalize
from trainer.weights import load_full_network, weights_sha256

log = logging.getLogger(__name__)

_Shifts = Sequence[tuple[int, int]]
"""Offsets (down, right) of the crop in pixels; each is predicted as it is and flipped."""

_TEN_VIEWS: Final[_Shifts] = ((0, 0), (3, 3), (3, -3), (-3, 3), (-3, -3))
"""Ten-crop evaluation: the center and four diagonal shifts, with their flips."""

_TWO_VIEWS: Final[_Shifts] = _TEN_VIEWS[:1]
"""For copies, which are shifted already."""

_KEYS: Final = ("probabilities", "votes")
"""Keys of the cache file, in the order of the heads."""

_BATCH: Final = 256

_Predict = Callable[[NDArray[np.uint8]], Sequence[Tensor]]
"""Images uint8 (N, 48, 48, 1) to probabilities of each head, float32 (N, classes)."""


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """Teacher predictions that were computed before training.

    Attributes:
        images: uint8 (N, 48, 48), the predicted images: the training images, or augmented copies of them.
        probabilities: Mean over teachers and views, float32 (N, classes), each row summing to 1: one array for the main
            head, and with copies one for the FER+ head too if the run has it.
    """

    images: NDArray[np.uint8]
    probabilities: Sequence[NDArray[np.float32]]


def soft_targets(cache: Path, config: FitConfig, images: NDArray[np.uint8]) -> SoftTargets:
    """Returns what the teachers of a run predict for its training images, or for copies of these.

    Args:
        cache: File (.npz) to read the predictions from, or to write them to if it does not exist.
        config: Configuration of the run.
        images: uint8 (N, 48, 48), all training images in the order of training.

    Raises:
        CheckpointError: A teacher cannot be read or has other labels, or the cache is of other teachers or images.
    """
    images_id, shifts, head_count = hashlib.sha256(images.tobytes()).hexdigest(), _TEN_VIEWS, 1
    if config.copies:
        copies = Copies(config.copies, config.recompose_share, config.degrade_share, config.erase_share, config.seed)
        images, images_id = copies.of(images), f"{images_id} {copies}"  # its repr, which is in existing cache files
        shifts, head_count = _TWO_VIEWS, 2 if config.votes_weight else 1
    if cache.exists():
        try:
            return SoftTargets(images, _read(cache, config.teachers, images_id))
        except CORRUPT_FILE_ERRORS as error:
            log.warning("%s cannot be read, computing the teachers' predictions again (%s)", cache, error)
    # Hashed before the predictions: a teacher may still be in training.
    weights = [weights_sha256(Path(teacher)) for teacher in config.teachers]
    by_teacher = [
        _predictions(Path(teacher), images, config.labels, shifts)[:head_count] for teacher in config.teachers
    ]
    means = [np.asarray(np.mean(of_head, axis=0), np.float32) for of_head in zip(*by_teacher, strict=True)]
    _write(cache, means, images_sha256=images_id, teachers=list(config.teachers), weights=weights)
    return SoftTargets(images, means)


def _write(cache: Path, probabilities: Sequence[NDArray[np.float32]], **origin: str | list[str]) -> None:
    arrays: dict[str, Any] = {**origin, **dict(zip(_KEYS, probabilities, strict=False))}
    with reporting_write_errors(cache), atomic_replace(cache) as temporary:
        np.savez(temporary, **arrays)


def _read(cache: Path, teachers: Sequence[str], images_id: str) -> list[NDArray[np.float32]]:
    with cache.open("rb") as file, np.load(file) as arrays:  # given a path, numpy would leave a corrupt file open
        if list(arrays.get("teachers", ())) != list(teachers):
            raise CheckpointError("holds the predictions of other teachers", where=cache,
                                  remedy="Name the teachers that it was made with, or another folder")  # fmt: skip
        if str(arrays["images_sha256"]) != images_id:
            raise CheckpointError("belongs to other images, or to the same in another order", where=cache,
                                  remedy="Resume with the data files that the run was started with")  # fmt: skip
        # A teacher that is gone is not needed anymore.
        for teacher, weights in zip(teachers, arrays["weights"], strict=True):
            if weights_sha256(Path(teacher)) not in {"", weights}:
                raise CheckpointError(f"holds predictions of {teacher} from before its weights changed", where=cache,
                                      remedy="Restore its former weights, or name another folder")  # fmt: skip
        keys = _KEYS if _KEYS[1] in arrays else _KEYS[:1]
        return [np.asarray(arrays[key], np.float32) for key in keys]


def _predictions(teacher: Path, images: NDArray[np.uint8], labels: str, shifts: _Shifts) -> list[NDArray[np.float32]]:
    """Returns the probabilities that one teacher predicts, for each of its heads."""
    require_teacher(teacher, labels)
    log.info("predicting %d images with the teacher %s", len(images), teacher)
    predict = _predict_function(load_full_network(teacher))
    predicted = [_mean_over_views(predict, batch, shifts) for batch in _batches(images)]
    return [np.concatenate(of_head) for of_head in zip(*predicted, strict=True)]


def _predict_function(network: keras.Model) -> _Predict:
    def predict(batch: Tensor) -> Sequence[Tensor]:
        return [keras.ops.softmax(logits) for logits in heads(network(normalize(batch), training=False))]

    if keras.backend.backend() != "tensorflow":
        return predict
    import tensorflow as tf  # not needed, and perhaps not installed, with another backend

    batches = tf.TensorSpec((None, None, None, 1), tf.uint8)
    compiled: _Predict = tf.function(predict, input_signature=[batches], jit_compile=False)
    return compiled


def _batches(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]


def _mean_over_views(predict: _Predict, images: NDArray[np.uint8], shifts: _Shifts) -> list[NDArray[np.float32]]:
    predicted = [predict(view[..., np.newaxis]) for view in _views(images, shifts)]
    return [
        np.asarray(
            np.mean([keras.ops.convert_to_numpy(probabilities) for probabilities in of_head], axis=0), np.float32
        )
        for of_head in zip(*predicted, strict=True)
    ]


def _views(images: NDArray[np.uint8], shifts: _Shifts) -> Iterator[NDArray[np.uint8]]:
    """Yields uint8 (N, 48, 48) shifted, each as it is and flipped; the border is padded by repeating the edge."""
    margin, side = max(max(shift) for shift in shifts), images.shape[1]
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    for down, right in shifts:
        top, left = margin + down, margin + right
        view = padded[:, top : top + side, left : left + side]
        yield view
        yield view[:, :, ::-1]
