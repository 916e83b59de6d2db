"""The emotions and their one order: FER-2013's seven classes, as the challenge numbered them."""

from typing import Final

EMOTIONS: Final[tuple[str, ...]] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Class names in index order, 0 (angry) to 6 (neutral)."""

UNKNOWN: Final = "unknown"
"""What the agent reports when no emotion is certain enough. Never a class of the model."""
