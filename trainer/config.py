"""What a training run is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from trainer.layouts import SIZE_PX


@dataclass(frozen=True, slots=True)
class FitConfig:
    """Everything that determines a run besides the data.

    Attributes:
        stages: (side in pixels, epochs) pairs: training may begin on small images, which cost less. It had better end
            at 48 px, the size at which a network is judged and used.
        batch_size: Images in a step.
        peak_lr: Learning rate at the end of the warm-up; it falls to zero along a half cosine.
        warmup_epochs: Epochs over which the learning rate rises from zero, at most half of all.
        momentum: Nesterov momentum.
        muon_lr: Peak learning rate of Muon on the kernels between features, relative to their length; 0 for SGD.
        weight_decay: L2 penalty on the convolution kernels that SGD moves.
        label_smoothing: Share of the label that is spread evenly over the classes, which an export takes out of the
            answers again. With teachers, that with which they learned.
        votes_weight: Weight of the second head that learns FER+'s votes; needs votes, 0 for none.
        ema_decay: Decay a step of the averaged weights, which are the ones evaluated and exported.
        dropout: Share of features dropped before the head.
        degrade_share: Share of images that are blurred, and of those that get a camera's noise.
        erase_share: Share of images of which a rectangle is erased.
        mixup: Largest weight of another image that is mixed into each, with its targets; 0 for none.
        teachers: Folders of the runs that this one learns from.
        live_teachers: Whether they are asked about every image as this network sees it, varied and mixed (Beyer et al.
            2022, arXiv:2106.05237), which takes their time in each step; otherwise once about ten views of each image.
            Needs teachers.
        copies: Varied copies of each image that teachers are asked about beforehand, and of which their answer is the
            whole target; each epoch takes the next of them. Of FER-2013, each takes 66 MB of memory, and three times
            as much for a moment before the first step. 0 for the images themselves, varied anew in each step.
        recompose_share: Share of the copies that are joined from the halves of two faces; needs copies.
        teacher_weight: Share of the target that is the teachers' answer; the rest is the softened label.
        initial_weights: Folder of the run whose best weights this one begins with, or None for random ones.
        width: Factor on the channels of every layer: 1 for a device's model, more for a teacher.
        top_channels: Channels of the last layer at width 1.
        blocks: Residual blocks at a half, a quarter and an eighth of the image's side.
        mirror: Whether the network answers a face and its mirror image alike by construction.
        bfloat16: Whether convolutions are computed in bfloat16, which GPUs and processors with AVX512-BF16 or AMX do
            faster.
        labels: Whose labels the main head learns: the seven of FER-2013, or the majority of FER+'s crowd.
        seed: Of weights, order and augmentation.
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
        """Refuses what no run can be made of; people write these values into files.

        Raises:
            ValueError: A value is of another type or out of range; the error names it.
        """
        for name, (fits, allowed) in _ALLOWED.items():
            value = getattr(self, name)
            if not fits(value):
                raise ValueError(f"{name} is {value!r}, not {allowed}")

    @property
    def epochs(self) -> int:
        return sum(epochs for _, epochs in self.stages)

    @property
    def learns_votes(self) -> bool:
        """Whether FER+'s votes are of any concern to the run."""
        return self.votes_weight > 0 or self.labels == "ferplus"

    def side_px(self, epoch: int) -> int:
        """Side of the training images in `epoch`, counted from 0."""
        for side, epochs in self.stages:
            if epoch < epochs:
                return side
            epoch -= epochs
        return self.stages[-1][0]

    def with_epochs(self, epochs: int) -> Self:
        """The same with all stages and the warm-up scaled to `epochs` in all, at least one of them at full size."""
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
        """The inverse of `to_dict`, after a passage through JSON.

        Raises:
            TypeError: A key is unknown.
            ValueError: There are no stages, or a value is none that a run can be made of.
        """
        if "stages" not in values:
            raise ValueError("it has no stages")
        return cls(**{name: _as_tuples(value) for name, value in values.items()})


def _as_tuples(value: Any) -> Any:
    """JSON has lists where a `FitConfig` has tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


_Allowed = tuple[Callable[[Any], bool], str]
"""Whether a value will do, and in words which do."""

_MUCH: Final = 1_000_000
"""The end of a range that has no natural one: NaN and infinity, which JSON files can hold too, lie in none."""


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
    return pair and _LEAST_PX <= value[0] <= SIZE_PX and 1 <= value[1] <= _MUCH


def _are_blocks(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(_is_whole(count) and count >= 0 for count in value)


def _are_folders(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(folder, str) for folder in value)


_LEAST_PX: Final = 16
"""The network halves the side four times."""

_SHARE: Final = _number(0, 1)
_FACTOR: Final = _number(0, _MUCH)
_FLAG: Final[_Allowed] = (lambda value: isinstance(value, bool), "true or false")

_ALLOWED: Final[dict[str, _Allowed]] = {
    "stages": (
        _are_stages,
        f"one or more pairs of a side, {_LEAST_PX} to {SIZE_PX} px, and a number of epochs from 1 to {_MUCH}",
    ),
    "batch_size": _whole(1, _MUCH),
    "peak_lr": _number(1e-9, _MUCH),
    "warmup_epochs": _FACTOR,
    "momentum": _SHARE,
    "muon_lr": _FACTOR,
    "weight_decay": _FACTOR,
    "label_smoothing": _number(0, 0.99),  # export takes it out of the probabilities again
    "votes_weight": _FACTOR,
    "ema_decay": _SHARE,
    "dropout": _SHARE,
    "degrade_share": _SHARE,
    "erase_share": _SHARE,
    "mixup": _number(0, 0.5),
    "teachers": (_are_folders, "a list of the folders of runs"),
    "live_teachers": _FLAG,
    "copies": _whole(0, 1000),
    "recompose_share": _SHARE,
    "teacher_weight": _SHARE,
    "initial_weights": (lambda value: value is None or isinstance(value, str), "the folder of a run"),
    "width": _number(0.1, _MUCH),  # with less, a layer would be left without channels
    "top_channels": _whole(16, _MUCH),
    "blocks": (_are_blocks, "three whole numbers from 0"),
    "mirror": _FLAG,
    "bfloat16": _FLAG,
    "labels": (lambda value: value in ("fer2013", "ferplus"), "fer2013 or ferplus"),
    "seed": _whole(0, 2**32 - 1),
}
"""What each field may be."""
