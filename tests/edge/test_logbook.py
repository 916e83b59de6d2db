"""What the publisher writes into the log."""

from __future__ import annotations

import pytest

from edge.errors import BrokerUnreachable
from edge.mqtt.logbook import Logbook
from edge.mqtt.packets import Ack, Said
from edge.mqtt.settings import BrokerSettings


def test_refusals_are_told_once_a_topic_and_not_without_end(caplog: pytest.LogCaptureFixture) -> None:
    """Answers go where each client asks for them: the log does not fill with them over the years."""
    logbook = Logbook(BrokerSettings(host="broker", port=1883, client_id="edge-test"))
    for number in range(3000):
        logbook.rejection(Ack(number, Said(f"answers/{number % 1500}"), "Not authorized"), lost=False)
    topics = [record.getMessage().split(":")[0] for record in caplog.records]
    assert topics == [f"answers/{number}" for number in range(1000)]
    assert logbook.stats(queue_depth=0, dropped=0).rejected == 3000


def test_what_may_not_be_listened_to_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not with every connection; and publishing on a topic of that name is something else."""
    logbook = Logbook(BrokerSettings(host="broker", port=1883, client_id="edge-test"))
    for _ in range(3):
        logbook.deaf("emotion/hall/status", "Not authorized")
        logbook.rejection(Ack(1, Said("emotion/hall/status"), "Not authorized"), lost=False)
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == [
        "the broker does not let this client listen to emotion/hall/status",
        "emotion/hall/status: the broker rejects messages on this topic",
    ]


def test_the_link_is_told_with_what_is_wrong_with_it() -> None:
    """The status line of the service says which protocol is missed, or why there is no connection."""
    logbook = Logbook(BrokerSettings(host="broker", port=1883, client_id="edge-test"))
    told = [logbook.link]
    logbook.trouble(
        BrokerUnreachable("nothing listens on that port", where="broker:1883", remedy="Check the port"), explained=False
    )
    told.append(logbook.link)
    for protocol in ("MQTT 3.1.1", "MQTT 5"):
        logbook.connected(protocol)
        told.append(logbook.link)
    logbook.steady(60.0)
    logbook.disconnected(held_s=60.0)
    assert [*told, logbook.link] == [
        "without the broker",
        "without the broker (broker:1883: nothing listens on that port. Check the port.)",
        "connected to the broker with MQTT 3.1.1",
        "connected to the broker",
        "without the broker",
    ]
