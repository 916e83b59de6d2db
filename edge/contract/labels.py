"""The emotions in their fixed order: FER-2013's seven classes, as numbered by the challenge."""

from typing import Final

EMOTIONS: Final[tuple[str, ...]] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Class names in index order, 0 (angry) to 6 (neutral)."""

UNKNOWN: Final = "unknown"
"""Reported by the agent if no emotion is certain enough. Never a class of the model."""
