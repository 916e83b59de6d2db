"""The agent as a whole: starts the cameras, watches over them, reports, and stops in order."""

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
_STUCK_AFTER_S = 15.0
"""A camera's thread that shows no sign of life for this long is hung: the watchdog is left to bite."""
_LOOK_S = 5.0
"""Time between two looks for that where no watchdog sets the pace."""

_STOP_WITHIN_S = 1.5
"""For the cameras. After them end the publisher (3 s at the most), the updater (1 s) and the metrics (1 s), so that
the agent ends within seven seconds unless the disk hangs; systemd's `TimeoutStopSec=10` has room for that."""


class Agent:
    """Runs until it is stopped or all recordings are at their end.

    Args:
        topics: The device's.
        workers: The cameras by name, not yet started.
        publisher: Open.
        reporter: Writes the health reports.
        health_interval_s: Time between two of them.
        governor: Eases the cameras' work when the device suffers; None to leave it as configured.
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
        self.renewed = False
        """Whether it stops in order to be opened again, with what has changed meanwhile."""
        self._report_now = threading.Event()
        self._hung: list[str] = []
        self._summary = ""

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Works until `stop`, or until every camera is a recording that has ended.

        Args:
            until: Asked several times a second whether to end now.
        """
        for worker in self._workers.values():
            worker.start()
        self._summary = self._summarise()
        notify.ready(self._summary)
        try:
            self._supervise(until)
            if self._alive():
                notify.alive()  # what follows, down to the opening of the next agent, has the watchdog's whole time
        finally:
            self._stop_workers()

    def stop(self) -> None:
        """Makes `run` return soon. May be called from any thread, but not from a signal handler: it takes a lock."""
        self._stopping.set()

    def renew(self) -> None:
        """The same, to be opened again at once."""
        self.renewed = True
        self.stop()

    def report(self) -> None:
        """Asks for a health report now."""
        self._report_now.set()

    def health(self) -> Health:
        """How the agent fares at this moment. May be called from any thread."""
        adaptation = self._governor.report() if self._governor is not None else None
        return self._reporter.report(self._workers, self._publisher.stats, adaptation)

    def _supervise(self, until: Callable[[], bool]) -> None:
        ping_s = notify.watchdog_interval_s()
        next_look_s = next_report_s = time.monotonic()
        while not (self._stopping.wait(_TICK_S) or until()):
            now_s = time.monotonic()
            if all(worker.finished for worker in self._workers.values()):
                return
            if self._governor is not None and self._governor.look(now_s):
                self._report_now.set()
            if now_s >= next_report_s or self._report_now.is_set():
                self._report_now.clear()
                self._publish_health()
                next_report_s = now_s + self._health_interval_s
            self._tell_operator()
            if now_s >= next_look_s and self._alive():
                if ping_s is not None:
                    notify.alive()
                next_look_s = now_s + (ping_s or _LOOK_S)

    def _alive(self) -> bool:
        """Whether every camera's thread moves; a ping regardless of that would hide a hang."""
        hung = [w.name for w in self._workers.values() if not w.finished and w.stuck_s > _STUCK_AFTER_S]
        if hung and hung != self._hung:
            outlook = "; leaving it to the watchdog" if notify.watchdog_interval_s() is not None else ""
            log.error("no sign of life from camera %s%s", ", ".join(hung), outlook)
        self._hung = hung
        return not hung

    def _tell_operator(self) -> None:
        """Keeps the line that `systemctl status` shows true."""
        summary = self._summarise()
        if summary != self._summary:
            self._summary = summary
            notify.status(summary)

    def _summarise(self) -> str:
        cameras = ", ".join(f"{worker.name} {worker.status}" for worker in self._workers.values())
        return f"{cameras}; {self._publisher.link}; model {self._reporter.model_name}"

    def _publish_health(self) -> None:
        self._publisher.publish(health_message(self._topics, self.health(), interval_s=self._health_interval_s))

    def _stop_workers(self) -> None:
        for worker in self._workers.values():
            worker.stop()
        until_s = time.monotonic() + _STOP_WITHIN_S
        for worker in self._workers.values():
            worker.join(max(0.0, until_s - time.monotonic()))
            if not worker.finished:
                log.warning("camera %s does not stop; leaving it behind", worker.name)
