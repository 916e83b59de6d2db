"""Parses source names, and masks their credentials for logs."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final

_STREAM_SCHEMES: Final = ("rtsp", "rtsps", "http", "https")

_SHARED_MEMORY: Final = "/dev/shm/"  # noqa: S108 - contains files, unlike the rest of /dev; only read

_MISTYPED_SCHEME: Final = re.compile(rf"(?i)({'|'.join(_STREAM_SCHEMES)})[:/]")
_LOGIN: Final = re.compile(r"[^/]*(//)?[^/]*:.*@")
"""The start of an address with user and password but without a correct scheme such as `rtsp://`."""

_SCHEME: Final = re.compile(r"(?i)[a-z][a-z0-9+.-]*")

_CREDENTIALS: Final = re.compile(r"^([^:]*://)?.*@")  # up to the last @: passwords with / ? # or spaces are common
_QUERY: Final = re.compile(r"\?.*")  # all of it: vendors use many names for passwords, or none
_SECRET_IN_PATH: Final = re.compile(r"(?i)(\w*(?:pas|pwd|psw|token|secret|auth|key)\w*)=[^&#/]*")


class SourceKind(Enum):
    """The kind of source that a name refers to."""

    CAMERA = auto()
    """A local camera by number (`0`) or device (`/dev/video0`)."""
    CSI = auto()
    """A Raspberry Pi camera on the CSI connector (`csi:0`)."""
    DEMO = auto()
    """A simulated camera (`demo`)."""
    STREAM = auto()
    """A network stream (`rtsp://camera/1`)."""
    RECORDING = auto()
    """The path of a video, an image or a folder of images."""


def source_kind(name: str) -> SourceKind:
    """Returns the kind of source that a name refers to, without checking that it exists.

    Raises:
        ValueError: The name is not valid. The message names the valid alternatives.
    """
    if not name:
        raise ValueError("must not be empty")
    if name.isdecimal() or (name.startswith("/dev/") and not name.startswith(_SHARED_MEMORY)):
        return SourceKind.CAMERA
    if name == "demo":
        return SourceKind.DEMO
    if name.startswith("csi:"):
        if not name.removeprefix("csi:").isdecimal():
            raise ValueError(f"{name} is not a camera; the first one is csi:0, the second csi:1")
        return SourceKind.CSI
    scheme, is_address, _ = name.partition("://")
    known = " or ".join((", ".join(_STREAM_SCHEMES[:-1]), _STREAM_SCHEMES[-1]))
    if _is_mistyped(name):
        raise ValueError(f"an address must start with {known} followed by ://; if it is a file, prefix it with ./")
    if not is_address:
        return SourceKind.RECORDING
    if scheme.lower() not in _STREAM_SCHEMES:
        raise ValueError(f"{scheme}:// streams are not supported; use {known}")
    return SourceKind.STREAM


def masked(name: str) -> str:
    """Masks the credentials, the query, and passwords in the path of an address with `***`."""
    if "://" not in name and not _is_mistyped(name):
        return name
    return _SECRET_IN_PATH.sub(r"\1=***", _QUERY.sub("?***", _CREDENTIALS.sub(r"\1***@", name)))


def _is_mistyped(name: str) -> bool:
    """Returns whether a name is an address with a wrong scheme, whose password would be shown if taken for a path."""
    scheme, is_address, _ = name.partition("://")
    if is_address:
        return not _SCHEME.fullmatch(scheme)
    return bool(_MISTYPED_SCHEME.match(name) or _LOGIN.match(name))
