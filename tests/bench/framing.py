"""Position of the faces in FER-2013's images, and accuracy on the agent's crops: basis of `trainer.bundle.FRAMING`.

    python -m tests.bench.framing --data fer2013.csv [--bundle models/default]

Detects faces in upscaled training images and prints the medians of eye positions and boxes, and the spread of the
agent's crops relative to the original images, which `trainer.corruptions.detector_crop` simulates. Then embeds
PublicTest images in larger pictures and compares the accuracy on the original crops with that on the agent's crops.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.align import align, crop_square
from edge.classify import BundleClassifier
from edge.config import default_bundle
from edge.contract.crop import CropSquare
from edge.detect import create_detector
from edge.domain import Face, Frame
from trainer.bundle import FRAMING
from trainer.data import FaceSet, load_dataset

_SIDE_PX, _MARGIN_PX = 144, 72
_SAMPLE = 2500


def main() -> None:
    """Prints all results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=default_bundle().with_name("default"))
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.data)
    detector = create_detector("blazeface-full", min_score=0.5, min_face_px=24)
    found = [largest(detector.detect(scene(image))) for image in _sample(dataset.split("train"))]
    _print_medians(found)
    _print_spread([face for face in found if face is not None])
    _print_accuracy(dataset.split("validation"), BundleClassifier(arguments.bundle), detector.detect)


def _sample(faces: FaceSet) -> NDArray[np.uint8]:
    chosen = np.random.default_rng(0).permutation(len(faces))[:_SAMPLE]
    return faces.images[chosen]


def scene(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns uint8 (288, 288, 3) BGR: a 48x48 gray image, upscaled by three, in a picture of twice that size."""
    enlarged = cv2.resize(image, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_CUBIC)
    m = _MARGIN_PX
    return np.asarray(cv2.cvtColor(cv2.copyMakeBorder(enlarged, m, m, m, m, cv2.BORDER_REPLICATE), cv2.COLOR_GRAY2BGR))


def largest(faces: list[Face]) -> Face | None:
    """Returns the largest face, or None without faces."""
    return max(faces, key=lambda face: face.box.area, default=None)


def _print_medians(found: list[Face | None]) -> None:
    faces = [face for face in found if face is not None and face.eyes is not None]
    rows = np.array([_measures(face) for face in faces])
    print(f"faces detected in {len(faces)} of {len(found)} training images; medians:")
    names = ("eyes_x", "eye_y", "eye_distance", "box_scale", "box_shift_y")
    for name, value in zip(names, np.median(rows, axis=0), strict=True):
        print(f"  {name:<13} {value:.3f}")


def _measures(face: Face) -> tuple[float, ...]:
    assert face.eyes is not None
    (left, right), box = face.eyes, face.box
    eyes_x, eye_y = ((a + b) / 2 for a, b in zip(left, right, strict=True))
    center_shift = _MARGIN_PX + _SIDE_PX / 2 - (box.top + box.bottom) / 2
    return (
        (eyes_x - _MARGIN_PX) / _SIDE_PX,
        (eye_y - _MARGIN_PX) / _SIDE_PX,
        math.dist(left, right) / _SIDE_PX,
        _SIDE_PX / max(box.width, box.height),
        center_shift / box.height,
    )


def _print_spread(faces: list[Face]) -> None:
    """Prints the spread of the agent's crops, by statistics that are robust against false detections."""
    rows = np.array([_displacement(crop_square(face, FRAMING)) for face in faces])
    deviations = np.abs(rows - np.median(rows, axis=0))
    print("spread of the crops (1.4826 x median absolute deviation), and 95th percentile:")
    names = ("right, in sides", "down, in sides", "log of the side", "roll, in degrees")
    for name, spread, tail in zip(
        names, 1.4826 * np.median(deviations, axis=0), np.percentile(deviations, 95, axis=0), strict=True
    ):
        print(f"  {name:<16} {spread:6.3f} {tail:6.3f}")


def _displacement(square: CropSquare) -> tuple[float, ...]:
    middle = _MARGIN_PX + _SIDE_PX / 2
    right, down = ((at - middle) / _SIDE_PX for at in square.center)
    return right, down, math.log(square.side / _SIDE_PX), math.degrees(square.angle)


def _print_accuracy(
    faces: FaceSet, classifier: BundleClassifier, detect: Callable[[NDArray[np.uint8]], list[Face]]
) -> None:
    manifest = classifier.bundle.manifest
    crops, kept = [], []
    for index, image in enumerate(faces.images):
        picture = scene(image)
        face = largest(detect(picture))
        if face is not None:
            frame = Frame(picture, index, time_s=0.0, mono_s=0.0)
            crops.append(align(frame, [face], manifest.preprocessing.framing, manifest.input.width_px)[0][0])
            kept.append(index)
    original, aligned = (classifier.classify(images).argmax(axis=1) for images in (faces.images[kept], np.array(crops)))
    labels = faces.labels[kept]
    print(f"PublicTest: faces detected in {len(kept)} of {len(faces)} images. Top-1 accuracy on these:")
    print(f"  original crops {np.mean(original == labels):.2%}, crops of the agent {np.mean(aligned == labels):.2%}")


if __name__ == "__main__":
    main()
