"""`make soak`: runs the whole agent at full rate while its broker is killed repeatedly; prints a verdict at the end.

    python -m tests.e2e.soak [--minutes 30] [--bounce-s 60]

The camera is a folder of images that is read as fast as the machine can, so that faces appear and disappear many times
a second. Memory, threads and descriptors are compared between a window after a warm-up and one at the end.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import metadata
from math import isinf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from edge.config import default_bundle
from edge.payloads import timestamp
from tests.e2e import hall
from tests.e2e.hall import ResourceUsage
from tests.e2e.process import Edge, suspended
from tests.mosquitto import UNLIMITED_QUEUES, Listener, Mosquitto, ReceivedMessage

DOWN_S = 2.0
"""How long the broker is down at each restart."""
SAMPLE_S = 0.5
"""Interval between two samples of the agent's resources."""
MAX_GROWTH_MB = 5.0
_STATUS = "emotion/hall/status"
_EMOTION = "emotion/hall/door/emotion"
_EVENT = "emotion/hall/door/event"


@dataclass
class Received:
    """Summary of the messages that the subscriber received.

    Attributes:
        newest: Sequence number of the newest event.
        missing: Number of skipped sequence numbers.
        latest: The newest payload of each other topic since the last broker restart.
    """

    newest: int = 0
    missing: int = 0
    latest: dict[str, str] = field(default_factory=dict)

    def add(self, messages: Sequence[ReceivedMessage]) -> None:
        """Adds received messages. Events may be duplicated after a broker restart, but are never out of order."""
        for message in messages:
            if message.topic != _EVENT:
                self.latest[message.topic] = message.payload
                continue
            seq = int(json.loads(message.payload)["seq"])
            self.missing += max(0, seq - self.newest - 1)
            self.newest = max(self.newest, seq)

    def is_up_to_date(self, since: str) -> bool:
        """Whether the device is online and its state is newer than a timestamp."""
        emotion = self.latest.get(_EMOTION)
        return self.latest.get(_STATUS) == "online" and emotion is not None and json.loads(emotion)["ts"] > since


@dataclass(frozen=True)
class Report:
    """The result.

    Attributes:
        minutes: Duration of the run.
        recoveries_s: Recovery time after each broker restart; infinite if not recovered in time.
        early, late: Resources of the agent after the warm-up and at the end.
        events, missing: Number of published events, and how many of them were not received.
        exit_code: Exit code of the agent.
    """

    minutes: float
    recoveries_s: Sequence[float]
    early: ResourceUsage
    late: ResourceUsage
    events: int
    missing: int
    exit_code: int

    @property
    def faults(self) -> list[str]:
        """Descriptions of all failed checks."""
        lost = sum(map(isinf, self.recoveries_s))
        checks = {
            f"memory grew by {MAX_GROWTH_MB:g} MB or more": self.late.rss_mb - self.early.rss_mb >= MAX_GROWTH_MB,
            "threads grew": self.late.threads > self.early.threads,
            "descriptors grew": self.late.files > self.early.files,
            f"{lost} broker restarts were not recovered from in time": lost > 0,
            f"{self.missing} events are missing": self.missing > 0,
            "no event was received": self.events == 0,
            f"the agent exited with {self.exit_code}": self.exit_code != 0,
        }
        return [fault for fault, found in checks.items() if found]

    @property
    def verdict(self) -> str:
        """The result in one line."""
        early, late = self.early, self.late
        return (
            f"{'FAILED: ' + ', '.join(self.faults) if self.faults else 'passed'} after {self.minutes:.1f} min: "
            f"RSS {late.rss_mb - early.rss_mb:+.1f} MB ({early.rss_mb:.1f} to {late.rss_mb:.1f}), "
            f"threads {late.threads - early.threads:+d} ({late.threads}), "
            f"descriptors {late.files - early.files:+d} ({late.files}); "
            f"{len(self.recoveries_s)} broker restarts, recovered in {median(self.recoveries_s):.1f} s, at most "
            f"{max(self.recoveries_s):.1f} s; {self.events} events, {self.missing} missing"
        )


class Soak:
    """One soak test.

    Args:
        folder: An empty folder.
        bundle: The model bundle.
        photograph: A photograph with a face.
        run_s: Duration of the run.
        bounce_s: Interval between two broker restarts.
        recovered_within_s: Maximum recovery time after a restart.
    """

    def __init__(
        self,
        folder: Path,
        *,
        bundle: Path,
        photograph: Path,
        run_s: float,
        bounce_s: float,
        recovered_within_s: float = 10.0,
    ) -> None:
        self._run_s, self._bounce_s, self._recovered_within_s = run_s, bounce_s, recovered_within_s
        self._broker = Mosquitto(folder, ["allow_anonymous true", *UNLIMITED_QUEUES])
        images = hall.create_images(folder, photograph)
        camera = f'source = "{images}"\nfps = 20\nloop = true'
        self._config = hall.configure(
            folder, bundle=bundle, port=self._broker.port, camera=camera, more=hall.IMMEDIATE_EVENTS
        )
        self._samples: list[ResourceUsage] = []
        self._received = Received()

    def run(self) -> Report:
        """Runs the agent and returns the report."""
        recoveries_s: list[float] = []
        with self._broker, Listener(self._broker.port) as listener, Edge("run", "--config", self._config) as agent:
            listener.wait_for(lambda: any(message.topic == _EVENT for message in listener.received))
            self._started_s = time.monotonic()
            while self._elapsed_s < self._run_s:
                self._sample_for(agent, listener, for_s=self._bounce_s)
                recoveries_s.append(self._restart_broker(agent, listener))
                self._print_progress(recoveries_s[-1])
            self._sample_for(agent, listener, for_s=self._bounce_s / 2)
            minutes, exit_code = self._elapsed_s / 60, agent.stop()
            listener.wait_for(lambda: listener.on(_STATUS))
            self._received.add(listener.take())
        early, late = self._windows()
        return Report(minutes, recoveries_s, early, late, self._received.newest, self._received.missing, exit_code)

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started_s

    def _sample_for(self, agent: Edge, listener: Listener, *, for_s: float) -> None:
        """Samples resources and received messages for a duration."""
        until_s = time.monotonic() + for_s
        while time.monotonic() < until_s:
            time.sleep(SAMPLE_S)
            self._samples.append(ResourceUsage.of(agent.process.pid))
            self._received.add(listener.take())

    def _restart_broker(self, agent: Edge, listener: Listener) -> float:
        """Kills and restarts the broker; returns the recovery time in seconds."""
        self._broker.kill()
        time.sleep(DOWN_S)
        self._received.add(listener.take())
        self._received.latest.clear()
        with suspended(agent.process.pid):
            self._broker.start_again(listener)
        back_s, since = time.monotonic(), timestamp(time.time())
        while (took_s := time.monotonic() - back_s) <= self._recovered_within_s:
            self._received.add(listener.take())
            if self._received.is_up_to_date(since):
                return took_s
            time.sleep(0.1)
        return float("inf")

    def _print_progress(self, recovered_s: float) -> None:
        now = self._samples[-1]
        print(
            f"{self._elapsed_s / 60:5.1f} min: RSS {now.rss_mb:.1f} MB, {now.threads} threads, {now.files} files, "
            f"recovered in {recovered_s:.1f} s, {self._received.newest} events",
            flush=True,
        )

    def _windows(self) -> tuple[ResourceUsage, ResourceUsage]:
        """Typical resources in a window after the warm-up, and in one of the same length at the end."""
        two_minutes = round(120 / SAMPLE_S)
        warmup, length = (min(two_minutes, len(self._samples) // share) for share in (3, 4))
        return self._typical(self._samples[warmup : warmup + length]), self._typical(self._samples[-length:])

    def _typical(self, samples: Sequence[ResourceUsage]) -> ResourceUsage:
        # The minimum of threads and descriptors counts permanent ones: a leak increases it, but an image file that is
        # open during a sample does not.
        return ResourceUsage(
            rss_mb=median(usage.rss_mb for usage in samples),
            threads=min(usage.threads for usage in samples),
            files=min(usage.files for usage in samples),
        )


def main() -> int:
    """Runs the soak test and prints the verdict; returns exit code 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--bounce-s", type=float, default=60.0)
    arguments = parser.parse_args()
    photograph = Path(str(metadata.distribution("scikit-image").locate_file("skimage/data/astronaut.png")))
    with TemporaryDirectory() as folder:
        run_s, bounce_s = 60 * arguments.minutes, arguments.bounce_s
        soak = Soak(Path(folder), bundle=default_bundle(), photograph=photograph, run_s=run_s, bounce_s=bounce_s)
        report = soak.run()
    print(report.verdict)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
