"""Sanitizes untrusted text, such as MQTT payloads, server responses and file names, for logs and terminals."""

from __future__ import annotations


def printable(value: object, *, keep: str = "") -> str:
    """Returns a text or number with all non-printable characters except those in `keep` replaced by `?`.

    Anything else becomes `?` as a whole.
    """
    text = str(value) if isinstance(value, str | int | float) else "?"
    return "".join(character if character.isprintable() or character in keep else "?" for character in text)
