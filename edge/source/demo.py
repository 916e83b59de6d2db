"""A simulated camera that pans and zooms over two photographs of people.

Both photographs are in the public domain and included in packages: the astronaut Eileen Collins (NASA, in scikit-image)
and Rear Admiral Grace Hopper (U.S. Navy, in matplotlib).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.domain import Frame
from edge.errors import RuntimeMissing, SourceUnavailable
from edge.source.opencv import read_image

WIDTH_PX: Final = 640
HEIGHT_PX: Final = 360
FPS: Final = 25
_SCENE_S: Final = 8.0
_PAN_S: Final = 2.5


@dataclass(frozen=True, slots=True)
class _Scene:
    """A photograph in a package, and the path of the simulated camera over it.

    Attributes:
        package: Name of the distribution.
        file: Path of the photograph in the package.
        start: Initial center of the view, x and y in pixels of the photograph; no face is in view.
        face: Final center of the view.
        height: Height of the view in pixels of the photograph.
    """

    package: str
    file: str
    start: tuple[float, float]
    face: tuple[float, float]
    height: float


_SCENES: Final = (
    _Scene("scikit-image", "skimage/data/astronaut.png", start=(256, 380), face=(236, 125), height=210),
    _Scene("matplotlib", "matplotlib/mpl-data/sample_data/grace_hopper.jpg", (256, 460), (256, 223), height=265),
)


class DemoSource:
    """Shows the photographs in turn, endlessly, at 640x360 pixels and 25 frames per second.

    Raises:
        RuntimeMissing: A package with a photograph is not installed.
    """

    def __init__(self) -> None:
        self._paths = [_find(scene) for scene in _SCENES]
        self._photographs: list[NDArray[np.uint8]] = []
        self._start_s = 0.0
        self._next_index = 0
        self._dropped = 0

    def __enter__(self) -> Self:
        self._photographs = [_load(path) for path in self._paths]
        self._start_s, self._next_index, self._dropped = time.monotonic(), 0, 0
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._photographs = []

    def read(self, timeout_s: float) -> Frame | None:
        due_s = self._start_s + self._next_index / FPS
        wait_s = due_s - time.monotonic()
        if wait_s > timeout_s:
            time.sleep(timeout_s)
            return None
        time.sleep(max(0.0, wait_s))
        newest = int((time.monotonic() - self._start_s) * FPS)
        self._dropped += newest - self._next_index
        self._next_index = newest + 1
        time_s = self._start_s + newest / FPS
        return Frame(self._render(newest / FPS), newest, time_s=time_s, mono_s=time_s)

    @property
    def dropped(self) -> int:
        return self._dropped

    def _render(self, position_s: float) -> NDArray[np.uint8]:
        number, in_scene_s = divmod(position_s, _SCENE_S)
        which = int(number) % len(_SCENES)
        return _view(self._photographs[which], _SCENES[which], in_scene_s)


def _view(photograph: NDArray[np.uint8], scene: _Scene, time_s: float) -> NDArray[np.uint8]:
    """Renders the view: pans from the start to the face, then zooms gently in and out."""
    progress = min(1.0, time_s / _PAN_S)
    progress = progress * progress * (3 - 2 * progress)  # smoothstep
    x, y = (a + progress * (b - a) for a, b in zip(scene.start, scene.face, strict=True))
    scale = scene.height * (1 + 0.05 * math.sin(time_s)) / HEIGHT_PX
    to_photograph = np.array([[scale, 0, x - scale * WIDTH_PX / 2], [0, scale, y - scale * HEIGHT_PX / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(photograph, to_photograph, (WIDTH_PX, HEIGHT_PX), flags=flags)
    return np.asarray(view, np.uint8)


def _find(scene: _Scene) -> Path:
    """Returns the path of the photograph, without importing its package, which would take seconds."""
    try:
        path = Path(str(metadata.distribution(scene.package).locate_file(scene.file)))
    except metadata.PackageNotFoundError as error:
        raise _missing(scene) from error
    if not path.is_file():
        raise _missing(scene)
    return path


def _missing(scene: _Scene) -> RuntimeMissing:
    return RuntimeMissing(
        f"the photographs of the demo are not installed ({scene.package} provides {Path(scene.file).name})",
        remedy="Run `pip install 'edge-emotion[demo]'`, or use --source",
    )


def _load(path: Path) -> NDArray[np.uint8]:
    photograph = read_image(path)
    if photograph is None:
        raise SourceUnavailable("cannot be decoded as an image", where=path, remedy="Reinstall its package")
    return photograph
