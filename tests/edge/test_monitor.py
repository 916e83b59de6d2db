"""What the publisher logs, and its description of the connection."""

from __future__ import annotations

import pytest

from edge.errors import BrokerUnreachable
from edge.mqtt.monitor import Monitor
from edge.mqtt.packets import Ack, Operation
from edge.mqtt.settings import BrokerSettings


def test_rejections_are_logged_once_per_topic_up_to_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    """Clients choose the topics of responses, so without a limit the log would grow forever."""
    monitor = Monitor(BrokerSettings(host="broker", port=1883, client_id="edge-test"))
    for number in range(3000):
        ack = Ack(number, Operation(f"responses/{number % 1500}"), "Not authorized")
        monitor.message_rejected(ack, lost=False)
    topics = [record.getMessage().split(":")[0] for record in caplog.records]
    assert topics == [f"responses/{number}" for number in range(1000)]
    assert monitor.stats(queue_depth=0, dropped=0).rejected == 3000


def test_a_rejected_subscription_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """It is not logged again for each connection, nor mixed up with rejected messages on the same topic."""
    monitor = Monitor(BrokerSettings(host="broker", port=1883, client_id="edge-test"))
    for _ in range(3):
        monitor.subscription_rejected("emotion/hall/status", "Not authorized")
        monitor.message_rejected(Ack(1, Operation("emotion/hall/status"), "Not authorized"), lost=False)
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "the broker rejected the subscription to emotion/hall/status",
        "emotion/hall/status: the broker rejects messages on this topic",
    ]


def test_the_link_describes_the_connection() -> None:
    """The status line of the service shows an older protocol, or why there is no connection."""
    monitor = Monitor(BrokerSettings(host="broker", port=1883, client_id="edge-test"))
    links = [monitor.link]
    monitor.connection_failed(
        BrokerUnreachable("nothing listens on that port", where="broker:1883", remedy="Check the port"), explained=False
    )
    links.append(monitor.link)
    for protocol in ("MQTT 3.1.1", "MQTT 5"):
        monitor.connected(protocol)
        links.append(monitor.link)
    monitor.check_stable(60.0)
    monitor.disconnected(lifetime_s=60.0)
    assert [*links, monitor.link] == [
        "not connected to the broker",
        "not connected to the broker (broker:1883: nothing listens on that port. Check the port.)",
        "connected to the broker with MQTT 3.1.1",
        "connected to the broker",
        "not connected to the broker",
    ]
