"""The agent's errors, and the exit code that each gives to the process.

    UserError (edge.contract.errors)  1
    ├── ConfigError                   3   a key of the configuration, named with its line
    │   └── ConfigFaults                  several of them
    ├── BundleError (edge.contract)   4   the model bundle
    ├── SourceError                   5   a camera, stream, video or folder of images
    │   ├── SourceUnavailable             it does not open
    │   │   └── DriverHangs               nor can it, while its driver hangs from the last time
    │   └── SourceLost                    it was open and stopped giving frames
    ├── BrokerError                   6   the MQTT broker
    │   ├── BrokerUnreachable             no answer at that address
    │   └── BrokerRefused                 it answered no: password, rights, client id, protocol
    ├── RuntimeMissing                7   no TFLite runtime, detector or other part is installed
    ├── StateError                    8   the state folder or the outbox in it cannot be used
    └── UpdateError                   9   the server with the newer models; it ends no agent, only `edge doctor`

2 is argparse's own code for a wrong command line.

What only one part tells apart it defines itself: kinds of `BrokerError` in `edge.mqtt.faults`, `AddressAbsent` in
`edge.metrics`, and `Doubt`, which ends nothing, in `edge.checks.finding`.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge.contract.errors import UserError


class ConfigError(UserError):
    """The configuration cannot be used; `where` names file, line and key."""

    exit_code = 3


class ConfigFaults(ConfigError):
    """All that is wrong with a configuration, one fault a line, so that it is put right in one go.

    Args:
        faults: Each one.
        untold: How many more there are.
    """

    def __init__(self, faults: Sequence[ConfigError], *, untold: int = 0) -> None:
        super().__init__(f"{len(faults) + untold} faults", remedy="Put right what each names")
        self.faults = tuple(faults)
        self._more = (f"and {untold} more faults",) if untold else ()

    def __str__(self) -> str:
        return "\n".join((*map(str, self.faults), *self._more))


class SourceError(UserError):
    """A camera, stream, video file or folder of images cannot be used."""

    exit_code = 5


class SourceUnavailable(SourceError):
    """The source does not open."""


class DriverHangs(SourceUnavailable):
    """What used the source last still hangs in its driver, and another attempt would only hang beside it."""

    def __init__(self, *, where: str, remedy: str) -> None:
        super().__init__("its driver still hangs from the last time", where=where, remedy=remedy)


class SourceLost(SourceError):
    """The source was open and no longer gives frames."""


class BrokerError(UserError):
    """The MQTT broker cannot be used."""

    exit_code = 6


class BrokerUnreachable(BrokerError):
    """Nothing answers at the broker's address."""


class BrokerRefused(BrokerError):
    """The broker answered, and refused."""


class RuntimeMissing(UserError):
    """A part that the agent needs is not installed."""

    exit_code = 7


class StateError(UserError):
    """The state folder cannot be used."""

    exit_code = 8


class UpdateError(UserError):
    """The server that newer models come from cannot be used."""

    exit_code = 9
