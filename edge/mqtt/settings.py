"""The broker's address, credentials and TLS settings."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

from edge.errors import ConfigError
from edge.system import is_loopback
from edge.tls import client_context


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Settings of an encrypted connection.

    Attributes:
        ca_file: The authority that signed the broker's certificate; the system's authorities if None.
        cert_file: The client certificate, if the broker requires one.
        key_file: Its private key, if it is not in `cert_file`.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Returns a context with the files as they are now, so that the next connection uses a renewed certificate.

        Raises:
            ConfigError: A file is missing or invalid.
        """
        context = _context(self.ca_file)
        context.sslsocket_class = _ClosingSocket
        if self.cert_file is not None:
            _load_certificate(context, self.cert_file, self.key_file)
        return context


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  # as inherited
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return client_context(ca_file)
    except OSError as error:
        raise ConfigError(
            f"the certificate authority cannot be read ({error.strerror or error})",
            where=ca_file,
            remedy="Name a readable PEM file with the certificate of the authority that signed the broker's",
        ) from error


def _load_certificate(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
    try:
        # Without `password`, OpenSSL would ask for a passphrase on the terminal. `str` returns an empty one.
        context.load_cert_chain(cert_file, key_file, password=str)
    except OSError as error:
        raise ConfigError(
            f"the client certificate or its key cannot be read ({error.strerror or error})",
            where=f"{cert_file}, {key_file}" if key_file else cert_file,
            remedy="Name readable PEM files that belong together; the key must not be encrypted",
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """How to reach the broker.

    Attributes:
        host: Host name or IP address.
        port: Usually 1883 without TLS, and 8883 with TLS.
        client_id: Must be unique among the broker's clients.
        username: None for an anonymous client.
        password: Never shown in logs.
        tls: None for an unencrypted connection.
        keepalive_s: MQTT's keep alive interval.
        allow_plaintext_password: Whether the password may cross a network unencrypted.

    Raises:
        ConfigError: The password would cross a network unencrypted, and `allow_plaintext_password` is not set.
    """

    host: str = "localhost"
    port: int = 1883
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None
    keepalive_s: int = 30
    allow_plaintext_password: bool = False

    def __post_init__(self) -> None:
        exposed = self.password is not None and self.tls is None and not is_loopback(self.host)
        if exposed and not self.allow_plaintext_password:
            raise ConfigError(
                "the password would be sent unencrypted over the network",
                where=self.address,
                remedy="Set up TLS, or set allow_plaintext_password if you trust every machine on that network",
            )

    def check_files(self) -> None:
        """Reads the TLS files, so that a faulty one is reported before the first connection.

        Raises:
            ConfigError: A file cannot be used.
        """
        if self.tls is not None:
            self.tls.context()

    @property
    def address(self) -> str:
        """Host and port, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
