"""A file from a web server that nobody vouches for: within limits of size and time, and from that server alone."""

from __future__ import annotations

import contextlib
import http
import http.client
import socket
import threading
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

from edge.errors import UpdateError
from edge.tls import trusting

_CHUNK_BYTES: Final = 64 * 1024
_SILENCE_S: Final = 20.0
"""For how long the server may say nothing."""

_WHOLE_S: Final = 120.0
"""For one file, however steadily it drips."""

_REMEDY: Final = "See that the address is right and that the server runs; the agent tries again later"


def download(url: str, *, at_most: int, ca_file: Path | None = None) -> bytes:
    """What lies at an address. Redirections are not followed.

    Args:
        url: http or https.
        at_most: Bytes; a larger file is refused as soon as it shows.
        ca_file: PEM file of the authority that signed an https server's certificate; those of the system if None.

    Raises:
        UpdateError: The server cannot be reached, has no such file, or sends too much, too slowly or too little.
    """
    address = urlsplit(url)
    try:
        with contextlib.closing(_connection(address, ca_file)) as connection:
            connection.connect()
            # A time limit on each read is none on the whole: at its end, whatever is read or awaited then fails.
            limit = threading.Timer(_WHOLE_S, _cut, [connection.sock])
            limit.daemon = True
            limit.start()
            try:
                connection.request("GET", address.path, headers={"Connection": "close"})
                with connection.getresponse() as response:
                    return _read(response, url, at_most)
            finally:
                limit.cancel()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UpdateError(f"cannot be fetched ({_reason(error)})", where=url, remedy=_REMEDY) from error


def _connection(address: SplitResult, ca_file: Path | None) -> http.client.HTTPConnection:
    is_https = address.scheme == "https"
    # Without a port, it would look for one in the host, and find the end of an IPv6 address.
    host, port = address.hostname or "", address.port or (443 if is_https else 80)
    if not is_https:
        return http.client.HTTPConnection(host, port, timeout=_SILENCE_S)
    return http.client.HTTPSConnection(host, port, timeout=_SILENCE_S, context=trusting(ca_file))


def _read(response: http.client.HTTPResponse, url: str, at_most: int) -> bytes:
    if response.status != http.HTTPStatus.OK:
        raise UpdateError(f"the server answers {_status(response.status)}", where=url, remedy=_REMEDY)
    content = bytearray()
    while part := response.read1(min(_CHUNK_BYTES, at_most + 1 - len(content))):
        content += part
        if len(content) > at_most:
            raise UpdateError(f"is larger than {at_most} bytes", where=url,
                              remedy="See that the server has the bundle that was signed")  # fmt: skip
    if response.length:
        raise UpdateError(f"ends {response.length} bytes too early", where=url, remedy=_REMEDY)
    return bytes(content)


def _cut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may have ended by itself
        connected.shutdown(socket.SHUT_RDWR)


def _status(code: int) -> str:
    """In our words: the server's own may be of any length and content."""
    try:
        return f"{code} {http.HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:100]
