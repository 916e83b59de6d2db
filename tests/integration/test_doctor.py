"""The doctor's steps to the broker, beside real ones."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from edge.checks import Finding, Outcome, broker, examine
from edge.config import load_config
from edge.errors import ConfigError
from edge.mqtt import BrokerSettings
from edge.mqtt.probe import probe_retained
from edge.state import DeviceState
from tests.e2e.process import AS_ANYBODY, EDGE
from tests.integration.conftest import Build, Certificates, StartBroker
from tests.mosquitto import Listener, Mosquitto, free_port, listening_only_to, wait_until
from tests.network import NO_MQTT5, Relay

STEPS = ["broker name", "broker port", "broker", "publish right", "listen right", "Home Assistant"]
STEPS += ["device name", "client id"]


def examined(folder: Path, port: int, environ: Mapping[str, str] | None = None) -> dict[str, Finding]:
    """What is found on the way to the broker by a device called hall, with the state in `folder`/state."""
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
    return {finding.check: finding for finding in examine([chain])}


def locked(folder: Path, password: str) -> dict[str, str]:
    """The environment of a device that logs in as camera."""
    (folder / "password").write_text(password)
    return {"EDGE_MQTT__USERNAME": "camera", "EDGE_MQTT__PASSWORD_FILE": str(folder / "password")}


def test_a_working_broker_passes_every_step(broker: Mosquitto, tmp_path: Path) -> None:
    """Each step says what it saw, and nothing stays behind on the broker."""
    found = examined(tmp_path, broker.port)
    assert list(found) == STEPS
    assert {finding.status for finding in found.values()} == {Outcome.OK}
    assert "127.0.0.1" in found["broker name"].detail
    assert found["broker"].detail == f"localhost:{broker.port} speaks MQTT 5"
    assert found["publish right"].detail == "granted on emotion/hall/probe"
    heard = "emotion/hall/status, emotion/hall/cmd/+, emotion/fleet/shop/cmd/+, homeassistant/status"
    assert found["listen right"].detail == f"not refused on {heard}"
    assert found["Home Assistant"].detail == "may be told of this device under homeassistant/..."
    with Listener(broker.port) as listener:
        listener.publish("first", "")
        listener.wait_for(lambda: listener.heard)
    assert [message.topic for message in listener.heard] == ["first"]
    client_ids = re.findall(r"New client connected from \S+ as (edge-\S+)", broker.log)
    assert len(client_ids) == 8
    assert max(map(len, client_ids)) <= 23  # the most that every broker must accept


def test_a_fault_ends_the_way(tmp_path: Path) -> None:
    """A closed port is told once, not again by every later step."""
    found = examined(tmp_path, free_port())
    assert list(found) == ["broker name", "broker port"]
    assert (found["broker port"].status, found["broker port"].exit_code) == (Outcome.FAIL, 6)
    assert list(examined(tmp_path, 1883, {"EDGE_MQTT__HOST": "no-such-host.invalid"})) == ["broker name"]


def test_a_wrong_password_is_found_at_the_login(start_broker: StartBroker, password_file: Path, tmp_path: Path) -> None:
    """The port is sound, the password is not."""
    broker = start_broker(["allow_anonymous false", f"password_file {password_file}"])
    found = examined(tmp_path, broker.port, locked(tmp_path, "hunter2"))
    assert list(found) == STEPS[:3]
    assert "wrong password" in found["broker"].detail
    assert "hunter2" not in str(found)
    assert list(examined(tmp_path, broker.port, locked(tmp_path, "right"))) == STEPS


def test_a_missing_right_to_publish_is_found(start_broker: StartBroker, password_file: Path, tmp_path: Path) -> None:
    """A device that may log in but not publish is not called sound."""
    acl = tmp_path / "acl"
    acl.touch(mode=0o600)
    acl.write_text("user camera\ntopic write emotion/kitchen/#\n")
    broker = start_broker(["allow_anonymous false", f"password_file {password_file}", f"acl_file {acl}"])
    refused = examined(tmp_path, broker.port, locked(tmp_path, "right"))["publish right"]
    assert (refused.status, refused.exit_code) == (Outcome.FAIL, 6)
    assert "emotion/hall/probe" in refused.detail
    found = examined(tmp_path, broker.port, {**locked(tmp_path, "right"), "EDGE_DEVICE__NAME": "kitchen"})
    assert found["publish right"].status is Outcome.OK
    assert found["Home Assistant"].status is Outcome.WARN
    assert "homeassistant/device/emotion_kitchen-probe/config are rejected" in found["Home Assistant"].detail


def test_a_missing_right_to_listen_is_found(start_broker: StartBroker, tmp_path: Path) -> None:
    """A device whose commands would never arrive is told so, topic by topic; those of its groups are looked at too."""
    broker = start_broker(listening_only_to("emotion/hall/#", tmp_path / "rights.json"))
    found = examined(tmp_path, broker.port)["listen right"]
    assert found.status is Outcome.WARN
    assert "refused on emotion/fleet/shop/cmd/+, homeassistant/status, so commands" in found.detail


def test_rights_are_missed_by_a_broker_that_hangs_up_over_them(broker: Mosquitto, tmp_path: Path) -> None:
    """With MQTT 3.1.1 it has no other no: each topic is told with its remedy, and the later steps follow."""
    with Relay(broker.port, last_word_to_mqtt5=NO_MQTT5, forbidden=["homeassistant/", "emotion/fleet/"]) as relay:
        found = examined(tmp_path, relay.port)
        assert list(found) == STEPS
        relay.forbidden = ["emotion/hall/probe"]
        refused = examined(tmp_path, relay.port)["publish right"]
    for step in ("listen right", "Home Assistant"):
        assert found[step].status is Outcome.WARN
        assert "Allow" in (found[step].remedy or "")
    assert "refused on emotion/fleet/shop/cmd/+, homeassistant/status, so commands" in found["listen right"].detail
    assert "emotion_hall-probe/config are rejected (it hangs up)" in found["Home Assistant"].detail
    assert (refused.status, refused.remedy) == (Outcome.FAIL, "Allow them in the broker's access list")
    assert "emotion/hall/probe are rejected (it hangs up)" in refused.detail


def test_tls_is_a_step_of_its_own(start_broker: StartBroker, certificates: Certificates, tmp_path: Path) -> None:
    """The certificate's last days are counted; an authority that is not trusted is found before the login."""
    files = [f"certfile {certificates.broker}", f"keyfile {certificates.broker_key}"]
    broker = start_broker([*files, "allow_anonymous true"])
    found = examined(tmp_path, broker.port, {"EDGE_MQTT__CA_FILE": str(certificates.ca)})
    assert list(found) == [*STEPS[:2], "broker TLS", *STEPS[2:]]
    assert found["broker TLS"].status is Outcome.WARN
    assert "expires in 1 days" in found["broker TLS"].detail
    assert found["broker"].detail.endswith("over TLS")
    distrusted = examined(tmp_path, broker.port, {"EDGE_MQTT__TLS": "true"})
    assert list(distrusted)[-1] == "broker TLS"
    assert "not trusted" in distrusted["broker TLS"].detail


def test_a_name_that_another_device_has_is_found(broker: Mosquitto, build: Build, tmp_path: Path) -> None:
    """Two cards with one host name are found before their messages mix; the device itself is no other."""
    with DeviceState(tmp_path / "state") as state:
        client_id = state.client_id
    for speaker, status in ((client_id, Outcome.OK), ("edge-other", Outcome.WARN)):
        with build(BrokerSettings(port=broker.port, client_id=speaker)) as device:
            wait_until(lambda device=device: device.stats.connected)  # type: ignore[misc]
            found = examined(tmp_path, broker.port)["device name"]
            assert found.status == status, found
    assert "another device is called hall too" in found.detail
    assert examined(tmp_path, broker.port)["device name"].status == Outcome.OK


def test_a_name_that_another_device_has_is_found_before_the_first_start(
    broker: Mosquitto, build: Build, tmp_path: Path
) -> None:
    """A device that has no client id yet cannot be the one that is online."""
    with build(BrokerSettings(port=broker.port, client_id="edge-other")) as device:
        wait_until(lambda: device.stats.connected)
        found = examined(tmp_path, broker.port)["device name"]
    assert found.status == Outcome.WARN
    assert "another device is called hall too" in found.detail
    assert examined(tmp_path, broker.port)["device name"].status == Outcome.OK


def test_who_has_the_name_is_not_told_by_an_old_broker(broker: Mosquitto, build: Build, tmp_path: Path) -> None:
    """Only where an agent runs here is it taken for the one that is online."""
    with (
        Relay(broker.port, last_word_to_mqtt5=NO_MQTT5) as old,
        build(BrokerSettings(port=old.port, client_id="e")) as device,
    ):
        wait_until(lambda: device.stats.connected)
        wait_until(lambda: probe_retained(BrokerSettings(port=old.port, client_id="p"), "emotion/hall/status"))
        found = examined(tmp_path, old.port)["device name"]
        with DeviceState(tmp_path / "state"):
            running = examined(tmp_path, old.port)["device name"]
        stopped = examined(tmp_path, old.port)["device name"]
    for doubt in (found, stopped):
        assert doubt.status is Outcome.WARN
        assert "hall is online, and no agent runs here; MQTT 3.1.1 does not tell who it is" in doubt.detail
    assert (running.status, running.detail) == (Outcome.OK, "no other device is seen to be called hall")


def test_what_is_kept_on_another_topic_is_not_taken_for_it(broker: Mosquitto) -> None:
    """A broker may send what an earlier session had asked for."""
    with Listener(broker.port) as listener:
        listener.publish("emotion/hall/status", "online", retain=True)
        listener.publish("emotion/yard/status", "online", retain=True)
    settings = BrokerSettings(port=broker.port, client_id="p")
    assert probe_retained(settings, "emotion/+/status") is None
    found = probe_retained(settings, "emotion/hall/status")
    assert found is not None
    assert found.topic == "emotion/hall/status"


def test_whose_name_it_is_is_left_open_where_the_state_may_not_be_read(
    broker: Mosquitto, build: Build, tmp_path: Path
) -> None:
    """Somebody without rights to the service's folder is told neither that all is well nor to rename it."""
    with DeviceState(tmp_path / "state") as state:
        client_id = state.client_id
    with build(BrokerSettings(port=broker.port, client_id=client_id)) as device:
        wait_until(lambda: device.stats.connected)
        examined(tmp_path, broker.port)
        (tmp_path / "state").chmod(0)
        command = [*AS_ANYBODY, EDGE, "doctor", "--config", tmp_path / "config.toml"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        (tmp_path / "state").chmod(0o700)
    told = next(line for line in done.stdout.splitlines() if "device name" in line)
    assert told.startswith("OK")
    assert f"cannot be told, as {tmp_path}/state/state.json cannot be read" in told


def test_a_client_id_that_another_device_uses_is_found(broker: Mosquitto, build: Build, tmp_path: Path) -> None:
    """Two devices made from one card are found out, and the twin comes back."""
    with DeviceState(tmp_path / "state") as state:
        client_id = state.client_id
        assert "of the agent that is running here" in examined(tmp_path, broker.port)["client id"].detail
    assert examined(tmp_path, broker.port)["client id"].detail == f"{client_id}, taken by nobody else"
    with build(BrokerSettings(port=broker.port, client_id=client_id)) as twin:
        wait_until(lambda: twin.stats.connected)
        found = examined(tmp_path, broker.port)["client id"]
        assert (found.status, found.exit_code) == (Outcome.FAIL, 6)
        assert "state.json" in (found.remedy or "")
        wait_until(lambda: twin.stats.connected and twin.stats.reconnects == 1)


def test_an_old_broker_tells_less(broker: Mosquitto, tmp_path: Path) -> None:
    """What MQTT 3.1.1 cannot tell is not called sound."""
    with DeviceState(tmp_path / "state"):
        pass
    with Relay(broker.port, last_word_to_mqtt5=NO_MQTT5) as old:
        found = examined(tmp_path, old.port)
    assert found["publish right"].detail == "MQTT 3.1.1 does not tell whether messages are refused"
    assert found["Home Assistant"].detail == "MQTT 3.1.1 does not tell whether messages are refused"
    assert "MQTT 3.1.1 does not tell whether it is taken" in found["client id"].detail


def test_a_password_in_the_open_is_found_before_it_is_sent(broker: Mosquitto, tmp_path: Path) -> None:
    """The device's own password does not travel in the open, not even for a check."""
    environ = {**locked(tmp_path, "right"), "EDGE_MQTT__HOST": "broker.example.org"}
    with pytest.raises(ConfigError, match="the password would cross the network unencrypted"):
        examined(tmp_path, broker.port, environ)
