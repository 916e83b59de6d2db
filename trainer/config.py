"""The configuration of a training run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from trainer.layouts import SIZE_PX


@dataclass(frozen=True, slots=True)
class FitConfig:
    """All settings of a training run.

    Attributes:
        stages: Training stages as (image side in pixels, epochs) pairs. Training may start on small images, which are
            faster, but should end at 48 px, the size at which the network is evaluated and deployed.
        batch_size: Images per training step.
        peak_lr: Learning rate at the end of the warm-up, followed by cosine decay to zero.
        warmup_epochs: Epochs of linear learning rate warm-up from zero, limited to half of the run.
        momentum: Nesterov momentum.
        muon_lr: Peak learning rate of the Muon optimizer for the hidden convolution kernels, relative to their norm; 0
            to train them with SGD like all other weights.
        weight_decay: L2 penalty on the convolution kernels that SGD trains.
        label_smoothing: Share of each label that is spread evenly over all classes; an export corrects the model's
            probabilities for it. With teachers, it must be the one they were trained with. No effect with the labels
            `ferplus`, whose targets are the shares of the votes.
        votes_weight: Loss weight of a second head that predicts the shares of the FER+ votes, 0 for no such head;
            needs `--votes`.
        ema_decay: Decay per step of the exponential moving average (EMA) of the weights, which is what is evaluated
            and exported.
        dropout: Dropout rate before the heads.
        degrade_share: Share of the training images that are blurred, and share that get sensor noise, chosen
            independently.
        erase_share: Share of the training images to which random erasing is applied (Zhong et al. 2017,
            arXiv:1708.04896).
        mixup: Mixup (Zhang et al. 2018, arXiv:1710.09412): largest weight of the other image and its target in a
            mixed one, 0 to disable it.
        teachers: Run folders of the teachers for knowledge distillation (Hinton et al. 2015, arXiv:1503.02531). The
            mean of their predicted probabilities is the soft target.
        live_teachers: Whether teachers predict each training image as the student sees it, after augmentation and mixup
            (Beyer et al. 2022, arXiv:2106.05237), which adds their inference time to every step. Otherwise the soft
            targets are computed once before training, as the mean over ten views of each image. Needs `teachers`.
        copies: Number of augmented copies of each image to make before training, with the teachers' predictions for
            them as the only targets; each epoch trains on the next copy. For FER-2013, each copy takes 66 MB of memory,
            and three times as much for a moment before the first step. 0 to train on the images themselves, augmented
            anew in every step. Needs `teachers`.
        recompose_share: Share of the copies that are joined from the halves of two faces. Needs `copies`.
        teacher_weight: Weight of the soft target in the training target; the rest comes from the labels. No effect with
            `copies`.
        initial_weights: Run folder whose best weights initialize the network, or None for random initialization.
        width: Factor on the number of channels of every layer: 1 for a model that runs on devices, more for a teacher.
        top_channels: Channels of the last convolutional layer at width 1.
        blocks: Number of residual blocks at 1/2, 1/4 and 1/8 of the image side.
        mirror: Whether the network is invariant to horizontal flips by construction.
        bfloat16: Whether convolutions are computed in bfloat16, which is faster on GPUs and on processors with
            AVX512-BF16 or AMX.
        labels: Labels of the main head: the seven of FER-2013, or the eight of FER+, on images with a strict majority.
        seed: Seed of weight initialization, shuffling, augmentation and dropout.
    """

    stages: tuple[tuple[int, int], ...] = ((36, 20), (48, 75))
    batch_size: int = 64
    peak_lr: float = 0.05
    warmup_epochs: float = 1.0
    momentum: float = 0.9
    muon_lr: float = 0.0
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    votes_weight: float = 0.5
    ema_decay: float = 0.998
    dropout: float = 0.1
    degrade_share: float = 0.2
    erase_share: float = 0.2
    mixup: float = 0.0
    teachers: tuple[str, ...] = ()
    live_teachers: bool = False
    copies: int = 0
    recompose_share: float = 0.0
    teacher_weight: float = 0.7
    initial_weights: str | None = None
    width: float = 1.0
    top_channels: int = 256
    blocks: tuple[int, int, int] = (0, 1, 1)
    mirror: bool = False
    bfloat16: bool = False
    labels: Literal["fer2013", "ferplus"] = "fer2013"
    seed: int = 1

    def __post_init__(self) -> None:
        """Validates all values, as users write them into files.

        Raises:
            ValueError: A value has the wrong type or is out of range; the message names it.
        """
        for name, (is_allowed, allowed) in _ALLOWED.items():
            value = getattr(self, name)
            if not is_allowed(value):
                raise ValueError(f"{name} must be {allowed}, not {value!r}")

    @property
    def epochs(self) -> int:
        return sum(epochs for _, epochs in self.stages)

    @property
    def learns_votes(self) -> bool:
        """Whether any head is trained on FER+ votes."""
        return self.votes_weight > 0 or self.labels == "ferplus"

    def side_px(self, epoch: int) -> int:
        """Returns the side of the training images in `epoch`, counted from 0."""
        for side, epochs in self.stages:
            if epoch < epochs:
                return side
            epoch -= epochs
        return self.stages[-1][0]

    def with_epochs(self, epochs: int) -> Self:
        """Returns a copy with stages and warm-up scaled to `epochs` in total, at least one of them at the last size."""
        *stages, (last_px, _) = self.stages
        scaled, before, done = [], 0, 0
        for side, count in stages:
            before += count
            end = min(round(before * epochs / self.epochs), epochs - 1)
            scaled += [(side, end - done)] if end > done else []
            done = max(done, end)
        return dataclasses.replace(
            self, stages=(*scaled, (last_px, epochs - done)), warmup_epochs=self.warmup_epochs * epochs / self.epochs
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`, also after a round trip through JSON.

        Raises:
            TypeError: A key is unknown.
            ValueError: There are no stages, or a value is not allowed.
        """
        if "stages" not in values:
            raise ValueError("it has no stages")
        return cls(**{name: _as_tuples(value) for name, value in values.items()})


def _as_tuples(value: Any) -> Any:
    """Converts the lists of JSON to the tuples of a `FitConfig`."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


_Allowed = tuple[Callable[[Any], bool], str]
"""A check of a value, and a description of the allowed ones."""

_NO_LIMIT: Final = 1_000_000
"""Upper end of ranges without a natural one. It excludes NaN and infinity, which Python's JSON parser accepts."""


def _number(low: float, high: float) -> _Allowed:
    return lambda value: _is_number(value) and low <= value <= high, f"a number from {low} to {high}"


def _whole(low: int, high: int) -> _Allowed:
    return lambda value: _is_whole(value) and low <= value <= high, f"a whole number from {low} to {high}"


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_stages(value: Any) -> bool:
    return bool(value) and isinstance(value, tuple) and all(map(_is_stage, value))


def _is_stage(value: Any) -> bool:
    pair = isinstance(value, tuple) and len(value) == 2 and all(map(_is_whole, value))
    return pair and _MIN_SIDE_PX <= value[0] <= SIZE_PX and 1 <= value[1] <= _NO_LIMIT


def _are_blocks(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(_is_whole(count) and count >= 0 for count in value)


def _are_folders(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(folder, str) for folder in value)


_MIN_SIDE_PX: Final = 16
"""The network halves the side four times."""

_SHARE: Final = _number(0, 1)
_FACTOR: Final = _number(0, _NO_LIMIT)
_FLAG: Final[_Allowed] = (lambda value: isinstance(value, bool), "true or false")

_ALLOWED: Final[dict[str, _Allowed]] = {
    "stages": (
        _are_stages,
        f"one or more pairs of a side, {_MIN_SIDE_PX} to {SIZE_PX} px, and a number of epochs from 1 to {_NO_LIMIT}",
    ),
    "batch_size": _whole(1, _NO_LIMIT),
    "peak_lr": _number(1e-9, _NO_LIMIT),
    "warmup_epochs": _FACTOR,
    "momentum": _SHARE,
    "muon_lr": _FACTOR,
    "weight_decay": _FACTOR,
    "label_smoothing": _number(0, 0.99),  # at 1, an export could not correct for it
    "votes_weight": _FACTOR,
    "ema_decay": _SHARE,
    "dropout": _SHARE,
    "degrade_share": _SHARE,
    "erase_share": _SHARE,
    "mixup": _number(0, 0.5),
    "teachers": (_are_folders, "a list of run folders"),
    "live_teachers": _FLAG,
    "copies": _whole(0, 1000),
    "recompose_share": _SHARE,
    "teacher_weight": _SHARE,
    "initial_weights": (lambda value: value is None or isinstance(value, str), "a run folder"),
    "width": _number(0.1, _NO_LIMIT),  # below, a layer would have no channels
    "top_channels": _whole(16, _NO_LIMIT),
    "blocks": (_are_blocks, "three whole numbers from 0"),
    "mirror": _FLAG,
    "bfloat16": _FLAG,
    "labels": (lambda value: value in ("fer2013", "ferplus"), "fer2013 or ferplus"),
    "seed": _whole(0, 2**32 - 1),
}
"""The allowed values of each field."""
