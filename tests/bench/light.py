"""Accuracy in low light, end to end from the picture to the emotion.

    python -m tests.bench.light --data fer2013.csv [--bundle models/default]

PublicTest images are embedded in larger pictures of twice the width (`tests.bench.framing`), which are then darkened by
scaling their gray levels, with sensor noise (`trainer.corruptions.low_light`). The agent's detector detects the faces,
and their crops are classified without and with intensity normalization (`edge.contract.intensity`). The expected
calibration error is with normalization, as in the agent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge.align import align
from edge.config import default_bundle
from edge.contract import Framing, Manifest, load_bundle
from edge.detect import create_detector
from edge.domain import Face, Frame
from tests.bench.framing import largest, scene
from trainer.calibration import calibration
from trainer.corruptions import low_light
from trainer.data import FaceSet, load_dataset
from trainer.targets import tflite_predictor
from trainer.text import percent

EXPOSURES: Final = (1.0, 0.5, 0.25, 0.12, 0.06, 0.03)
"""Exposures relative to full light; 50, 25 and 12 % are severities 1, 3 and 5 of the corruption."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=default_bundle().with_name("default"))
    arguments = parser.parse_args()
    faces = load_dataset(arguments.data).split("validation")
    bundle = load_bundle(arguments.bundle)
    without_normalization = tflite_predictor(bundle.model, _without_intensity(bundle.manifest)).logits
    with_normalization = tflite_predictor(bundle.model, bundle.manifest).logits
    detect = create_detector("blazeface-full").detect

    table = Table(
        "exposure", f"faces detected in {len(faces)} pictures", "accuracy", "accuracy, normalized", "ECE, normalized"
    )
    for exposure in EXPOSURES:
        crops, kept = _crops(faces, exposure, detect, bundle.manifest.preprocessing.framing)
        logits, labels = with_normalization(crops), faces.labels[kept]
        shares = (
            percent(float(np.mean(each.argmax(axis=1) == labels))) for each in (without_normalization(crops), logits)
        )
        table.add_row(f"{exposure:.0%}", f"{len(kept)}", *shares, f"{calibration(logits, labels).ece:.3f}")
    Console().print(table)


def _without_intensity(manifest: Manifest) -> Manifest:
    preprocessing = manifest.preprocessing.model_copy(update={"intensity": None})
    return manifest.model_copy(update={"preprocessing": preprocessing})


def _crops(
    faces: FaceSet, exposure: float, detect: Callable[[NDArray[np.uint8]], list[Face]], framing: Framing
) -> tuple[NDArray[np.uint8], list[int]]:
    """Returns the agent's crops, uint8 (N, 48, 48), and the indices of their images."""
    crops, kept = [], []
    for index, image in enumerate(faces.images):
        picture = _darken(scene(image), exposure, index)
        face = largest(detect(picture))
        if face is not None:
            frame = Frame(picture, index, time_s=0.0, mono_s=0.0)
            crops.append(align(frame, [face], framing, image.shape[0])[0][0])
            kept.append(index)
    return np.array(crops, np.uint8).reshape(-1, *faces.images.shape[1:]), kept


def _darken(picture: NDArray[np.uint8], exposure: float, seed: int) -> NDArray[np.uint8]:
    if exposure == 1:
        return picture
    gray = low_light(picture[:, :, 0], exposure, np.random.default_rng(seed))
    return np.asarray(cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR), np.uint8)


if __name__ == "__main__":
    main()
