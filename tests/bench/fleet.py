"""`make fleet`: a fleet of agents at one mosquitto, through a death of the broker; prints what it took.

    python -m tests.bench.fleet [--agents 200]

Each agent has its own connection with a last will, its outbox on disk, and says what a real one says: birth, info,
announcement to Home Assistant, a state and an event every two seconds. A subscriber to everything counts.
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

from tests.e2e.hall import Vitals
from tests.e2e.process import frozen
from tests.mosquitto import PATIENT, Listener, Mosquitto

PROCESSES = 4
INTERVAL_S = 2.0
AWAY_S = 5.0
"""For how long the broker is dead."""
GIVE_UP_S = 120.0
_ON_THEIR_WAY_S = 60.0


@dataclass(frozen=True)
class FleetReport:
    """What it took.

    Attributes:
        agents: How many.
        online_s: From the start of the processes until all were online.
        recovered_s: From the broker's return until all were online again.
        messages_per_s: What the subscriber heard when all was quiet.
        broker_cpu, agent_cpu: Share of one core then; of one agent.
        broker_rss_mb, agent_rss_mb: Resident memory; of one agent, beyond the interpreter and its modules.
        events, missing: Published, and of these not heard.
        announced: Devices whose announcement to Home Assistant was heard again after the broker's return.
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
    """What the subscriber heard."""

    online: set[str] = field(default_factory=set)
    announced: set[str] = field(default_factory=set)
    events: set[tuple[str, int]] = field(default_factory=set)
    messages: int = 0

    def note(self, listener: Listener) -> None:
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
    """One run.

    Args:
        folder: An empty one.
        agents: How many; a multiple of the number of processes.
        quiet_s: For how long is measured when all are online.
    """

    def __init__(self, folder: Path, *, agents: int, quiet_s: float) -> None:
        self._folder = folder
        self._agents = agents
        self._quiet_s = quiet_s
        self._broker = Mosquitto(folder, ["allow_anonymous true", "log_dest none", *PATIENT])
        self._tally = _Tally()

    def run(self) -> FleetReport:
        """Everything in its order."""
        with self._broker, Listener(self._broker.port) as listener, self._processes() as processes:
            online_s = self._time_until(self._all_online, listener)
            pids = [process.pid for process in processes]
            messages_per_s, broker_cpu, agents_cpu = self._quiet(listener, pids)
            broker_rss_mb = Vitals.of(self._broker.pid).rss_mb
            recovered_s = self._bounce(listener, pids)
            announced = len(self._tally.announced)
            results = self._stop(processes)
            published = {
                (device, seq)
                for result in results
                for device, count in result["events"].items()
                for seq in range(1, count + 1)
            }
            self._listen_out(listener, published)
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
        """Ends the agents, all at once, and reads what each process has to say."""
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        return [json.loads(process.stdout.read()) for process in processes if process.stdout is not None]

    def _listen_out(self, listener: Listener, published: set[tuple[str, int]]) -> None:
        """Waits for what is still on its way to the subscriber."""
        until_s = time.monotonic() + _ON_THEIR_WAY_S
        while not published <= self._tally.events and time.monotonic() < until_s:
            time.sleep(0.05)
            self._tally.note(listener)

    def _all_online(self) -> bool:
        return len(self._tally.online) == self._agents

    def _time_until(self, condition: Callable[[], bool], listener: Listener) -> float:
        started_s = time.monotonic()
        while not condition():
            took_s = time.monotonic() - started_s
            assert took_s < GIVE_UP_S, f"only {len(self._tally.online)} of {self._agents} are online"
            time.sleep(0.05)
            self._tally.note(listener)
        return time.monotonic() - started_s

    def _quiet(self, listener: Listener, pids: list[int]) -> tuple[float, float, float]:
        """Messages a second, and the shares of a core that the broker and all agents take."""
        time.sleep(INTERVAL_S)
        self._tally.note(listener)
        messages, broker_s, agents_s = self._tally.messages, _cpu_s(self._broker.pid), sum(map(_cpu_s, pids))
        started_s = time.monotonic()
        time.sleep(self._quiet_s)
        self._tally.note(listener)
        took_s = time.monotonic() - started_s
        broker_s, agents_s = _cpu_s(self._broker.pid) - broker_s, sum(map(_cpu_s, pids)) - agents_s
        return (self._tally.messages - messages) / took_s, broker_s / took_s, agents_s / took_s

    def _bounce(self, listener: Listener, pids: list[int]) -> float:
        """Kills the broker and starts it again; seconds until all agents are online and announced."""
        self._broker.kill()
        time.sleep(AWAY_S)
        self._tally.note(listener)
        self._tally.online.clear()
        self._tally.announced.clear()
        with frozen(*pids):
            self._broker.start_again(listener)
        return self._time_until(lambda: self._all_online() and len(self._tally.announced) == self._agents, listener)


def _cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime


def main() -> int:
    """Prints the report as lines of a table; the exit code is 1 if an event is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, default=200)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        report = Fleet(Path(folder), agents=arguments.agents, quiet_s=20.0).run()
    print(f"| agents, in {PROCESSES} processes | {report.agents} |")
    print(f"| until all were online, s | {report.online_s:.1f} |")
    print(f"| messages a second at the subscriber | {report.messages_per_s:.0f} |")
    print(f"| mosquitto: CPU, RSS | {report.broker_cpu:.1%} of a core, {report.broker_rss_mb:.1f} MB |")
    print(f"| one agent: CPU, RSS | {report.agent_cpu:.2%} of a core, {report.agent_rss_mb:.2f} MB |")
    print(f"| after {AWAY_S:g} s without a broker, until all were online and announced, s | {report.recovered_s:.1f} |")
    print(f"| events published, missing at the subscriber | {report.events}, {report.missing} |")
    return 1 if report.missing else 0


if __name__ == "__main__":
    sys.exit(main())
