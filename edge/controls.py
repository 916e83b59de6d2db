"""The commands that the device obeys, as requests on `<prefix>/<device>/cmd/<name>`."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping

from pydantic import JsonValue

from edge.camera import CameraWorker
from edge.contract.errors import UserError
from edge.domain import Instant
from edge.mqtt import CommandHandler
from edge.pace import LOWEST_FPS
from edge.payloads import CommandRequest, timestamp
from edge.snapshot import as_jpeg
from edge.state import DeviceState


class Controls:
    """What each command does.

    Args:
        workers: The cameras by name.
        state: Remembers over a restart which cameras are paused, and how many frames they may analyse.
        now: Reads the machine's clocks.
        snapshots: Whether pictures may be asked for.
        on_report: Publishes the health report.
        on_restart: Ends the agent, which its service starts again.
        on_update: Has the newest model installed; None where no server is asked for any.
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
        """Every command by its name."""
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
        """`value: false` takes a pause back, so that one topic serves a switch with two positions."""
        if request.value is False:
            return self._resume(request)
        if request.value not in (None, True):
            raise UserError(f"{request.value!r} is neither true nor false",
                            remedy="Leave `value` out to pause, or give false to resume")  # fmt: skip
        for worker in self._meant(request):
            self._state.pause(worker.name)
            worker.pause()
        return self._paused()

    def _resume(self, request: CommandRequest) -> JsonValue:
        for worker in self._meant(request):
            self._state.resume(worker.name)
            worker.resume()
        return self._paused()

    def _rate(self, request: CommandRequest) -> JsonValue:
        """`value` is the most frames to analyse a second; 0 or null lifts the limit."""
        max_fps = _frames_a_second(request)
        for worker in self._meant(request):
            self._state.limit(worker.name, max_fps)
            worker.limit(max_fps)
        return {"max_fps": {name: self._state.rates.get(name) for name in self._workers}}

    def _snapshot(self, request: CommandRequest) -> JsonValue:
        """The newest frame of one camera. It is made for this answer, and kept nowhere."""
        if not self._snapshots:
            raise UserError("this device gives no pictures", where="publish.snapshots",
                            remedy="Set that key to true in the agent's configuration to allow it")  # fmt: skip
        worker, *more = self._meant(request)
        if more:
            raise UserError("several cameras are here", remedy=f"Name one as `camera`: {', '.join(self._workers)}")
        frame = worker.pipeline.newest
        if frame is None:
            raise UserError(f"camera {worker.name} shows nothing now: it is {worker.status}")
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
        """What comes of it is told on the device's topic `update`."""
        if self._on_update is None:
            raise UserError("this device looks for no updates", where="update.url",
                            remedy="Set that key in the agent's configuration")  # fmt: skip
        self._on_update()
        return None

    def _paused(self) -> JsonValue:
        return {"paused": [name for name in self._workers if name in self._state.paused]}

    def _meant(self, request: CommandRequest) -> list[CameraWorker]:
        if request.camera is None:
            return list(self._workers.values())
        if request.camera not in self._workers:
            known = ", ".join(self._workers)
            raise UserError(f"no camera is called {request.camera}", remedy=f"Cameras here: {known}")
        return [self._workers[request.camera]]


def _frames_a_second(request: CommandRequest) -> float | None:
    value = request.value
    if value is None or (value == 0 and value is not False):
        return None
    if isinstance(value, bool | str) or not LOWEST_FPS <= value < math.inf:
        raise UserError(f"{value!r} is no frame rate", remedy="Give `value` as frames a second, at least "
                        f"{LOWEST_FPS}, or 0 to lift the limit; `pause` stops a camera")  # fmt: skip
    return value
