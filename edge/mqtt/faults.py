"""Translates errors of sockets, TLS and MQTT into the agent's own, with a plain description and a remedy."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from paho.mqtt.reasoncodes import ReasonCode

from edge.errors import BrokerError, BrokerRefused, BrokerUnreachable
from edge.mqtt.settings import BrokerSettings

UNSUPPORTED_PROTOCOL_VERSION: Final = 0x84
CLIENT_ID_NOT_VALID: Final = 0x85
BAD_USER_NAME_OR_PASSWORD: Final = 0x86
NOT_AUTHORIZED: Final = 0x87
SESSION_TAKEN_OVER: Final = 0x8E
TOPIC_NAME_INVALID: Final = 0x90
RETAIN_NOT_SUPPORTED: Final = 0x9A
QOS_NOT_SUPPORTED: Final = 0x9B

_NOT_OVER_AN_OPERATION: Final = frozenset({0x89, 0x8B, 0x8D, 0x98, 0x9C, 0x9D, 0x9F, 0xA0})
"""Reasons of a DISCONNECT that do not depend on what was sent: server busy, server shutting down, keep alive timeout,
administrative action, use another server, server moved, connection rate exceeded, maximum connect time."""

_CERTIFICATE_FAULTS = {
    9: ("the broker's certificate is not valid yet", "Set this device's clock, or wait for its synchronization"),
    10: ("the broker's certificate has expired", "Renew the broker's certificate, and check this device's clock"),
    62: ("the broker's certificate is for another host name", "Set host to a name that the certificate contains"),
    64: ("the broker's certificate is not for this IP address", "Set host to a name that the certificate contains"),
}
"""By OpenSSL's verification code."""


class Mqtt5Unsupported(BrokerRefused):
    """The broker does not support MQTT 5, or does not seem to."""


class NoConnack(Mqtt5Unsupported):
    """There was no CONNACK. May be temporary: a proxy, for example, accepts connections while its broker starts."""


class ConnackTimeout(NoConnack):
    """The server keeps the connection open, but sends nothing."""


class ConnectCancelled(BrokerError):
    """The connection was cancelled before CONNECT."""


class ConnectionDropped(BrokerUnreachable):
    """An established connection ended, perhaps over an operation that the broker does not allow.

    Args:
        what, where, remedy: As for every error.
        behavior: How the broker reacts to the operation, in words: for example "it drops the connection".
    """

    def __init__(self, what: str, *, where: str, behavior: str, remedy: str | None = None) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.behavior = behavior


class AckTimeout(ConnectionDropped):
    """This client gave the connection up, as an operation was not acknowledged in time."""


def unreachable(error: OSError, settings: BrokerSettings) -> BrokerError:
    """Returns why no TCP or TLS connection came about."""
    if isinstance(error, ssl.SSLError):
        return _tls_failed(error, settings)
    if isinstance(error, socket.gaierror):
        what, remedy = f"the name {settings.host} cannot be resolved", "Check the host's spelling and the DNS server"
    elif isinstance(error, ConnectionRefusedError):
        what, remedy = "nothing listens on that port", "Check the port, and that the broker is running"
    elif isinstance(error, TimeoutError):
        what, remedy = "the connection timed out", "Check the address, the network and any firewall between"
    elif settings.tls is not None and isinstance(error, ConnectionError):
        return _no_tls(settings)
    else:
        what, remedy = f"cannot connect ({error.strerror or error})", "Check the address and the network"
    return BrokerUnreachable(what, where=settings.address, remedy=remedy)


def _tls_failed(error: ssl.SSLError, settings: BrokerSettings) -> BrokerError:
    if isinstance(error, ssl.SSLCertVerificationError):
        what, remedy = _CERTIFICATE_FAULTS.get(
            error.verify_code,
            (
                f"the broker's certificate is not trusted ({error.verify_message})",
                "Name the file of the authority that signed it as the CA file",
            ),
        )
        return BrokerRefused(what, where=settings.address, remedy=remedy)
    if isinstance(error, ssl.SSLEOFError) or error.reason == "WRONG_VERSION_NUMBER":
        return _no_tls(settings)
    return BrokerRefused(
        f"the TLS handshake failed ({error.reason or error})",
        where=settings.address,
        remedy="Check the TLS settings on both sides, and whether the broker requires a client certificate",
    )


def _no_tls(settings: BrokerSettings) -> BrokerError:
    return BrokerRefused(
        "the broker does not speak TLS on that port",
        where=settings.address,
        remedy="Use the broker's TLS port, often 8883, or switch TLS off",
    )


def no_connack(settings: BrokerSettings, *, closed: bool) -> BrokerError:
    """Returns why the TCP connection did not become an MQTT connection; `closed` says that the server closed it."""
    what = "something listens on that port, but sent no MQTT reply (CONNACK)"
    if closed:
        what = "the connection was closed before the broker sent an MQTT reply (CONNACK)"
    remedy = "Check that this is the port of an MQTT broker, and whether it expects TLS"
    if settings.tls is not None:
        remedy = "Check that this is the port of an MQTT broker, and whether it requires a client certificate"
    return (NoConnack if closed else ConnackTimeout)(what, where=settings.address, remedy=remedy)


def refused(reason: ReasonCode, settings: BrokerSettings, *, mqtt5: bool) -> BrokerError:
    """Returns why the broker refused the connection in its CONNACK to MQTT 5, or to 3.1.1 after that."""
    if reason.value == UNSUPPORTED_PROTOCOL_VERSION:
        what = "the broker does not support MQTT 5" if mqtt5 else "the broker supports neither MQTT 5 nor 3.1.1"
        return Mqtt5Unsupported(what, where=settings.address, remedy="Update the broker")
    what, remedy = f"the broker refused the connection ({str(reason).lower()})", "Check the broker's log"
    if reason.value in (BAD_USER_NAME_OR_PASSWORD, NOT_AUTHORIZED):
        what, remedy = _login_failed(settings)
    elif reason.value == CLIENT_ID_NOT_VALID:
        what = f"the broker does not accept the client id {settings.client_id}"
        remedy = (
            "Allow this user any client id there: the agent's own is in state.json in its state folder, and `edge "
            "check` and `edge doctor` use others"
        )
    elif reason.value == TOPIC_NAME_INVALID:
        what = "the broker does not allow this device to publish its last will"
        remedy = "Allow it in the broker's access list: the will goes to the device's status topic"
    elif reason.value in (RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED):
        what = f"the broker does not accept the agent's messages ({str(reason).lower()})"
        remedy = "Allow retained messages and QoS 1 there: the agent needs both"
    return BrokerRefused(what, where=settings.address, remedy=remedy)


def _login_failed(settings: BrokerSettings) -> tuple[str, str]:
    if settings.username is None:
        return "the broker does not accept anonymous clients", "Configure a user name and a password"
    if settings.password is None:
        return (
            f"the broker rejected the user {settings.username}, for whom no password is configured",
            "Configure one; a systemd credential is available only while its service runs",
        )
    # Brokers do not tell these apart, so that nobody can find out which users exist.
    return (
        f"the broker rejected the user {settings.username}: wrong password, unknown user, or no right to connect",
        "Check user name and password, and the broker's access list",
    )


def ack_timeout(settings: BrokerSettings, timeout_s: float) -> BrokerError:
    """Returns that an operation was not acknowledged though the connection still stands."""
    return AckTimeout(
        f"the broker has not acknowledged a message or a subscription for {timeout_s:.0f} s",
        where=settings.address,
        remedy="Check the broker's log, as the broker may be dropping messages silently",
        behavior="it sends no acknowledgement",
    )


def lost(reason: ReasonCode, settings: BrokerSettings, *, from_broker: bool) -> BrokerError:
    """Returns why an established connection ended.

    Args:
        reason: The reason of the broker's DISCONNECT, or what paho made of the end of the connection.
        settings: The broker settings.
        from_broker: Whether the broker sent the reason.
    """
    where, words = settings.address, str(reason).lower()
    if from_broker and reason.value == SESSION_TAKEN_OVER:
        return BrokerRefused(
            f"another client connected as {settings.client_id}, and the broker closed this connection for it",
            where=where,
            remedy="Give each device its own client id and its own state folder: "
            "two with one client id keep disconnecting each other",
        )
    if from_broker and reason.value not in _NOT_OVER_AN_OPERATION:
        return ConnectionDropped(
            f"the broker closed the connection ({words})", where=where, behavior=f"it drops the connection: {words}"
        )
    if from_broker or reason.getName() == "Keep alive timeout":
        return BrokerUnreachable(f"the connection was lost ({words})", where=where)
    if reason.getName() == "Protocol error":  # how paho reports a packet that it cannot parse
        return ConnectionDropped("the broker sent a packet that is not valid MQTT", where=where,
                                 behavior="its acknowledgement is not valid MQTT")  # fmt: skip
    return ConnectionDropped("the connection was lost", where=where, behavior="it drops the connection")
