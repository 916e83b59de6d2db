"""What the publisher writes into the log."""

from __future__ import annotations

import pytest

from edge.mqtt.logbook import Logbook
from edge.mqtt.packets import Ack
from edge.mqtt.settings import BrokerSettings


def test_refusals_are_told_once_a_topic_and_not_without_end(caplog: pytest.LogCaptureFixture) -> None:
    """Answers go where each client asks for them: the log does not fill with them over the years."""
    logbook = Logbook(BrokerSettings(host="broker", port=1883, client_id="edge-test"))
    for number in range(3000):
        logbook.rejection(Ack(number, f"answers/{number % 1500}", "Not authorized"), lost=False)
    topics = [record.getMessage().split(":")[0] for record in caplog.records]
    assert topics == [f"answers/{number}" for number in range(1000)]
    assert logbook.stats(queue_depth=0, dropped=0).rejected == 3000
