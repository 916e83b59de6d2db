"""What `edge watch` hears, beside a real broker."""

from __future__ import annotations

import time

from edge.commands.listen import listen
from edge.mqtt import BrokerSettings
from tests.integration.conftest import StartBroker
from tests.mosquitto import PATIENT, Listener


def test_many_messages_are_heard_between_two_pictures(start_broker: StartBroker) -> None:
    """The picture of a large fleet takes long to draw: it is drawn a few times a second, not for each message."""
    broker = start_broker(["allow_anonymous true", *PATIENT])
    heard, pictures = 0, 0
    started_s = time.monotonic()
    for received in listen(BrokerSettings(port=broker.port, client_id="watch"), ["e/#"], on_state=lambda _: None):
        heard, pictures = heard + (received is not None), pictures + (received is None)
        if pictures == 1 and heard == 0:  # it is subscribed
            with Listener(broker.port, topic_filter="none") as other:
                for number in range(300):
                    other.publish("e/d/status", str(number))
        if heard == 300:
            break
    assert pictures <= 2 + (time.monotonic() - started_s) / 0.25
