"""A file from a web server, within limits of size and time."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Final

from edge.errors import UpdateError

_CHUNK_BYTES: Final = 64 * 1024
_SILENCE_S: Final = 20.0
"""For how long the server may say nothing."""

_WHOLE_S: Final = 300.0
"""For one file, however steadily it drips."""

_REMEDY: Final = "See that the address is right and that the server runs; the agent tries again later"


def download(url: str, *, at_most: int, cancelled: Callable[[], bool] = lambda: False) -> bytes:
    """What lies at an address.

    Args:
        url: http or https.
        at_most: Bytes; a larger file is refused as soon as it shows.
        cancelled: Asked between two chunks.

    Raises:
        UpdateError: The server cannot be reached, has no such file, or sends too much, too slowly or too little.
    """
    give_up_s = time.monotonic() + _WHOLE_S
    parts: list[bytes] = []
    left = at_most
    try:
        with urllib.request.urlopen(url, timeout=_SILENCE_S) as response:  # noqa: S310 - the caller's is http or https
            while part := response.read1(min(_CHUNK_BYTES, left + 1)):
                parts.append(part)
                left -= len(part)
                if left < 0:
                    raise UpdateError(f"is larger than {at_most} bytes", where=url,
                                      remedy="See that the server has the bundle that was signed")  # fmt: skip
                if cancelled() or time.monotonic() > give_up_s:
                    raise UpdateError("is given up: it takes too long", where=url, remedy=_REMEDY)
    except urllib.error.HTTPError as error:
        raise UpdateError(f"the server answers {error.code} {error.reason}", where=url, remedy=_REMEDY) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UpdateError(f"cannot be fetched ({_reason(error)})", where=url, remedy=_REMEDY) from error
    return b"".join(parts)


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
