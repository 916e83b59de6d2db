"""The subscriber of `edge watch`, with a real broker."""

from __future__ import annotations

import time

from edge.commands.subscriber import subscribe
from edge.mqtt import BrokerSettings
from tests.e2e.process import Edge
from tests.integration.conftest import Certificates, StartBroker
from tests.mosquitto import UNLIMITED_QUEUES, Listener


def test_a_burst_of_messages_causes_few_redraws(start_broker: StartBroker) -> None:
    """Rendering a large fleet is slow, so the board is redrawn at a few ticks per second, not for each message."""
    broker = start_broker(["allow_anonymous true", *UNLIMITED_QUEUES])
    received_count, ticks = 0, 0
    started_s = time.monotonic()
    for received in subscribe(BrokerSettings(port=broker.port, client_id="watch"), ["e/#"], on_state=lambda _: None):
        received_count, ticks = received_count + (received is not None), ticks + (received is None)
        if ticks == 1 and received_count == 0:  # the subscription is active
            with Listener(broker.port, topic_filter="none") as publisher:
                for number in range(300):
                    publisher.publish("e/d/status", str(number))
        if received_count == 300:
            break
    assert ticks <= 2 + (time.monotonic() - started_s) / 0.25


def test_a_client_certificate_is_sent_to_the_broker(start_broker: StartBroker, certificates: Certificates) -> None:
    """`edge watch` connects to a broker that requires a client certificate; a key without a certificate is an error."""
    files = [f"cafile {certificates.ca}", f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"]
    broker = start_broker([*files, "require_certificate true", "allow_anonymous true"])
    client_certificate = ("--cert-file", certificates.client, "--key-file", certificates.client_key)
    with Edge("watch", "--port", str(broker.port), "--ca-file", certificates.ca, *client_certificate) as watch:
        watch.wait_for("connected to localhost")
    with Edge("watch", "--key-file", certificates.client_key) as watch:
        watch.wait_for("edge: error: --key-file: requires --cert-file")
