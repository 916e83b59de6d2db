"""The live display of `edge watch`: all known devices and cameras, and the faces that each camera sees now."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from edge.commands.formatting import COLORS, bar, emotion, fields_of, status
from edge.printable import printable

_BAR_WIDTH = 20


@dataclass(slots=True)
class _Camera:
    """The latest messages of a camera."""

    status: Text = field(default_factory=Text)
    state: dict[str, Any] = field(default_factory=dict)
    state_s: float = 0.0


@dataclass(slots=True)
class _Device:
    """The latest messages of a device."""

    status: Text = field(default_factory=Text)
    cameras: dict[str, _Camera] = field(default_factory=dict)


class Board:
    """Keeps the latest messages of each device and camera, and renders them as a table.

    Args:
        address: Address of the broker, for the heading.
        prefix: First part of all topics.
    """

    def __init__(self, *, address: str, prefix: str) -> None:
        self._address = address
        self._prefix = prefix
        self._devices: dict[str, _Device] = {}
        self._error: str | None = None

    def set_error(self, error: Exception | None) -> None:
        """Sets the reason why nothing is being received; None once connected."""
        self._error = str(error) if error else None

    def update(self, topic: str, payload: bytes, *, now_s: float) -> None:
        """Processes a message. An empty one removes the camera, or on the status topic of a device, the device."""
        match topic.removeprefix(f"{self._prefix}/").split("/"):
            case [device, "status"] if not payload:
                self._devices.pop(device, None)
            case [device, camera, "status" | "emotion"] if not payload:
                if device in self._devices:
                    self._devices[device].cameras.pop(camera, None)
            case [device, "status"]:
                self._device(device).status = status(payload)
            case [device, camera, "status"]:
                self._camera(device, camera).status = status(payload)
            case [device, camera, "emotion"]:
                known = self._camera(device, camera)
                known.state = fields_of(payload)
                known.state_s = _timestamp_s(known.state, now_s)

    def render(self, *, now_s: float) -> BoardView:
        """Returns what is shown at the given time."""
        hint = "Waiting for a device." if not self._devices else "Press Ctrl-C to quit."
        status_line = (f"{self._error} Trying again", "red") if self._error else (hint, "dim")
        heading = Text.assemble((f"{self._address}  {self._prefix}/#", "italic"), "\n", status_line)
        return BoardView(heading, list(self._rows(now_s)))

    def _device(self, name: str) -> _Device:
        return self._devices.setdefault(name, _Device())

    def _camera(self, device: str, name: str) -> _Camera:
        return self._device(device).cameras.setdefault(name, _Camera())

    def _rows(self, now_s: float) -> Iterator[list[Text]]:
        for name, device in sorted(self._devices.items()):
            heading = Text.assemble(f"{printable(name)} ", device.status)
            if not device.cameras:
                yield [heading]
            for camera_name, camera in sorted(device.cameras.items()):
                first = [heading, Text.assemble(f"{printable(camera_name)} ", camera.status)]
                for row in _face_rows(camera, now_s):
                    yield [*first, *row]
                    first = [Text(), Text()]
                heading = Text()


@dataclass(frozen=True, slots=True)
class BoardView:
    """The heading, and below it as many rows of the table as fit on the screen."""

    heading: Text
    rows: list[list[Text]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        count = self._fitting(console, options)
        yield self.heading
        yield _table(self.rows[:count])
        if count < len(self.rows):
            yield Text(f"... and {len(self.rows) - count} more (--plain shows all)", "dim")

    def _fitting(self, console: Console, options: ConsoleOptions) -> int:
        """Returns how many rows fit, with a line for the number of omitted rows. A narrow terminal wraps rows."""

        def lines(count: int) -> int:
            return len(console.render_lines(Group(self.heading, _table(self.rows[:count])), options, pad=False))

        limit = min(len(self.rows), options.max_height)
        if limit == len(self.rows) and lines(limit) <= options.max_height:
            return limit
        return bisect_right(range(1, limit + 1), options.max_height - 1, key=lines)


def _table(rows: list[list[Text]]) -> Table:
    table = Table()
    for heading in ("device", "camera", "face", "emotion", "confidence", "age"):
        table.add_column(heading, justify="right" if heading == "age" else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _face_rows(camera: _Camera, now_s: float) -> Iterator[list[Text]]:
    faces = camera.state.get("faces")
    age = Text(f"{max(0, now_s - camera.state_s):.0f} s" if camera.state else "")
    if not isinstance(faces, list) or not faces:
        yield [Text(), Text("no face" if camera.state else "", "dim"), Text(), age]
        return
    for face in faces:
        if isinstance(face, dict):
            yield [*_face(face), age]
            age = Text()


def _face(face: dict[str, Any]) -> list[Text]:
    name, confidence = face.get("emotion"), face.get("confidence")
    filled = bar(confidence, _BAR_WIDTH) if isinstance(confidence, int | float) else ""
    return [
        Text(printable(face.get("track_id", ""))),
        emotion(name, confidence),
        Text(filled, COLORS.get(printable(name), "")),
    ]


def _timestamp_s(state: dict[str, Any], now_s: float) -> float:
    """Returns when a state was composed if the device's clock was synchronized, otherwise when it arrived."""
    if not state.get("time_synced"):
        return now_s
    try:
        return datetime.fromisoformat(state["ts"]).timestamp()
    except (LookupError, TypeError, ValueError, OverflowError):
        return now_s
