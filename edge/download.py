"""Downloads a file from an untrusted web server, with limits on size and time, and without following redirects."""

from __future__ import annotations

import contextlib
import http
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit

from edge.errors import UpdateError
from edge.tls import client_context

_CHUNK_BYTES: Final = 64 * 1024
_IDLE_TIMEOUT_S: Final = 30.0
"""Maximum time without any data from the server."""

_BASE_TIMEOUT_S: Final = 120.0
_MIN_BYTES_PER_S: Final = 1000.0
"""The total time limit of a file is `_BASE_TIMEOUT_S` plus the time for its maximum size at this rate."""

_SAFE_CHARS: Final = "/%:@!$&'()*+,;=~"
"""Characters of a path that are not quoted, besides letters and digits; `%` because paths may already be quoted."""

_REMEDY: Final = "Check the URL, and that the server is running; the agent retries later"
_CERTIFICATE_REMEDY: Final = "Set update.ca_file to its CA, and use a host name from its certificate in update.url"
_CERTIFICATE_REMEDIES: Final = {
    9: "Set this device's clock, or wait for it to be synchronized",
    10: "Renew the certificate, or check this device's clock",
}
"""By OpenSSL's verification code: 9 is not yet valid, 10 is expired."""


def download(url: str, *, max_bytes: int, ca_file: Path | None = None) -> bytes:
    """Downloads a file. Does not follow redirects.

    Args:
        url: URL of the file, http or https.
        max_bytes: Maximum size; the download of a larger file is aborted. The time limit grows with it.
        ca_file: PEM file of the CA that signed an https server's certificate; the system's CAs if None.

    Raises:
        UpdateError: The server cannot be reached, does not have the file, or sends too much, too slowly or too little.
    """
    address = urlsplit(url)
    try:
        with contextlib.closing(_connection(address, ca_file)) as connection:
            connection.connect()
            with _time_limit(_BASE_TIMEOUT_S + max_bytes / _MIN_BYTES_PER_S, connection.sock, url):
                connection.request("GET", quote(address.path, safe=_SAFE_CHARS), headers={"Connection": "close"})
                with connection.getresponse() as response:
                    return _read(response, url, max_bytes)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _error(error, url) from error


def _connection(address: SplitResult, ca_file: Path | None) -> http.client.HTTPConnection:
    is_https = address.scheme == "https"
    # Without a port, HTTPConnection would parse the last group of an IPv6 address as one.
    host, port = address.hostname or "", address.port or (443 if is_https else 80)
    if not is_https:
        return http.client.HTTPConnection(host, port, timeout=_IDLE_TIMEOUT_S)
    return http.client.HTTPSConnection(host, port, timeout=_IDLE_TIMEOUT_S, context=_context(ca_file))


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return client_context(ca_file)
    except OSError as error:
        raise UpdateError(
            f"the CA certificate cannot be read ({_reason(error)})", where=ca_file,
            remedy="Set update.ca_file to a PEM file with the certificate of the CA that signed the server's",
        ) from error  # fmt: skip


@contextlib.contextmanager
def _time_limit(limit_s: float, connected: socket.socket, url: str) -> Iterator[None]:
    """Limits the total time, as a timeout on each read does not. Shuts the socket down when the limit is reached.

    Raises:
        UpdateError: The limit was reached.
    """
    timed_out = threading.Event()

    def shut_down() -> None:
        timed_out.set()
        with contextlib.suppress(OSError):  # already closed
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(limit_s, shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timed_out.is_set():
            raise UpdateError(
                f"took longer than {limit_s:.0f} s", where=url,
                remedy="Use a faster connection, or install the release manually; the agent retries later",
            )  # fmt: skip


def _read(response: http.client.HTTPResponse, url: str, max_bytes: int) -> bytes:
    if response.status != http.HTTPStatus.OK:
        raise UpdateError(f"the server responded with {_status(response.status)}", where=url, remedy=_REMEDY)
    if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
        raise UpdateError("the server sends it compressed, which was not requested", where=url,
                          remedy="Configure the server to send files without a Content-Encoding")  # fmt: skip
    content = bytearray()
    while part := response.read1(min(_CHUNK_BYTES, max_bytes + 1 - len(content))):
        content += part
        if len(content) > max_bytes:
            raise UpdateError(f"is larger than {max_bytes} bytes", where=url,
                              remedy="Check that the server has the bundle that was signed")  # fmt: skip
    if response.length:
        raise UpdateError(f"is incomplete: {response.length} bytes are missing", where=url, remedy=_REMEDY)
    return bytes(content)


def _status(code: int) -> str:
    """Returns the status with its standard phrase; the server's own could be of any length and content."""
    try:
        return f"{code} {http.HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _error(error: Exception, url: str) -> UpdateError:
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"the server's certificate is not trusted ({error.verify_message.rstrip('.')})"
        remedy = _CERTIFICATE_REMEDIES.get(error.verify_code, _CERTIFICATE_REMEDY)
        return UpdateError(what, where=url, remedy=remedy)
    if isinstance(error, ssl.SSLError):
        return UpdateError(f"TLS error ({_reason(error)})", where=url,
                           remedy="Check that the server is running and serves https on that port")  # fmt: skip
    return UpdateError(f"cannot be downloaded ({_reason(error)})", where=url, remedy=_REMEDY)


def _reason(error: Exception) -> str:
    found = getattr(error, "reason", None) or getattr(error, "strerror", None)  # `reason` is OpenSSL's, in one word
    return (found or str(error) or type(error).__name__)[:100]
