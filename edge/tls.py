"""Which servers are trusted, by those who speak TLS with one: the connection to the broker and that to the updates."""

from __future__ import annotations

import ssl
from pathlib import Path


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """A client's context with Python's defaults.

    Of an authority of one's own it asks no more than Python 3.12 did. The authorities that broker manuals have people
    make lack the key usage and key identifiers on which 3.13 insists (`ssl.VERIFY_X509_STRICT`), and a device must not
    lose its broker by an upgrade of Python.

    Args:
        ca_file: PEM file with the authority's certificate; those of the system if None.

    Raises:
        OSError: The file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context(cafile=ca_file)
    if ca_file is not None:
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
