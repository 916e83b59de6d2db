"""`make fleet`: load test with many agents on one mosquitto broker, including a crash of the broker.

    python -m tests.bench.fleet [--agents 200]

Each agent has its own connection with a last will and its outbox on disk, and publishes the messages of a real one:
birth, info, Home Assistant discovery, and a state and an event every two seconds. A subscriber to `#` counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.e2e.hall import ResourceUsage
from tests.e2e.process import suspended
from tests.mosquitto import UNLIMITED_QUEUES, Listener, Mosquitto

PROCESSES = 4
INTERVAL_S = 2.0
OUTAGE_S = 5.0
"""Time between crash and restart of the broker."""
ONLINE_TIMEOUT_S = 120.0
_DRAIN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class FleetReport:
    """Results of a load test.

    Attributes:
        agents: Number of agents.
        online_s: Time from the start of the processes until all agents are online.
        recovered_s: Time from the restart of the broker until all agents are online and announced again.
        messages_per_s: Messages received by the subscriber in steady state.
        broker_cpu, agent_cpu: CPU usage in steady state as a share of one core, of the broker and of one agent.
        broker_rss_mb, agent_rss_mb: Resident set size; of one agent, excluding the interpreter and its modules.
        events, missing: Number of published events, and of those not received by the subscriber.
        announced: Devices whose Home Assistant discovery was received again after the restart of the broker.
    """

    agents: int
    online_s: float
    recovered_s: float
    messages_per_s: float
    broker_cpu: float
    agent_cpu: float
    broker_rss_mb: float
    agent_rss_mb: float
    events: int
    missing: int
    announced: int


@dataclass
class _Tally:
    """Messages received by the subscriber."""

    online: set[str] = field(default_factory=set)
    announced: set[str] = field(default_factory=set)
    events: set[tuple[str, int]] = field(default_factory=set)
    messages: int = 0

    def update(self, listener: Listener) -> None:
        for message in listener.take():
            self.messages += 1
            root, device, *rest = message.topic.split("/")
            if root == "homeassistant":
                self.announced.add(message.topic)
            elif rest == ["status"]:
                (self.online.add if message.payload == "online" else self.online.discard)(device)
            elif rest[-1] == "event":
                self.events.add((device, int(json.loads(message.payload)["seq"])))


class Fleet:
    """A load test.

    Args:
        folder: Empty folder for all state.
        agents: Number of agents, a multiple of `PROCESSES`.
        steady_s: Duration of the measurement in steady state.
    """

    def __init__(self, folder: Path, *, agents: int, steady_s: float) -> None:
        self._folder = folder
        self._agents = agents
        self._steady_s = steady_s
        self._broker = Mosquitto(folder, ["allow_anonymous true", "log_dest none", *UNLIMITED_QUEUES])
        self._tally = _Tally()

    def run(self) -> FleetReport:
        """Runs the load test."""
        with self._broker, Listener(self._broker.port) as listener, self._processes() as processes:
            online_s = self._time_until(self._all_online, listener)
            pids = [process.pid for process in processes]
            messages_per_s, broker_cpu, agents_cpu = self._measure_steady_state(listener, pids)
            broker_rss_mb = ResourceUsage.of(self._broker.pid).rss_mb
            recovered_s = self._restart_broker(listener, pids)
            announced = len(self._tally.announced)
            results = self._stop(processes)
            published = {
                (device, seq)
                for result in results
                for device, count in result["events"].items()
                for seq in range(1, count + 1)
            }
            self._drain(listener, published)
        return FleetReport(
            agents=self._agents,
            online_s=online_s,
            recovered_s=recovered_s,
            messages_per_s=messages_per_s,
            broker_cpu=broker_cpu,
            agent_cpu=agents_cpu / self._agents,
            broker_rss_mb=broker_rss_mb,
            agent_rss_mb=sum(result["rss_mb"] for result in results) / self._agents,
            events=len(published),
            missing=len(published - self._tally.events),
            announced=announced,
        )

    @contextmanager
    def _processes(self) -> Iterator[list[subprocess.Popen[str]]]:
        each = self._agents // PROCESSES
        command = [sys.executable, "-m", "tests.bench.fleet_agents", str(self._broker.port), str(self._folder)]
        processes = [
            subprocess.Popen(
                [*command, str(first), str(first + each - 1), str(INTERVAL_S)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[2],
            )
            for first in range(1, self._agents + 1, each)
        ]
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait()
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        stream.close()

    def _stop(self, processes: list[subprocess.Popen[str]]) -> list[dict[str, Any]]:
        """Stops all agents at once and reads the results of each process."""
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        return [json.loads(process.stdout.read()) for process in processes if process.stdout is not None]

    def _drain(self, listener: Listener, published: set[tuple[str, int]]) -> None:
        """Waits until the subscriber has received all published events, or a timeout."""
        deadline_s = time.monotonic() + _DRAIN_TIMEOUT_S
        while not published <= self._tally.events and time.monotonic() < deadline_s:
            time.sleep(0.05)
            self._tally.update(listener)

    def _all_online(self) -> bool:
        return len(self._tally.online) == self._agents

    def _time_until(self, condition: Callable[[], bool], listener: Listener) -> float:
        started_s = time.monotonic()
        while not condition():
            took_s = time.monotonic() - started_s
            assert took_s < ONLINE_TIMEOUT_S, f"only {len(self._tally.online)} of {self._agents} are online"
            time.sleep(0.05)
            self._tally.update(listener)
        return time.monotonic() - started_s

    def _measure_steady_state(self, listener: Listener, pids: list[int]) -> tuple[float, float, float]:
        """Returns messages per second, and the CPU usage of the broker and of all agents as a share of one core."""
        time.sleep(INTERVAL_S)
        self._tally.update(listener)
        messages, broker_s, agents_s = self._tally.messages, _cpu_s(self._broker.pid), sum(map(_cpu_s, pids))
        started_s = time.monotonic()
        time.sleep(self._steady_s)
        self._tally.update(listener)
        took_s = time.monotonic() - started_s
        broker_s, agents_s = _cpu_s(self._broker.pid) - broker_s, sum(map(_cpu_s, pids)) - agents_s
        return (self._tally.messages - messages) / took_s, broker_s / took_s, agents_s / took_s

    def _restart_broker(self, listener: Listener, pids: list[int]) -> float:
        """Kills and restarts the broker; returns the seconds until all agents are online and announced again."""
        self._broker.kill()
        time.sleep(OUTAGE_S)
        self._tally.update(listener)
        self._tally.online.clear()
        self._tally.announced.clear()
        with suspended(*pids):
            self._broker.start_again(listener)
        return self._time_until(lambda: self._all_online() and len(self._tally.announced) == self._agents, listener)


def _cpu_s(pid: int) -> float:
    """Returns the CPU time that a process has used, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime


def main() -> int:
    """Prints the report as rows of a Markdown table; returns 1 if an event is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=200)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        report = Fleet(Path(folder), agents=arguments.agents, steady_s=20.0).run()
    print(f"| agents, in {PROCESSES} processes | {report.agents} |")
    print(f"| start until all online, s | {report.online_s:.1f} |")
    print(f"| messages per second at the subscriber | {report.messages_per_s:.0f} |")
    print(f"| mosquitto: CPU, RSS | {report.broker_cpu:.1%} of a core, {report.broker_rss_mb:.1f} MB |")
    print(f"| one agent: CPU, RSS | {report.agent_cpu:.2%} of a core, {report.agent_rss_mb:.2f} MB |")
    print(
        f"| restart of the broker after {OUTAGE_S:g} s until all online and announced, s | {report.recovered_s:.1f} |"
    )
    print(f"| events published, missing at the subscriber | {report.events}, {report.missing} |")
    return 1 if report.missing else 0


if __name__ == "__main__":
    sys.exit(main())
