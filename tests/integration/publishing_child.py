"""A minimal agent as a process that can be killed: publishes numbered events, and prints each number.

    python publishing_child.py PORT STATE_FOLDER FIRST LAST

After the last event it stays connected. It disconnects cleanly when its standard input is closed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edge.backoff import Backoff
from edge.domain import Message
from edge.mqtt import BrokerSettings
from edge.outbox import Outbox
from edge.publish import MqttPublisher
from edge.topics import Topics

port, folder, first, last = sys.argv[1:]
topics = Topics("emotion", "hall")
with (
    Outbox(folder=Path(folder), capacity=100_000) as outbox,
    MqttPublisher(
        settings=BrokerSettings(port=int(port), client_id="edge-child"),
        topics=topics,
        session=1,
        outbox=outbox,
        backoff=Backoff(first_s=0.1, limit_s=0.2),
    ) as publisher,
):
    for number in range(int(first), int(last) + 1):
        payload = json.dumps({"seq": number, "historical": False}).encode()
        publisher.publish(Message(topics.event("door"), payload, qos=1, durable=True))
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
    sys.stdin.read()
