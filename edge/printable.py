"""Text from outside, before a person sees it: anybody may publish on a topic, answer an address, or name a file."""

from __future__ import annotations


def printable(value: object, *, keep: str = "") -> str:
    """A text or number without what would steer a terminal or begin another line, apart from the letters in `keep`."""
    text = str(value) if isinstance(value, str | int | float) else "?"
    return "".join(letter if letter.isprintable() or letter in keep else "?" for letter in text)
