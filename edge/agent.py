"""The agent: starts the cameras, supervises them, publishes health reports, and shuts everything down."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from edge import notify
from edge.camera import CameraWorker
from edge.governor import Governor
from edge.health import HealthReporter
from edge.message import health_message
from edge.payloads import Health
from edge.publish import MqttPublisher
from edge.topics import Topics

log = logging.getLogger(__name__)

_TICK_S = 0.25
_HUNG_AFTER_S = 15.0
"""A camera thread without progress for this long is considered hung: the watchdog is no longer pinged."""
_HANG_CHECK_INTERVAL_S = 5.0
"""Used where no watchdog sets the interval."""

_STOP_TIMEOUT_S = 1.5
"""For all camera threads together. The publisher (up to 3 s), the updater (1 s) and the metrics server (1 s) stop after
them, so the agent exits within seven seconds unless the disk hangs, well below systemd's `TimeoutStopSec=10`."""


class Agent:
    """Runs the cameras until it is stopped or every camera is a recording that has ended.

    Args:
        topics: The topics of the device.
        workers: The cameras by name, not started yet.
        publisher: An open publisher.
        reporter: Builds the health reports.
        health_interval_s: Time between two health reports.
        governor: Reduces the load when the device is overloaded; None disables adaptation.

    Attributes:
        reopen_requested: Whether it is stopping in order to be opened again, for example with a new model.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        workers: Mapping[str, CameraWorker],
        publisher: MqttPublisher,
        reporter: HealthReporter,
        health_interval_s: float,
        governor: Governor | None = None,
    ) -> None:
        self._topics = topics
        self._workers = workers
        self._publisher = publisher
        self._reporter = reporter
        self._health_interval_s = health_interval_s
        self._governor = governor
        self._stopping = threading.Event()
        self.reopen_requested = False
        self._report_now = threading.Event()
        self._hung: list[str] = []
        self._status_line = ""

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Blocks until `stop` is called or every camera is a recording that has ended.

        Args:
            until: Polled several times a second; returning True stops the agent.
        """
        for worker in self._workers.values():
            worker.start()
        self._status_line = self._describe()
        notify.ready(self._status_line)
        try:
            self._supervise(until)
            if self._cameras_responsive():
                notify.ping_watchdog()  # gives shutdown, up to the next agent's start, the full watchdog interval
        finally:
            self._stop_workers()

    def stop(self) -> None:
        """Makes `run` return soon. Thread-safe, but not to be called from a signal handler, because it takes a lock."""
        self._stopping.set()

    def reopen(self) -> None:
        """Like `stop`, and asks the caller of `run` to open the agent again."""
        self.reopen_requested = True
        self.stop()

    def report(self) -> None:
        """Requests a health report without delay. Thread-safe."""
        self._report_now.set()

    def health(self) -> Health:
        """Returns the current health of the agent. Thread-safe."""
        adaptation = self._governor.report() if self._governor is not None else None
        return self._reporter.report(self._workers, self._publisher.stats, adaptation)

    def _supervise(self, until: Callable[[], bool]) -> None:
        ping_s = notify.watchdog_interval_s()
        next_check_s = next_report_s = time.monotonic()
        while not (self._stopping.wait(_TICK_S) or until()):
            now_s = time.monotonic()
            if all(worker.finished for worker in self._workers.values()):
                return
            if self._governor is not None and self._governor.update(now_s):
                self._report_now.set()
            if now_s >= next_report_s or self._report_now.is_set():
                self._report_now.clear()
                self._publish_health()
                next_report_s = now_s + self._health_interval_s
            self._update_service_status()
            if now_s >= next_check_s and self._cameras_responsive():
                if ping_s is not None:
                    notify.ping_watchdog()
                next_check_s = now_s + (ping_s or _HANG_CHECK_INTERVAL_S)

    def _cameras_responsive(self) -> bool:
        """Whether every camera thread makes progress; pinging the watchdog regardless would hide a hang."""
        hung = [w.name for w in self._workers.values() if not w.finished and w.unresponsive_s > _HUNG_AFTER_S]
        if hung and hung != self._hung:
            outlook = "; the watchdog will restart the agent" if notify.watchdog_interval_s() is not None else ""
            log.error("camera %s is not responding%s", ", ".join(hung), outlook)
        self._hung = hung
        return not hung

    def _update_service_status(self) -> None:
        """Keeps the status line that `systemctl status` shows up to date."""
        status_line = self._describe()
        if status_line != self._status_line:
            self._status_line = status_line
            notify.status(status_line)

    def _describe(self) -> str:
        cameras = ", ".join(f"{worker.name} {worker.status}" for worker in self._workers.values())
        return f"{cameras}; {self._publisher.link}; model {self._reporter.model_name}"

    def _publish_health(self) -> None:
        self._publisher.publish(health_message(self._topics, self.health(), interval_s=self._health_interval_s))

    def _stop_workers(self) -> None:
        for worker in self._workers.values():
            worker.stop()
        until_s = time.monotonic() + _STOP_TIMEOUT_S
        for worker in self._workers.values():
            worker.join(max(0.0, until_s - time.monotonic()))
            if not worker.finished:
                log.warning("camera %s did not stop in time; its thread is abandoned", worker.name)
