"""What a source may be called, and how to name one in a log without giving away its password."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_SECRET_PARAMETER = re.compile(r"(?i)\b(\w*(?:pass|pwd|token|secret|auth|key)\w*)=[^&#\s]*")
_CREDENTIALS = re.compile(r"(?<=://)\S*@")  # to the last @: passwords with / ? or # in them are common


def is_url(spec: str) -> bool:
    """Whether `spec` is an address in the network rather than a device, file or folder."""
    return "://" in spec


def scheme(url: str) -> str:
    """The part before `://`, in lower case."""
    return urlsplit(url).scheme


def masked(spec: str) -> str:
    """The same address with the credentials before its host, and parameters such as `pwd=`, replaced by stars."""
    if not is_url(spec):
        return spec
    return _SECRET_PARAMETER.sub(r"\1=***", _CREDENTIALS.sub("***@", spec))
