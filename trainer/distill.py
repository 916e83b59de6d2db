"""What teachers say of the training images, from which a smaller network learns (Hinton et al. 2015, arXiv:1503.02531).

Teachers are runs of `trainer fit` themselves. Each sees every training image, or varied copies of it, in several views,
and the mean of what they say is computed once and kept: by a run for its resumption, and by a study for all of its
trials, unless it is about copies, which each trial varies in its own way.
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
from trainer.disk import DAMAGE, replaced, writing
from trainer.errors import CheckpointError
from trainer.inputs import require_teacher
from trainer.layers import Tensor
from trainer.model import heads, normalize
from trainer.weights import load_full_network, weights_sha256

log = logging.getLogger(__name__)

_Shifts = Sequence[tuple[int, int]]
"""Places of the crop in pixels, each asked about upright and mirrored."""

_TEN_VIEWS: Final[_Shifts] = ((0, 0), (3, 3), (3, -3), (-3, 3), (-3, -3))
"""The ten views that are customary in evaluation."""

_TWO_VIEWS: Final[_Shifts] = _TEN_VIEWS[:1]
"""Of copies, which have been shifted already."""

_HEADS: Final = ("probabilities", "votes")
"""Names of the answers in the file that keeps them, in the order of the heads."""

_BATCH: Final = 256

_Ask = Callable[[NDArray[np.uint8]], Sequence[Tensor]]
"""uint8 (N, 48, 48, 1) to probabilities of each head, float32 (N, classes)."""


@dataclass(frozen=True, slots=True)
class Taught:
    """What teachers said beforehand.

    Attributes:
        images: uint8 (N, 48, 48), what they were asked about: the training images, or copies of them.
        answers: Their mean probabilities, float32 (N, classes), each row summing to 1: of the main head, and for copies
            of the votes head too where the run has one.
    """

    images: NDArray[np.uint8]
    answers: Sequence[NDArray[np.float32]]


def teaching(kept: Path, config: FitConfig, images: NDArray[np.uint8]) -> Taught:
    """What the teachers of a run say of its training images, or of copies of these.

    Args:
        kept: File (.npz) from which their answers are read, or to which they are written if there is none.
        config: What the run is made of.
        images: uint8 (N, 48, 48), all training images in the order of training.

    Raises:
        CheckpointError: A teacher cannot be read or has other labels, or what is kept is of other teachers or images.
    """
    images_sha256, shifts, heads_asked = hashlib.sha256(images.tobytes()).hexdigest(), _TEN_VIEWS, 1
    if config.copies:
        copies = Copies(config.copies, config.recompose_share, config.degrade_share, config.erase_share, config.seed)
        images, images_sha256 = copies.of(images), f"{images_sha256} {copies}"
        shifts, heads_asked = _TWO_VIEWS, 2 if config.votes_weight else 1
    if kept.exists():
        try:
            return Taught(images, _read(kept, config.teachers, images_sha256))
        except DAMAGE as error:
            log.warning("%s cannot be read, asking the teachers again (%s)", kept, error)
    # Before they are asked: one may still be in training.
    weights = [weights_sha256(Path(teacher)) for teacher in config.teachers]
    said = [_taught_by(Path(teacher), images, config.labels, shifts)[:heads_asked] for teacher in config.teachers]
    answers = [np.asarray(np.mean(of_head, axis=0), np.float32) for of_head in zip(*said, strict=True)]
    _write(kept, answers, images_sha256=images_sha256, teachers=list(config.teachers), weights=weights)
    return Taught(images, answers)


def _write(kept: Path, answers: Sequence[NDArray[np.float32]], **origin: str | list[str]) -> None:
    arrays: dict[str, Any] = {**origin, **dict(zip(_HEADS, answers, strict=False))}
    with writing(kept), replaced(kept) as fresh:
        np.savez(fresh, **arrays)


def _read(kept: Path, teachers: Sequence[str], images_sha256: str) -> list[NDArray[np.float32]]:
    with kept.open("rb") as file, np.load(file) as arrays:  # given a path, numpy leaves a damaged file open
        if list(arrays.get("teachers", ())) != list(teachers):
            raise CheckpointError("holds what other teachers say", where=kept,
                                  remedy="Name the teachers that it began with, or another folder")  # fmt: skip
        if str(arrays["images_sha256"]) != images_sha256:
            raise CheckpointError("belongs to other images, or to the same in another order", where=kept,
                                  remedy="Resume with the very files that the run began with")  # fmt: skip
        # Those that are gone have been asked already.
        for teacher, weights in zip(teachers, arrays["weights"], strict=True):
            if weights_sha256(Path(teacher)) not in {"", weights}:
                raise CheckpointError(f"holds what {teacher} said before its weights changed", where=kept,
                                      remedy="Give it the former weights, or name another folder")  # fmt: skip
        heads_kept = _HEADS if _HEADS[1] in arrays else _HEADS[:1]
        return [np.asarray(arrays[name], np.float32) for name in heads_kept]


def _taught_by(teacher: Path, images: NDArray[np.uint8], labels: str, shifts: _Shifts) -> list[NDArray[np.float32]]:
    """What one teacher says, for each of its heads."""
    require_teacher(teacher, labels)
    log.info("asking the teacher %s about %d images", teacher, len(images))
    ask = _answering(load_full_network(teacher))
    said = [_mean_over_views(ask, batch, shifts) for batch in _batches(images)]
    return [np.concatenate(of_head) for of_head in zip(*said, strict=True)]


def _answering(network: keras.Model) -> _Ask:
    def ask(batch: Tensor) -> Sequence[Tensor]:
        return [keras.ops.softmax(logits) for logits in heads(network(normalize(batch), training=False))]

    if keras.backend.backend() != "tensorflow":
        return ask
    import tensorflow as tf  # not needed, and perhaps not there, with another backend

    batches = tf.TensorSpec((None, None, None, 1), tf.uint8)
    compiled: _Ask = tf.function(ask, input_signature=[batches], jit_compile=False)
    return compiled


def _batches(images: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), _BATCH):
        yield images[start : start + _BATCH]


def _mean_over_views(ask: _Ask, images: NDArray[np.uint8], shifts: _Shifts) -> list[NDArray[np.float32]]:
    answers = [ask(view[..., np.newaxis]) for view in _views(images, shifts)]
    return [
        np.asarray(np.mean([keras.ops.convert_to_numpy(answer) for answer in of_head], axis=0), np.float32)
        for of_head in zip(*answers, strict=True)
    ]


def _views(images: NDArray[np.uint8], shifts: _Shifts) -> Iterator[NDArray[np.uint8]]:
    """uint8 (N, 48, 48) shifted and mirrored; what a shift uncovers repeats the edge."""
    margin, side = max(max(shift) for shift in shifts), images.shape[1]
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)), mode="edge")
    for down, right in shifts:
        top, left = margin + down, margin + right
        view = padded[:, top : top + side, left : left + side]
        yield view
        yield view[:, :, ::-1]
