"""Handlers of the commands that arrive as requests on `<prefix>/<device>/cmd/<name>`."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from edge.camera import CameraWorker
from edge.contract.errors import UserError
from edge.domain import Instant
from edge.mqtt import CommandHandler
from edge.payloads import CommandRequest, timestamp
from edge.rate_limit import MIN_FPS
from edge.snapshot import as_jpeg
from edge.state import DeviceState


class Controls:
    """Executes the commands.

    Args:
        workers: The cameras by name.
        state: Persists which cameras are paused, and their frame rate limits.
        now: Returns the current time on both clocks.
        snapshots: Whether snapshots are allowed.
        on_report: Publishes a health report.
        on_restart: Stops the agent; its service starts it again.
        on_update: Installs the newest model; None if no update server is configured.
    """

    def __init__(
        self,
        *,
        workers: Mapping[str, CameraWorker],
        state: DeviceState,
        now: Callable[[], Instant],
        snapshots: bool,
        on_report: Callable[[], None],
        on_restart: Callable[[], None],
        on_update: Callable[[], None] | None,
    ) -> None:
        self._workers = workers
        self._state = state
        self._now = now
        self._snapshots = snapshots
        self._on_report = on_report
        self._on_restart = on_restart
        self._on_update = on_update

    @property
    def handlers(self) -> dict[str, CommandHandler]:
        """The handler of each command by name."""
        return {
            "pause": self._pause,
            "resume": self._resume,
            "rate": self._rate,
            "snapshot": self._snapshot,
            "report": self._report,
            "restart": self._restart,
            "update": self._update,
        }

    def _pause(self, request: CommandRequest) -> JsonValue:
        """Pauses cameras, or resumes them if `value` is false, so that a switch needs only one topic."""
        if request.value is False:
            return self._resume(request)
        if request.value not in (None, True):
            raise UserError(f"{request.value!r} is neither true nor false",
                            remedy="Omit `value` to pause, or set it to false to resume")  # fmt: skip
        for worker in self._targets(request):
            self._state.pause(worker.name)
            worker.pause()
        return self._paused()

    def _resume(self, request: CommandRequest) -> JsonValue:
        for worker in self._targets(request):
            self._state.resume(worker.name)
            worker.resume()
        return self._paused()

    def _rate(self, request: CommandRequest) -> JsonValue:
        """Limits the frames processed per second to `value`; 0 or null lifts the limit."""
        max_fps = _requested_fps(request)
        for worker in self._targets(request):
            self._state.limit(worker.name, max_fps)
            worker.limit(max_fps)
        return {"max_fps": {name: self._state.rates.get(name) for name in self._workers}}

    def _snapshot(self, request: CommandRequest) -> JsonValue:
        """Returns the newest frame of one camera as a JPEG. It is encoded in memory and not stored."""
        if not self._snapshots:
            raise UserError("snapshots are disabled on this device", where="publish.snapshots",
                            remedy="Set this key to true in the agent's configuration to allow them")  # fmt: skip
        worker, *more = self._targets(request)
        if more:
            raise UserError("this device has several cameras",
                            remedy=f"Name one as `camera`: {', '.join(self._workers)}")  # fmt: skip
        frame = worker.pipeline.newest
        if frame is None:
            raise UserError(f"camera {worker.name} has no current frame: it is {worker.status}")
        jpeg, width, height = as_jpeg(frame)
        return {
            "camera": worker.name,
            "ts": timestamp(self._now().wall_at(frame.mono_s)),
            "width": width,
            "height": height,
            "jpeg": base64.b64encode(jpeg).decode(),
        }

    def _report(self, _request: CommandRequest) -> JsonValue:
        self._on_report()
        return None

    def _restart(self, _request: CommandRequest) -> JsonValue:
        self._on_restart()
        return None

    def _update(self, _request: CommandRequest) -> JsonValue:
        """Installs the newest model. The outcome is published on the device's `update` topic."""
        if self._on_update is None:
            raise UserError("no update server is configured on this device", where="update.url",
                            remedy="Set this key in the agent's configuration")  # fmt: skip
        self._on_update()
        return None

    def _paused(self) -> JsonValue:
        return {"paused": [name for name in self._workers if name in self._state.paused]}

    def _targets(self, request: CommandRequest) -> list[CameraWorker]:
        if request.camera is None:
            return list(self._workers.values())
        if request.camera not in self._workers:
            known = ", ".join(self._workers)
            raise UserError(f"there is no camera {request.camera}", remedy=f"Available cameras: {known}")
        return [self._workers[request.camera]]


def _requested_fps(request: CommandRequest) -> float | None:
    value = request.value
    if value is None or (value == 0 and value is not False):
        return None
    if isinstance(value, bool | str) or not MIN_FPS <= value < math.inf:
        raise UserError(f"{value!r} is not a valid frame rate", remedy="Set `value` to frames per second, at least "
                        f"{MIN_FPS}, or to 0 to lift the limit; use `pause` to stop a camera")  # fmt: skip
    return value
