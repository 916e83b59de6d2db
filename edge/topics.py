"""The topics of a device. Those of Home Assistant are in `homeassistant`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_SEGMENT = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_RESERVED_DEVICES = frozenset({"fleet"})
_RESERVED_CAMERAS = frozenset({"cmd", "health", "info", "probe", "status", "update"})


def check_segment(name: str) -> str:
    """Returns `name` if it is a valid segment of a topic, between two slashes.

    Raises:
        ValueError: It is empty, too long, or contains anything but lower-case letters, digits, `-` and `_`.
    """
    if not _SEGMENT.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be part of a topic: use 1 to 64 lower-case letters, digits, '-' and '_', "
            "with a letter or digit first"
        )
    return name


def check_prefix(prefix: str) -> str:
    """Returns `prefix` if it is one or more topic segments joined by slashes.

    Raises:
        ValueError: A segment cannot be part of a topic.
    """
    for segment in prefix.split("/"):
        check_segment(segment)
    return prefix


def check_device(name: str) -> str:
    """Returns `name` if it is a valid device name.

    Raises:
        ValueError: It is not a topic segment, or is reserved for another branch of the topic tree.
    """
    return _check_not_reserved(name, _RESERVED_DEVICES, "device")


def check_camera(name: str) -> str:
    """Returns `name` if it is a valid camera name.

    Raises:
        ValueError: It is not a topic segment, or is reserved for one of the device's own topics.
    """
    return _check_not_reserved(name, _RESERVED_CAMERAS, "camera")


def _check_not_reserved(name: str, reserved: frozenset[str], kind: str) -> str:
    if name in reserved:
        raise ValueError(f"{name!r} cannot be the name of a {kind}: it is reserved for another topic")
    return check_segment(name)


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device.

    Attributes:
        prefix: One or more segments, such as `emotion` or `home/emotion`.
        device: The device's name, one segment.

    Raises:
        ValueError: A name cannot be part of a topic.
    """

    prefix: str
    device: str

    def __post_init__(self) -> None:
        check_prefix(self.prefix)
        check_device(self.device)

    @property
    def root(self) -> str:
        """The common prefix of the device's topics."""
        return f"{self.prefix}/{self.device}"

    @property
    def status(self) -> str:
        return f"{self.root}/status"

    @property
    def info(self) -> str:
        return f"{self.root}/info"

    @property
    def health(self) -> str:
        return f"{self.root}/health"

    @property
    def update(self) -> str:
        return f"{self.root}/update"

    @property
    def probe(self) -> str:
        """The topic on which `edge doctor` tests the right to publish."""
        return f"{self.root}/probe"

    def retained(self, cameras: Iterable[str], *, updates: bool = False) -> tuple[str, ...]:
        """Returns the topics on which a device publishes retained messages, its own status last.

        Args:
            cameras: The names of its cameras.
            updates: Whether it checks for newer models.
        """
        of_cameras = (topic for camera in cameras for topic in (self.emotion(camera), self.camera_status(camera)))
        own = (self.health, *([self.update] if updates else []), self.info, self.status)
        return (*of_cameras, *own)

    def camera_status(self, camera: str) -> str:
        return f"{self.root}/{check_camera(camera)}/status"

    def emotion(self, camera: str) -> str:
        return f"{self.root}/{check_camera(camera)}/emotion"

    def event(self, camera: str) -> str:
        return f"{self.root}/{check_camera(camera)}/event"

    def command(self, name: str) -> str:
        return f"{self.root}/cmd/{name}"

    def response(self, command: str) -> str:
        return f"{self.command(command)}/response"

    def commands(self, groups: Iterable[str] = ()) -> list[str]:
        """Returns the topic filters of the commands to the device and to these groups."""
        return [self.command("+"), *(self.fleet_command(group, "+") for group in groups)]

    def fleet_command(self, group: str, name: str) -> str:
        return f"{self.prefix}/fleet/{check_segment(group)}/cmd/{name}"
