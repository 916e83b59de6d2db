"""The subscriber of `edge watch`, with a real broker."""

from __future__ import annotations

import time

from edge.commands.subscriber import subscribe
from edge.mqtt import BrokerSettings
from tests.e2e.process import Edge
from tests.integration.conftest import Certificates, StartBroker
from tests.mosquitto import PATIENT, Listener


def test_many_messages_are_received_between_two_ticks(start_broker: StartBroker) -> None:
    """Rendering a large fleet is slow, so the board is redrawn a few times per second, not for each message."""
    broker = start_broker(["allow_anonymous true", *PATIENT])
    received_count, ticks = 0, 0
    started_s = time.monotonic()
    for received in subscribe(BrokerSettings(port=broker.port, client_id="watch"), ["e/#"], on_state=lambda _: None):
        received_count, ticks = received_count + (received is not None), ticks + (received is None)
        if ticks == 1 and received_count == 0:  # it is subscribed
            with Listener(broker.port, topic_filter="none") as other:
                for number in range(300):
                    other.publish("e/d/status", str(number))
        if received_count == 300:
            break
    assert ticks <= 2 + (time.monotonic() - started_s) / 0.25


def test_a_broker_that_asks_for_a_certificate_gets_it(start_broker: StartBroker, certificates: Certificates) -> None:
    """A client certificate is sent to a broker that requires one."""
    files = [f"cafile {certificates.ca}", f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"]
    broker = start_broker([*files, "require_certificate true", "allow_anonymous true"])
    own = ("--cert-file", certificates.client, "--key-file", certificates.client_key)
    with Edge("watch", "--port", str(broker.port), "--ca-file", certificates.ca, *own) as watch:
        watch.wait_for("connected to localhost")
    with Edge("watch", "--key-file", certificates.client_key) as watch:
        watch.wait_for("edge: error: --key-file: requires --cert-file")
