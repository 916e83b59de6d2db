"""The broker checks of `edge doctor`, with real brokers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge.checks import CheckResult, Outcome, broker, run_checks
from edge.config import load_config
from edge.errors import ConfigError
from edge.mqtt import BrokerSettings
from edge.mqtt.probe import probe_retained
from edge.state import DeviceState
from tests.e2e.process import EDGE, UNPRIVILEGED
from tests.integration.conftest import Certificates, MakePublisher, StartBroker
from tests.mosquitto import Listener, Mosquitto, allow_only_subscription, free_port, wait_until
from tests.network import NO_MQTT5, Relay

STEPS = ["broker name", "broker port", "broker", "MQTT publish", "MQTT subscribe", "Home Assistant"]
STEPS += ["device name", "client id"]


def check_broker(folder: Path, port: int, environ: Mapping[str, str] | None = None) -> dict[str, CheckResult]:
    """Runs the broker checks for the device `hall` with the state folder `folder`/state. Returns results by check."""
    path = folder / "config.toml"
    path.write_text(f"""
[device]
name = "hall"
groups = ["shop"]
state_dir = "state"
[mqtt]
port = {port}
[[camera]]
name = "door"
source = "demo"
""")
    chain = broker.step_by_step(load_config(path, environ or {}))
    return {finding.check: finding for finding in run_checks([chain])}


def credentials(folder: Path, password: str) -> dict[str, str]:
    """Returns the environment of a device with the user name `camera` and a password."""
    (folder / "password").write_text(password)
    return {"EDGE_MQTT__USERNAME": "camera", "EDGE_MQTT__PASSWORD_FILE": str(folder / "password")}


def test_a_working_broker_passes_every_step(broker: Mosquitto, tmp_path: Path) -> None:
    """Each step reports its result, and no retained message is left on the broker."""
    found = check_broker(tmp_path, broker.port)
    assert list(found) == STEPS
    assert {finding.status for finding in found.values()} == {Outcome.OK}
    assert "127.0.0.1" in found["broker name"].detail
    assert found["broker"].detail == f"connected to localhost:{broker.port} with MQTT 5"
    assert found["MQTT publish"].detail == "allowed on emotion/hall/probe"
    topic_filters = "emotion/hall/status, emotion/hall/cmd/+, emotion/fleet/shop/cmd/+, homeassistant/status"
    assert found["MQTT subscribe"].detail == f"accepted for {topic_filters}"
    assert found["Home Assistant"].detail == "discovery is allowed on homeassistant/..."
    with Listener(broker.port) as listener:
        listener.publish("first", "")
        listener.wait_for(lambda: listener.received)
    assert [message.topic for message in listener.received] == ["first"]
    client_ids = re.findall(r"New client connected from \S+ as (edge-\S+)", broker.log)
    assert len(client_ids) == 8
    assert max(map(len, client_ids)) <= 23  # the maximum length that every broker must accept


def test_a_failure_skips_the_later_steps(tmp_path: Path) -> None:
    """After a closed port or an unknown host, no further step is run."""
    found = check_broker(tmp_path, free_port())
    assert list(found) == ["broker name", "broker port"]
    assert (found["broker port"].status, found["broker port"].exit_code) == (Outcome.FAIL, 6)
    assert list(check_broker(tmp_path, 1883, {"EDGE_MQTT__HOST": "no-such-host.invalid"})) == ["broker name"]


def test_a_wrong_password_fails_the_connection_check(
    start_broker: StartBroker, password_file: Path, tmp_path: Path
) -> None:
    """The port check passes and the connection fails, without the password in any result."""
    broker = start_broker(["allow_anonymous false", f"password_file {password_file}"])
    found = check_broker(tmp_path, broker.port, credentials(tmp_path, "hunter2"))
    assert list(found) == STEPS[:3]
    assert "wrong password" in found["broker"].detail
    assert "hunter2" not in str(found)
    assert list(check_broker(tmp_path, broker.port, credentials(tmp_path, "right"))) == STEPS


def test_a_missing_permission_to_publish_is_found(
    start_broker: StartBroker, password_file: Path, tmp_path: Path
) -> None:
    """A device that may connect but not publish fails the check; missing permission for discovery is a warning."""
    acl = tmp_path / "acl"
    acl.touch(mode=0o600)
    acl.write_text("user camera\ntopic write emotion/kitchen/#\n")
    broker = start_broker(["allow_anonymous false", f"password_file {password_file}", f"acl_file {acl}"])
    refused = check_broker(tmp_path, broker.port, credentials(tmp_path, "right"))["MQTT publish"]
    assert (refused.status, refused.exit_code) == (Outcome.FAIL, 6)
    assert "emotion/hall/probe" in refused.detail
    found = check_broker(tmp_path, broker.port, {**credentials(tmp_path, "right"), "EDGE_DEVICE__NAME": "kitchen"})
    assert found["MQTT publish"].status is Outcome.OK
    assert found["Home Assistant"].status is Outcome.WARN
    assert "homeassistant/device/emotion_kitchen-probe/config are rejected" in found["Home Assistant"].detail


def test_a_missing_permission_to_subscribe_is_found(start_broker: StartBroker, tmp_path: Path) -> None:
    """Rejected subscriptions are listed, including those of the device's groups."""
    broker = start_broker(allow_only_subscription("emotion/hall/#", tmp_path / "permissions.json"))
    found = check_broker(tmp_path, broker.port)["MQTT subscribe"]
    assert found.status is Outcome.WARN
    assert "rejected for emotion/fleet/shop/cmd/+, homeassistant/status: commands" in found.detail


def test_missing_permissions_are_found_at_a_broker_that_disconnects(broker: Mosquitto, tmp_path: Path) -> None:
    """MQTT 3.1.1 brokers can reject only by disconnecting; each topic is reported, and later steps are still run."""
    with Relay(broker.port, mqtt5_reply=NO_MQTT5, forbidden=["homeassistant/", "emotion/fleet/"]) as relay:
        found = check_broker(tmp_path, relay.port)
        assert list(found) == STEPS
        relay.forbidden = ["emotion/hall/probe"]
        refused = check_broker(tmp_path, relay.port)["MQTT publish"]
    for step in ("MQTT subscribe", "Home Assistant"):
        assert found[step].status is Outcome.WARN
        assert "Allow" in (found[step].remedy or "")
    assert "rejected for emotion/fleet/shop/cmd/+, homeassistant/status: commands" in found["MQTT subscribe"].detail
    assert "emotion_hall-probe/config are rejected (it drops the connection)" in found["Home Assistant"].detail
    assert (refused.status, refused.remedy) == (Outcome.FAIL, "Allow them in the broker's access list")
    assert "emotion/hall/probe are rejected (it drops the connection)" in refused.detail


def test_tls_is_a_separate_step(start_broker: StartBroker, certificates: Certificates, tmp_path: Path) -> None:
    """The days until the certificate expires are reported; an untrusted CA fails before authentication."""
    files = [f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"]
    broker = start_broker([*files, "allow_anonymous true"])
    found = check_broker(tmp_path, broker.port, {"EDGE_MQTT__CA_FILE": str(certificates.ca)})
    assert list(found) == [*STEPS[:2], "broker TLS", *STEPS[2:]]
    assert found["broker TLS"].status is Outcome.WARN
    assert "expires in 1 days" in found["broker TLS"].detail
    assert found["broker"].detail.endswith("over TLS")
    untrusted = check_broker(tmp_path, broker.port, {"EDGE_MQTT__TLS": "true"})
    assert list(untrusted)[-1] == "broker TLS"
    assert "not trusted" in untrusted["broker TLS"].detail


def test_another_device_with_the_same_name_is_found(
    broker: Mosquitto, make_publisher: MakePublisher, tmp_path: Path
) -> None:
    """Another device with the same name is detected; the device itself is not mistaken for another."""
    with DeviceState(tmp_path / "state") as state:
        client_id = state.client_id
    for online_client_id, status in ((client_id, Outcome.OK), ("edge-other", Outcome.WARN)):
        with make_publisher(BrokerSettings(port=broker.port, client_id=online_client_id)) as device:
            wait_until(lambda device=device: device.stats.connected)  # type: ignore[misc]
            found = check_broker(tmp_path, broker.port)["device name"]
            assert found.status == status, found
    assert "another device is also named hall" in found.detail
    assert check_broker(tmp_path, broker.port)["device name"].status == Outcome.OK


def test_another_device_with_the_same_name_is_found_before_the_first_start(
    broker: Mosquitto, make_publisher: MakePublisher, tmp_path: Path
) -> None:
    """A device without a client id cannot be the one that is online."""
    with make_publisher(BrokerSettings(port=broker.port, client_id="edge-other")) as device:
        wait_until(lambda: device.stats.connected)
        found = check_broker(tmp_path, broker.port)["device name"]
    assert found.status == Outcome.WARN
    assert "another device is also named hall" in found.detail
    assert check_broker(tmp_path, broker.port)["device name"].status == Outcome.OK


def test_an_mqtt_3_broker_does_not_identify_the_device_online(
    broker: Mosquitto, make_publisher: MakePublisher, tmp_path: Path
) -> None:
    """Over MQTT 3.1.1, the online device is assumed to be this one only if an agent runs here."""
    with (
        Relay(broker.port, mqtt5_reply=NO_MQTT5) as old,
        make_publisher(BrokerSettings(port=old.port, client_id="e")) as device,
    ):
        wait_until(lambda: device.stats.connected)
        wait_until(lambda: probe_retained(BrokerSettings(port=old.port, client_id="p"), "emotion/hall/status"))
        found = check_broker(tmp_path, old.port)["device name"]
        with DeviceState(tmp_path / "state"):
            running = check_broker(tmp_path, old.port)["device name"]
        stopped = check_broker(tmp_path, old.port)["device name"]
    for result in (found, stopped):
        assert result.status is Outcome.WARN
        assert "hall is online although no agent runs here; MQTT 3.1.1 does not identify the sender" in result.detail
    assert (running.status, running.detail) == (Outcome.OK, "no other device named hall was seen online")


def test_a_retained_message_on_another_topic_is_ignored(broker: Mosquitto) -> None:
    """A broker may also send messages that match an earlier subscription."""
    with Listener(broker.port) as listener:
        listener.publish("emotion/hall/status", "online", retain=True)
        listener.publish("emotion/yard/status", "online", retain=True)
    settings = BrokerSettings(port=broker.port, client_id="p")
    assert probe_retained(settings, "emotion/+/status") is None
    found = probe_retained(settings, "emotion/hall/status")
    assert found is not None
    assert found.topic == "emotion/hall/status"


def test_the_online_device_is_unknown_without_access_to_the_state(
    broker: Mosquitto, make_publisher: MakePublisher, tmp_path: Path
) -> None:
    """Without access to the service's state, the check cannot tell whether the online device is this one."""
    with DeviceState(tmp_path / "state") as state:
        client_id = state.client_id
    with make_publisher(BrokerSettings(port=broker.port, client_id=client_id)) as device:
        wait_until(lambda: device.stats.connected)
        check_broker(tmp_path, broker.port)
        (tmp_path / "state").chmod(0)
        command = [*UNPRIVILEGED, EDGE, "doctor", "--config", tmp_path / "config.toml"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        (tmp_path / "state").chmod(0o700)
    line = next(line for line in done.stdout.splitlines() if "device name" in line)
    assert line.startswith("OK")
    assert f"cannot tell whether it is this device, as {tmp_path}/state/state.json cannot be read" in line


def test_another_client_with_the_same_client_id_is_found(
    broker: Mosquitto, make_publisher: MakePublisher, tmp_path: Path
) -> None:
    """A clone of this device's SD card is detected, and reconnects after the check."""
    with DeviceState(tmp_path / "state") as state:
        client_id = state.client_id
        assert "used by the agent running here" in check_broker(tmp_path, broker.port)["client id"].detail
    assert check_broker(tmp_path, broker.port)["client id"].detail == f"{client_id}, used by no other client"
    with make_publisher(BrokerSettings(port=broker.port, client_id=client_id)) as clone:
        wait_until(lambda: clone.stats.connected)
        found = check_broker(tmp_path, broker.port)["client id"]
        assert (found.status, found.exit_code) == (Outcome.FAIL, 6)
        assert "state.json" in (found.remedy or "")
        wait_until(lambda: clone.stats.connected and clone.stats.reconnects == 1)


def test_checks_that_need_mqtt_5_are_reported_as_not_possible(broker: Mosquitto, tmp_path: Path) -> None:
    """With MQTT 3.1.1, rejected messages and session takeovers cannot be detected, which is not reported as success."""
    with DeviceState(tmp_path / "state"):
        pass
    with Relay(broker.port, mqtt5_reply=NO_MQTT5) as old:
        found = check_broker(tmp_path, old.port)
    assert found["MQTT publish"].detail == "cannot be checked: an MQTT 3.1.1 broker does not report rejected messages"
    assert found["Home Assistant"].detail == "cannot be checked: an MQTT 3.1.1 broker does not report rejected messages"
    assert "MQTT 3.1.1 does not report whether another client uses it" in found["client id"].detail


def test_an_unencrypted_password_is_rejected_before_it_is_sent(broker: Mosquitto, tmp_path: Path) -> None:
    """The checks do not send the password unencrypted either."""
    environ = {**credentials(tmp_path, "right"), "EDGE_MQTT__HOST": "broker.example.org"}
    with pytest.raises(ConfigError, match="the password would be sent unencrypted over the network"):
        check_broker(tmp_path, broker.port, environ)
