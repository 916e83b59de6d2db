"""The commands that the device obeys, as requests on `<prefix>/<device>/cmd/<name>`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pydantic import JsonValue

from edge.camera import CameraWorker
from edge.contract.errors import UserError
from edge.mqtt.commands import CommandHandler
from edge.payloads import CommandRequest
from edge.state import DeviceState


class Controls:
    """What each command does.

    Args:
        workers: The cameras by name; may be filled after this is made.
        state: Remembers over a restart which cameras are paused.
    """

    def __init__(self, *, workers: Mapping[str, CameraWorker], state: DeviceState) -> None:
        self._workers = workers
        self._state = state
        self.on_report: Callable[[], None] = lambda: None
        self.on_restart: Callable[[], None] = lambda: None

    @property
    def handlers(self) -> dict[str, CommandHandler]:
        """Every command by its name."""
        return {"pause": self._pause, "resume": self._resume, "report": self._report, "restart": self._restart}

    def _pause(self, request: CommandRequest) -> JsonValue:
        """`value: false` takes a pause back, so that one topic serves a switch with two positions."""
        if request.value is False:
            return self._resume(request)
        for worker in self._meant(request):
            self._state.pause(worker.name)
            worker.pause()
        return self._paused()

    def _resume(self, request: CommandRequest) -> JsonValue:
        for worker in self._meant(request):
            self._state.resume(worker.name)
            worker.resume()
        return self._paused()

    def _report(self, _request: CommandRequest) -> JsonValue:
        self.on_report()
        return None

    def _restart(self, _request: CommandRequest) -> JsonValue:
        self.on_restart()
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
