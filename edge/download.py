"""A file from a web server that nobody vouches for: within limits of size and time, and from that server alone."""

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
from edge.tls import trusting

_CHUNK_BYTES: Final = 64 * 1024
_SILENCE_S: Final = 30.0
"""For how long the server may say nothing."""

_WHOLE_S: Final = 120.0
_SLOWEST_BYTES_S: Final = 1000.0
"""For one file, however steadily it drips, `_WHOLE_S` and what the largest that it may be takes at this rate."""

_PLAIN: Final = "/%:@!$&'()*+,;=~"
"""What a path may hold as it is, beside letters and digits; a `%` begins what is quoted already."""

_REMEDY: Final = "See that the address is right and that the server runs; the agent tries again later"
_CERTIFICATE_REMEDY: Final = "Name its authority in update.ca_file, and use the name that is in its certificate"
_CERTIFICATE_REMEDIES: Final = {
    9: "Set this device's clock, or wait for its synchronisation",
    10: "Renew it, and check this device's clock",
}
"""By OpenSSL's verification code: not valid yet, and not any more."""


def download(url: str, *, at_most: int, ca_file: Path | None = None) -> bytes:
    """What lies at an address. Redirections are not followed.

    Args:
        url: http or https.
        at_most: Bytes; a larger file is refused as soon as it shows. The time that it may take grows with them.
        ca_file: PEM file of the authority that signed an https server's certificate; those of the system if None.

    Raises:
        UpdateError: The server cannot be reached, has no such file, or sends too much, too slowly or too little.
    """
    address = urlsplit(url)
    try:
        with contextlib.closing(_connection(address, ca_file)) as connection:
            connection.connect()
            with _cut_after(_WHOLE_S + at_most / _SLOWEST_BYTES_S, connection.sock, url):
                connection.request("GET", quote(address.path, safe=_PLAIN), headers={"Connection": "close"})
                with connection.getresponse() as response:
                    return _read(response, url, at_most)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _fault(error, url) from error


def _connection(address: SplitResult, ca_file: Path | None) -> http.client.HTTPConnection:
    is_https = address.scheme == "https"
    # Without a port, it would look for one in the host, and find the end of an IPv6 address.
    host, port = address.hostname or "", address.port or (443 if is_https else 80)
    if not is_https:
        return http.client.HTTPConnection(host, port, timeout=_SILENCE_S)
    return http.client.HTTPSConnection(host, port, timeout=_SILENCE_S, context=_trusting(ca_file))


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return trusting(ca_file)
    except OSError as error:
        raise UpdateError(
            f"the certificate authority cannot be read ({_reason(error)})", where=ca_file,
            remedy="Name a readable PEM file with the certificate of the authority that signed the server's",
        ) from error  # fmt: skip


@contextlib.contextmanager
def _cut_after(limit_s: float, connected: socket.socket, url: str) -> Iterator[None]:
    """A time limit on each read is none on the whole: at its end, whatever is read or awaited then comes to an end.

    Raises:
        UpdateError: It came to that.
    """
    is_cut = threading.Event()

    def cut() -> None:
        is_cut.set()
        with contextlib.suppress(OSError):  # it may have ended by itself
            connected.shutdown(socket.SHUT_RDWR)

    limit = threading.Timer(limit_s, cut)
    limit.daemon = True
    limit.start()
    try:
        yield
    finally:
        limit.cancel()
        if is_cut.is_set():
            raise UpdateError(
                f"took longer than {limit_s:.0f} s", where=url,
                remedy="See to a faster connection, or install the release by hand; the agent tries again later",
            )  # fmt: skip


def _read(response: http.client.HTTPResponse, url: str, at_most: int) -> bytes:
    if response.status != http.HTTPStatus.OK:
        raise UpdateError(f"the server answers {_status(response.status)}", where=url, remedy=_REMEDY)
    if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
        raise UpdateError("the server sends it compressed, which nobody asked for", where=url,
                          remedy="Have it send the files as they are, without a Content-Encoding")  # fmt: skip
    content = bytearray()
    while part := response.read1(min(_CHUNK_BYTES, at_most + 1 - len(content))):
        content += part
        if len(content) > at_most:
            raise UpdateError(f"is larger than {at_most} bytes", where=url,
                              remedy="See that the server has the bundle that was signed")  # fmt: skip
    if response.length:
        raise UpdateError(f"ends {response.length} bytes too early", where=url, remedy=_REMEDY)
    return bytes(content)


def _status(code: int) -> str:
    """In our words: the server's own may be of any length and content."""
    try:
        return f"{code} {http.HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _fault(error: Exception, url: str) -> UpdateError:
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"the server's certificate is not trusted ({error.verify_message.rstrip('.')})"
        remedy = _CERTIFICATE_REMEDIES.get(error.verify_code, _CERTIFICATE_REMEDY)
        return UpdateError(what, where=url, remedy=remedy)
    if isinstance(error, ssl.SSLError):
        return UpdateError(f"the encryption failed ({_reason(error)})", where=url,
                           remedy="See that the server runs and speaks https on that port")  # fmt: skip
    return UpdateError(f"cannot be fetched ({_reason(error)})", where=url, remedy=_REMEDY)


def _reason(error: Exception) -> str:
    found = getattr(error, "reason", None) or getattr(error, "strerror", None)  # the first is OpenSSL's, in a word
    return (found or str(error) or type(error).__name__)[:100]
