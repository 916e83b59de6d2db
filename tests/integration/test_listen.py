"""What `edge watch` hears, beside a real broker."""

from __future__ import annotations

import time

from edge.commands.listen import listen
from edge.mqtt import BrokerSettings
from tests.e2e.process import Edge
from tests.integration.conftest import Certificates, StartBroker
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


def test_a_broker_that_asks_for_a_certificate_gets_it(start_broker: StartBroker, certificates: Certificates) -> None:
    """Who has a certificate can look on."""
    files = [f"cafile {certificates.ca}", f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"]
    broker = start_broker([*files, "require_certificate true", "allow_anonymous true"])
    own = ("--cert-file", certificates.client, "--key-file", certificates.client_key)
    with Edge("watch", "--port", str(broker.port), "--ca-file", certificates.ca, *own) as watch:
        watch.wait_for("listening to localhost")
    with Edge("watch", "--key-file", certificates.client_key) as watch:
        watch.wait_for("edge: error: --key-file: a private key needs --cert-file beside it")
