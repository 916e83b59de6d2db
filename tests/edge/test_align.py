"""Alignment and cropping of faces."""

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.align import align
from edge.contract.crop import extract_crop, square_from_eyes
from edge.contract.manifest import Framing
from edge.domain import Box, Face, Frame

FRAMING = Framing(eyes_x=0.5, eye_y=0.4, eye_distance=0.36, box_scale=1.14, box_shift_y=-0.03)


def frame_of(image: NDArray[np.uint8]) -> Frame:
    """A frame with this image."""
    return Frame(image, index=0, time_s=0.0, mono_s=0.0)


def image_with_eyes(left: tuple[float, float], right: tuple[float, float], radius: int = 6) -> NDArray[np.uint8]:
    """A gray image with a white dot at each eye."""
    image = np.full((360, 640, 3), 90, np.uint8)
    for x, y in (left, right):
        cv2.circle(image, (round(x), round(y)), radius, (255, 255, 255), -1)
    return image


def dot_center(crop: NDArray[np.uint8], half: slice) -> tuple[float, float]:
    """Returns the center of the white dot in the left or right half of a crop, as fractions of its side."""
    ys, xs = np.nonzero(crop[:, half] > 160)
    return (xs.mean() + 0.5 + (half.start or 0)) / crop.shape[1], (ys.mean() + 0.5) / crop.shape[0]


@pytest.mark.parametrize("angle_deg", [-30, 0, 20])
@pytest.mark.parametrize("distance", [30, 60, 90, 120, 200])
def test_the_eyes_are_positioned_where_the_model_expects_them(angle_deg: float, distance: float) -> None:
    """At any distance and rotation, the eyes are at the same position of the crop."""
    along = np.array([math.cos(math.radians(angle_deg)), math.sin(math.radians(angle_deg))]) * distance / 2
    left, right = tuple(np.array([320, 170]) - along), tuple(np.array([320, 170]) + along)
    image = image_with_eyes(left, right, radius=max(2, round(distance / 12)))
    face = Face(Box(320 - distance, 170 - distance, 320 + distance, 170 + distance), 0.9, (left, right))
    crops, _ = align(frame_of(image), [face], FRAMING, 48)
    for half, x in ((slice(0, 24), 0.32), (slice(24, None), 0.68)):
        assert dot_center(crops[0], half) == pytest.approx((x, 0.4), abs=0.02)


@pytest.mark.parametrize("yaw_deg", [0, 30, 45, 60])
def test_a_head_turned_to_the_side_keeps_its_size(yaw_deg: float) -> None:
    """Its eyes are closer together while its box stays the same: the crop must not get smaller."""
    distance = 100 * math.cos(math.radians(yaw_deg))
    left, right = (320 - distance / 2, 170.0), (320 + distance / 2, 170.0)
    side = 100 / 0.36
    face = Face(Box(320 - side / 2.28, 185 - side / 2.28, 320 + side / 2.28, 185 + side / 2.28), 0.9, (left, right))
    crops, _ = align(frame_of(image_with_eyes(left, right, radius=3)), [face], FRAMING, 48)
    for half, eye in ((slice(0, 24), left), (slice(24, None), right)):
        assert dot_center(crops[0], half) == pytest.approx((0.5 + (eye[0] - 320) / side, 0.4), abs=0.03)


def test_without_eyes_the_box_is_used() -> None:
    """Without eyes from the detector, the crop is based on the box."""
    image = np.zeros((360, 640, 3), np.uint8)
    image[100:200, 200:300] = 255
    crops, qualities = align(frame_of(image), [Face(Box(200, 100, 300, 200), 0.9)], FRAMING, 48)
    share_white = (crops[0] > 127).mean()
    assert share_white == pytest.approx(1 / 1.14**2, abs=0.04)
    assert qualities == [1.0]


def test_a_face_beyond_the_edge_or_too_small_has_lower_quality() -> None:
    """The quality depends on the size of the face and on how much of it is visible."""
    image = np.zeros((360, 640, 3), np.uint8)
    faces = [Face(Box(-50, 100, 50, 200), 0.9), Face(Box(300, 100, 321, 121), 0.9), Face(Box(300, 100, 400, 200), 0.9)]
    crops, (over_edge, small, whole) = align(frame_of(image), faces, FRAMING, 48)
    assert crops.shape == (3, 48, 48)
    assert over_edge == pytest.approx(0.5, abs=0.05)
    assert small == pytest.approx(0.5, abs=0.05)
    assert whole == 1.0


def test_no_face_gives_no_crop() -> None:
    """Without faces, the array of crops is empty."""
    crops, qualities = align(frame_of(np.zeros((90, 160, 3), np.uint8)), [], FRAMING, 48)
    assert (crops.shape, qualities) == ((0, 48, 48), [])


def test_shrinking_averages_instead_of_aliasing() -> None:
    """A pattern finer than the crop's resolution becomes uniform gray."""
    checks = ((np.indices((400, 400)).sum(axis=0) // 2 % 2) * 255).astype(np.uint8)
    crop = extract_crop(checks, square_from_eyes((120, 160), (264, 160), FRAMING), 48)
    assert crop[4:-4, 4:-4].std() < 12
