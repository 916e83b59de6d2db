"""The agent's errors and their exit codes.

    UserError (edge.contract.errors)  1
    ├── ConfigError                   3   the configuration, with the line and key
    │   └── ConfigErrors                  several of them
    ├── BundleError (edge.contract)   4   the model bundle
    ├── SourceError                   5   a camera, stream, video or folder of images
    │   ├── SourceUnavailable             it cannot be opened
    │   │   └── DriverHangs               its driver still hangs
    │   └── SourceLost                    it was open, but no longer delivers frames
    ├── BrokerError                   6   the MQTT broker
    │   ├── BrokerUnreachable             no response at its address
    │   └── BrokerRefused                 rejected by it: password, permissions, client id, protocol
    ├── RuntimeMissing                7   TFLite runtime, detector or another component is not installed
    ├── StateError                    8   the state folder or its outbox
    └── UpdateError                   9   the update server; ends only `edge doctor`, never the agent

2 is argparse's exit code for an invalid command line.

More specific errors are defined where they are used: subclasses of `BrokerError` in `edge.mqtt.faults`,
`AddressUnavailable` in `edge.metrics`, and `CheckWarning`, which is no failure, in `edge.checks.check`.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge.contract.errors import UserError


class ConfigError(UserError):
    """The configuration cannot be used; `where` is the file, with line and key if known."""

    exit_code = 3


class ConfigErrors(ConfigError):
    """All errors in a configuration, one per line, so that they can be fixed in one go.

    Args:
        errors: The errors.
        omitted: Number of further errors that are not included.
    """

    def __init__(self, errors: Sequence[ConfigError], *, omitted: int = 0) -> None:
        super().__init__(f"{len(errors) + omitted} errors", remedy="Fix each of them")
        self.errors = tuple(errors)
        self._more = (f"and {omitted} more errors",) if omitted else ()

    def __str__(self) -> str:
        return "\n".join((*map(str, self.errors), *self._more))


class SourceError(UserError):
    """A camera, stream, video file or folder of images cannot be used."""

    exit_code = 5


class SourceUnavailable(SourceError):
    """The source cannot be opened."""


class DriverHangs(SourceUnavailable):
    """The driver still blocks the last attempt to use the source; another attempt would hang as well."""

    def __init__(self, *, where: str, remedy: str) -> None:
        super().__init__("its driver still hangs after the last attempt", where=where, remedy=remedy)


class SourceLost(SourceError):
    """The source was open, but no longer delivers frames."""


class BrokerError(UserError):
    """The MQTT broker cannot be used."""

    exit_code = 6


class BrokerUnreachable(BrokerError):
    """Nothing responds at the broker's address."""


class BrokerRefused(BrokerError):
    """The broker rejected the connection or a request."""


class RuntimeMissing(UserError):
    """A component that the agent needs is not installed."""

    exit_code = 7


class StateError(UserError):
    """The state folder cannot be used."""

    exit_code = 8


class UpdateError(UserError):
    """The update server cannot be used."""

    exit_code = 9
