"""What a source may be called, and how to name one in a log without giving away its password."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

_STREAM_SCHEMES: Final = ("rtsp", "rtsps", "http", "https")

_MEMORY: Final = "/dev/shm/"  # noqa: S108 - a folder of files, unlike all else there; nothing is written to it

_MISTYPED_SCHEME: Final = re.compile(rf"(?i)({'|'.join(_STREAM_SCHEMES)})[:/]")
_LOGIN: Final = re.compile(r"[^/]*(//)?[^/]*:.*@")
"""How an address begins in which the `rtsp://` is missing or mistyped, and a user and a password are not."""

_SCHEME: Final = re.compile(r"(?i)[a-z][a-z0-9+.-]*")

_CREDENTIALS: Final = re.compile(r"^([^:]*://)?.*@")  # to the last @: passwords with / ? # or spaces are common
_QUERY: Final = re.compile(r"\?.*")  # whole: makers have many names for a password, and some none
_SECRET_IN_PATH: Final = re.compile(r"(?i)(\w*(?:pas|pwd|psw|token|secret|auth|key)\w*)=[^&#/]*")


class SourceKind(Enum):
    """What a source's name stands for."""

    CAMERA = auto()
    """A camera of this machine, by number (`0`) or device (`/dev/video0`)."""
    CSI = auto()
    """A Raspberry Pi camera on the flat cable (`csi:0`)."""
    DEMO = auto()
    """Photographs that are filmed (`demo`)."""
    STREAM = auto()
    """An address in the network (`rtsp://camera/1`)."""
    RECORDING = auto()
    """The path of a video, a picture or a folder of pictures."""


def source_kind(name: str) -> SourceKind:
    """What a name stands for; whether that is there is not looked at.

    Raises:
        ValueError: No source can have that name. The message says why, and what can.
    """
    if not name:
        raise ValueError("must not be empty")
    if name.isdecimal() or (name.startswith("/dev/") and not name.startswith(_MEMORY)):
        return SourceKind.CAMERA
    if name == "demo":
        return SourceKind.DEMO
    if name.startswith("csi:"):
        if not name.removeprefix("csi:").isdecimal():
            raise ValueError(f"there is no camera {name}; the first is csi:0, the second csi:1")
        return SourceKind.CSI
    scheme, is_address, _ = name.partition("://")
    known = ", ".join(_STREAM_SCHEMES)
    if _is_mistyped(name):
        raise ValueError(f"an address begins with one of {known}, and then ://; a file of such a name with ./")
    if not is_address:
        return SourceKind.RECORDING
    if scheme.lower() not in _STREAM_SCHEMES:
        raise ValueError(f"streams of the kind {scheme}:// are not supported; those of {known} are")
    return SourceKind.STREAM


def masked(name: str) -> str:
    """The same name with stars for the credentials before an address's host, its query, and passwords in its path."""
    if "://" not in name and not _is_mistyped(name):
        return name
    return _SECRET_IN_PATH.sub(r"\1=***", _QUERY.sub("?***", _CREDENTIALS.sub(r"\1***@", name)))


def _is_mistyped(name: str) -> bool:
    """Whether it is an address with a wrong beginning: as a file or a scheme, it would be shown with its password."""
    scheme, is_address, _ = name.partition("://")
    if is_address:
        return not _SCHEME.fullmatch(scheme)
    return bool(_MISTYPED_SCHEME.match(name) or _LOGIN.match(name))
