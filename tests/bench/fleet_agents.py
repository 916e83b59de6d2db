"""Several agents of a fleet in one process, which publish everything a real agent does, without cameras.

    python -m tests.bench.fleet_agents PORT FOLDER FIRST LAST INTERVAL_S

Each agent publishes an event and the state every INTERVAL_S seconds. When standard input is closed, they disconnect
cleanly, and the process prints the number of events of each and their memory usage as one line of JSON.
"""

from __future__ import annotations

import json
import logging
import os
import random
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from edge import homeassistant
from edge.compose import Composer, FrameContext
from edge.contract import EMOTIONS
from edge.domain import Box, Instant, Reading, Transition
from edge.message import camera_status_message, info_message
from edge.mqtt import BrokerSettings
from edge.outbox import Outbox
from edge.payloads import AgentInfo, CameraInfo, Info, ModelInfo, Sender, Status
from edge.publish import MqttPublisher
from edge.state import DeviceState
from edge.topics import Topics
from tests.e2e.hall import ResourceUsage

CAMERA = "door"
MODEL = ModelInfo(name="fleet", version="1.0.0", sha256="0" * 64)


class FleetAgent:
    """A device with its state, outbox and connection.

    Args:
        name: Device name.
        folder: State folder.
        port: Port of the broker.
        stack: Closes the connection, outbox and state when it exits.
    """

    def __init__(self, name: str, *, folder: Path, port: int, stack: ExitStack) -> None:
        self.topics = Topics("emotion", name)
        state = stack.enter_context(DeviceState(folder))
        outbox = stack.enter_context(Outbox(folder=folder, capacity=100_000))
        self._publisher = stack.enter_context(
            MqttPublisher(
                settings=BrokerSettings(port=port, client_id=state.client_id),
                topics=self.topics,
                session=state.session,
                outbox=outbox,
                home_assistant_status="homeassistant/status",
            )
        )
        self._sender = Sender(name, state.session)
        self._composer = Composer(topics=self.topics, camera=CAMERA, sender=self._sender, model=MODEL)
        self.events = 0
        self._introduce(state)

    def _introduce(self, state: DeviceState) -> None:
        announcement = homeassistant.announce(
            topics=self.topics,
            cameras=[CAMERA],
            agent_version="0",
            state_expiry_s=90,
            health_expiry_s=90,
            announced=state.retained,
        )
        status = camera_status_message(self.topics, CAMERA, Status.ONLINE, session=state.session)
        for message in (info_message(self.topics, _info(self._sender)), *announcement.messages, status):
            self._publisher.publish(message)

    def publish(self) -> None:
        """Publishes an event and the resulting state."""
        emotion = EMOTIONS[self.events % len(EMOTIONS)]
        previous = EMOTIONS[(self.events - 1) % len(EMOTIONS)] if self.events else None
        probabilities = tuple(0.7 if label == emotion else 0.05 for label in EMOTIONS)
        now = _now()
        reading = Reading(1, emotion, 0.7, probabilities, now.mono_s, Box(200, 100, 300, 200), quality=0.9)
        transition = Transition("change" if previous else "start", reading, previous)
        context = FrameContext(width=640, height=360, time_s=now.mono_s, mono_s=now.mono_s, now=now)
        for message in self._composer.compose([reading], [transition], context):
            self._publisher.publish(message)
        self.events += 1


def _now() -> Instant:
    return Instant(wall_s=time.time(), mono_s=time.monotonic(), synced=True)


def _info(sender: Sender) -> Info:
    return Info(
        **sender.envelope(_now()),
        agent=AgentInfo(name="edge-emotion", version="0", python="3"),
        model=MODEL,
        runtime="none",
        platform="simulated",
        cameras=(CameraInfo(name=CAMERA, source="none"),),
    )


def _run(agents: list[FleetAgent], interval_s: float, stopping: threading.Event) -> None:
    """Lets each agent publish once per interval, evenly distributed."""
    pause_s = interval_s / len(agents)
    due_s = time.monotonic() + random.uniform(0, pause_s)
    while True:
        for agent in agents:
            if stopping.wait(max(0.0, due_s - time.monotonic())):
                return
            agent.publish()
            due_s = max(due_s + pause_s, time.monotonic() - interval_s)


def main() -> None:
    """Runs the agents until standard input is closed."""
    port, folder, first, last, interval_s = sys.argv[1:]
    logging.getLogger("edge").setLevel(logging.ERROR)  # each would log the loss of the connection
    baseline_mb = ResourceUsage.of(os.getpid()).rss_mb
    stopping = threading.Event()
    with ExitStack() as stack:
        names = [f"agent-{number:03}" for number in range(int(first), int(last) + 1)]
        agents = [FleetAgent(name, folder=Path(folder) / name, port=int(port), stack=stack) for name in names]
        thread = threading.Thread(target=_run, args=(agents, float(interval_s), stopping))
        thread.start()
        sys.stdin.read()
        stopping.set()
        thread.join()
        used_mb = ResourceUsage.of(os.getpid()).rss_mb - baseline_mb
    print(json.dumps({"events": {agent.topics.device: agent.events for agent in agents}, "rss_mb": used_mb}))


if __name__ == "__main__":
    main()
