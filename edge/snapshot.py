"""Encodes a frame as a small JPEG for the `snapshot` command, in memory only."""

from __future__ import annotations

from typing import Final

import cv2

from edge.domain import Frame

MAX_SIDE_PX: Final = 640
MAX_BYTES: Final = 150_000
_QUALITIES: Final = (80, 60, 40, 20)


def as_jpeg(frame: Frame) -> tuple[bytes, int, int]:
    """Encodes a frame as a JPEG with a longer side of at most 640 pixels, in at most 150 kB if possible.

    Returns:
        The JPEG data, and its width and height in pixels.
    """
    scale = min(1.0, MAX_SIDE_PX / max(frame.width_px, frame.height_px))
    size = max(1, round(frame.width_px * scale)), max(1, round(frame.height_px * scale))
    picture = cv2.resize(frame.image_bgr, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame.image_bgr
    encoded = b""
    for quality in _QUALITIES:
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(encoded) <= MAX_BYTES:
            break
    return encoded, *size
