"""TLS settings shared by the connections to the broker and to the update server."""

from __future__ import annotations

import ssl
from pathlib import Path


def client_context(ca_file: Path | None) -> ssl.SSLContext:
    """Creates a client context with Python's defaults, but without strict X.509 checks for a private CA.

    CAs created as in broker manuals lack the key usage and key identifiers that Python 3.13 requires
    (`ssl.VERIFY_X509_STRICT`), and an upgrade of Python must not cut a device off from its broker.

    Args:
        ca_file: PEM file with the CA's certificate; the system's CAs if None.

    Raises:
        OSError: The file cannot be read, or contains no certificate.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is not None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
