"""What went wrong with the broker, in plain words: the one place where foreign faults become the agent's errors."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from paho.mqtt.reasoncodes import ReasonCode

from edge.errors import BrokerError, BrokerRefused, BrokerUnreachable
from edge.mqtt.settings import BrokerSettings

PROTOCOL_REFUSED: Final = 0x84
CLIENT_ID_REFUSED: Final = 0x85
WRONG_PASSWORD: Final = 0x86
NOT_AUTHORIZED: Final = 0x87
TAKEN_OVER: Final = 0x8E
TOPIC_REFUSED: Final = 0x90
RETAIN_NOT_SUPPORTED: Final = 0x9A
QOS_NOT_SUPPORTED: Final = 0x9B

_OF_THE_CONNECTION: Final = frozenset({0x89, 0x8B, 0x8D, 0x98, 0x9C, 0x9D, 0x9F, 0xA0})
"""Why a broker closes one whatever was said over it: busy, shutting down, keep alive, an administrator, moved (0x9C and
0x9D), too many, too long."""

_CERTIFICATE_FAULTS = {
    9: ("the broker's certificate is not valid yet", "Set this device's clock, or wait for its synchronisation"),
    10: ("the broker's certificate has expired", "Renew the broker's certificate, and check this device's clock"),
    62: ("the broker's certificate is made out to another name", "Use as host a name that stands in the certificate"),
    64: (
        "the broker's certificate is made out to another address",
        "Use as host a name that stands in the certificate",
    ),
}
"""By OpenSSL's verification code."""


class NoMqtt5(BrokerRefused):
    """The broker does not speak MQTT 5, or does not seem to."""


class Unanswered(NoMqtt5):
    """What listens there neither lets the client in nor says no: a proxy before a broker that is starting, say."""


class Silent(Unanswered):
    """It takes the connection and says nothing at all."""


class Unwanted(BrokerError):
    """The connection came about too late: nobody wants it any more."""


class BrokenOff(BrokerUnreachable):
    """An established connection ended, perhaps because of what was said over it.

    Args:
        what, where, remedy: As of every error.
        how: What the broker does when something is said that it does not want, for people.
    """

    def __init__(self, what: str, *, where: str, how: str, remedy: str | None = None) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.how = how


class Unanswering(BrokenOff):
    """The connection was given up, as something that was said over it is not answered."""


def unreachable(error: OSError, settings: BrokerSettings) -> BrokerError:
    """Why no connection came about."""
    if isinstance(error, ssl.SSLError):
        return _tls_failed(error, settings)
    if isinstance(error, socket.gaierror):
        what, remedy = f"the name {settings.host} cannot be resolved", "Check the host's spelling and the DNS server"
    elif isinstance(error, ConnectionRefusedError):
        what, remedy = "nothing listens on that port", "Check the port, and that the broker is running"
    elif isinstance(error, TimeoutError):
        what, remedy = "no answer", "Check the address, the network and any firewall between"
    elif settings.tls is not None and isinstance(error, ConnectionError):
        return _no_tls(settings)
    else:
        what, remedy = f"no connection ({error.strerror or error})", "Check the address and the network"
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
        f"no agreement on encryption ({error.reason or error})",
        where=settings.address,
        remedy="Check the TLS settings on both sides, and whether the broker asks for a client certificate",
    )


def _no_tls(settings: BrokerSettings) -> BrokerError:
    return BrokerRefused(
        "the broker does not speak TLS on that port",
        where=settings.address,
        remedy="Use the broker's TLS port, often 8883, or switch TLS off",
    )


def unanswered(settings: BrokerSettings, *, closed: bool) -> BrokerError:
    """A connection came about, but no MQTT session."""
    what = "the connection was closed" if closed else "something listens there, but did not answer"
    remedy = "Check that this is the port of an MQTT broker, and whether it expects TLS"
    if settings.tls is not None:
        remedy = "Check that this is the port of an MQTT broker, and whether it asks for a client certificate"
    return (Unanswered if closed else Silent)(
        f"{what} before the broker had let the client in", where=settings.address, remedy=remedy
    )


def refused(reason: ReasonCode, settings: BrokerSettings, *, mqtt5: bool) -> BrokerError:
    """Why the broker answered no (its CONNACK) to MQTT 5, or else to 3.1.1 after that."""
    if reason.value == PROTOCOL_REFUSED:
        spoken = "no MQTT 5" if mqtt5 else "neither MQTT 5 nor 3.1.1"
        return NoMqtt5(f"the broker speaks {spoken}", where=settings.address, remedy="Update the broker")
    what, remedy = f"the broker refused the connection ({str(reason).lower()})", "Look into the broker's log"
    if reason.value in (WRONG_PASSWORD, NOT_AUTHORIZED):
        what, remedy = _not_let_in(settings)
    elif reason.value == CLIENT_ID_REFUSED:
        what = f"the broker does not accept the client id {settings.client_id}"
        remedy = (
            "Allow this user any client id there: the agent's own is in state.json in its state folder, and `edge "
            "check` and `edge doctor` use others"
        )
    elif reason.value == TOPIC_REFUSED:
        what = "the broker does not let this device publish its last will"
        remedy = "Allow it in the broker's access list: the will goes to the device's status topic"
    elif reason.value in (RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED):
        what = f"the broker takes no such messages ({str(reason).lower()})"
        remedy = "Allow retained messages and QoS 1 there: the agent cannot do without"
    return BrokerRefused(what, where=settings.address, remedy=remedy)


def _not_let_in(settings: BrokerSettings) -> tuple[str, str]:
    if settings.username is None:
        return "the broker lets no anonymous client in", "Configure a user name and a password"
    if settings.password is None:
        return (
            f"the broker does not let {settings.username} in, for whom there is no password here",
            "Give one; a systemd credential is there only while its service runs",
        )
    # Brokers answer alike for both faults, so that nobody can find out which users there are.
    return (
        f"the broker does not let {settings.username} in: wrong password, unknown user, or no right to connect",
        "Check user name and password, and the broker's access list",
    )


def unanswering(settings: BrokerSettings, timeout_s: float) -> BrokerError:
    """The connection stands, but something that was said over it is not answered."""
    return Unanswering(
        f"the broker has not answered a message or a subscription for {timeout_s:.0f} s",
        where=settings.address,
        remedy="Look into the broker's log: it drops messages without saying so",
        how="it does not answer",
    )


def lost(reason: ReasonCode, settings: BrokerSettings, *, told: bool) -> BrokerError:
    """Why an established connection ended.

    Args:
        reason: What the broker's DISCONNECT says, or what paho makes of the connection's end.
        settings: The broker's.
        told: Whether it was the broker that said so.
    """
    where, words = settings.address, str(reason).lower()
    if told and reason.value == TAKEN_OVER:
        return BrokerRefused(
            f"another client connected as {settings.client_id}, and the broker closed this connection for it",
            where=where,
            remedy="Give each device its own client id and its own state folder: "
            "two with one id push each other out for ever",
        )
    if told and reason.value not in _OF_THE_CONNECTION:
        return BrokenOff(f"the broker closed the connection ({words})", where=where, how=f"it hangs up: {words}")
    if told or reason.getName() == "Keep alive timeout":
        return BrokerUnreachable(f"the connection was lost ({words})", where=where)
    if reason.getName() == "Protocol error":  # so paho calls an answer that it does not know
        return BrokenOff("the broker gave an answer that MQTT does not have", where=where,
                         how="its answer is none that MQTT has")  # fmt: skip
    return BrokenOff("the connection was lost", where=where, how="it hangs up")
