"""The agent as a service: the deployed unit with a real systemd, a real broker, and a video as camera."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from edge.contract.signature import new_signing_key, public_key
from tests.e2e import service
from tests.e2e.nspawn import Machine
from tests.e2e.service import CHECKOUT, PYTHON, STATE, UNIT, VENV
from tests.mosquitto import Listener, Mosquitto, wait_until
from tests.update_server import UpdateHTTPServer, publish

pytestmark = pytest.mark.timeout(3600)
"""One machine runs at a time; the first test's time includes waiting for the others."""

AGENT = "import sys\nfrom edge.cli import main\nsys.exit(main())\n"
STATUS = "emotion/hall/status"
EMOTION = "emotion/hall/door/emotion"
MODEL = "/opt/emotion-edge/models/ferplus"
VIDEO = "/srv/door.avi"
BLOCKING_PIPE = "/srv/pipe-that-nobody-writes-to"


@pytest.fixture
def unit(machine: Machine, broker: Mosquitto, bundle_path: Path, astronaut_path: Path) -> Iterator[Machine]:
    """The machine with the agent installed but not started; its camera is a video of a face."""
    shutil.copytree(bundle_path, machine.root / MODEL[1:], dirs_exist_ok=True)
    write_video(astronaut_path, machine.root / VIDEO[1:])
    service.install(machine, program=AGENT, config=configuration(broker, source=VIDEO))
    yield machine
    service.remove(machine)


def configuration(broker: Mosquitto, *, source: str) -> str:
    """Returns a configuration with one camera."""
    return f"""
        [device]
        name = "hall"
        [model]
        path = "{MODEL}"
        [mqtt]
        port = {broker.port}
        [[camera]]
        name = "door"
        source = "{source}"
        realtime = true
        loop = true
    """


def write_video(photograph: Path, path: Path) -> None:
    """Writes a video that shows a photograph for one second."""
    image = cv2.imread(str(photograph))
    assert image is not None
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (image.shape[1], image.shape[0]))
    for _ in range(10):
        writer.write(image)
    writer.release()


def statuses(listener: Listener) -> list[str]:
    """Returns the payloads received on the status topic."""
    return [message.payload for message in listener.on(STATUS)]


def test_the_service_publishes_its_status_and_emotions(unit: Machine, listener: Listener) -> None:
    """Started by systemd in its sandbox, the agent publishes `online` and the emotion of the face in view."""
    service.start(unit)
    listener.wait_for(lambda: any(json.loads(m.payload)["face_count"] == 1 for m in listener.on(EMOTION)))
    assert statuses(listener) == ["online"]


def test_systemctl_status_shows_cameras_and_broker_connection(
    unit: Machine, broker: Mosquitto, listener: Listener
) -> None:
    """The status line shows the status of the camera and of the broker connection."""
    service.start(unit)
    wait_until(lambda: "door online; connected to the broker" in unit.show(UNIT, "StatusText"))
    listener.publish("emotion/hall/cmd/pause", '{"id": 1}')
    wait_until(lambda: "door paused" in unit.show(UNIT, "StatusText"))
    broker.kill()
    wait_until(lambda: "not connected to the broker" in unit.show(UNIT, "StatusText"))


def test_a_reload_applies_the_new_configuration(unit: Machine, broker: Mosquitto, listener: Listener) -> None:
    """After `systemctl reload`, the same process uses the new configuration."""
    service.start(unit)
    listener.wait_for(lambda: listener.on(EMOTION))
    process = unit.show(UNIT, "MainPID")
    service.configure(unit, configuration(broker, source=VIDEO).replace('"door"', '"gate"'))
    unit.systemctl("reload", UNIT)
    listener.wait_for(lambda: listener.on("emotion/hall/gate/emotion"))
    wait_until(lambda: unit.show(UNIT, "SubState") == "running")
    assert (unit.show(UNIT, "MainPID"), unit.show(UNIT, "NRestarts")) == (process, "0")
    assert "gate" in unit.show(UNIT, "StatusText")


def test_a_newer_model_is_installed_in_the_sandbox(
    unit: Machine, broker: Mosquitto, bundle_path: Path, listener: Listener, tmp_path: Path
) -> None:
    """The sandbox allows downloading, testing, installing and loading a model; the process stays the same."""
    key = new_signing_key()
    publish(tmp_path / "web", bundle_path, 2, key)
    with UpdateHTTPServer(tmp_path / "web") as web:
        update = f'[update]\nurl = "{web.url}"\npublic_keys = ["{public_key(key)}"]\n'
        service.configure(unit, configuration(broker, source=VIDEO) + update)
        service.start(unit)
        listener.wait_for(lambda: listener.on(EMOTION))
        process = unit.show(UNIT, "MainPID")
        listener.publish("emotion/hall/cmd/update", '{"id": 1}')
        listener.wait_for(lambda: json.loads(listener.on(EMOTION)[-1].payload)["model"]["version"] == "2.0.0")
    assert (unit.show(UNIT, "MainPID"), unit.show(UNIT, "NRestarts")) == (process, "0")
    wait_until(lambda: "door online; connected to the broker" in unit.show(UNIT, "StatusText"))


def test_the_restart_command_starts_a_new_process(unit: Machine, listener: Listener) -> None:
    """The command gets a response, the agent stops cleanly, and systemd restarts it."""
    service.start(unit)
    listener.wait_for(lambda: statuses(listener) == ["online"])
    process = unit.show(UNIT, "MainPID")
    listener.publish("emotion/hall/cmd/restart", '{"id": 1}')
    listener.wait_for(lambda: statuses(listener) == ["online", "offline", "online"])
    [response] = listener.on("emotion/hall/cmd/restart/response")
    assert json.loads(response.payload)["ok"]
    assert unit.show(UNIT, "MainPID") != process
    assert unit.show(UNIT, "Result") == "success"


def test_a_stopped_service_is_offline(unit: Machine, listener: Listener) -> None:
    """`systemctl stop` ends the agent cleanly, and its retained status is `offline`."""
    service.start(unit)
    listener.wait_for(lambda: statuses(listener) == ["online"])
    unit.systemctl("stop", UNIT)
    assert unit.show(UNIT, "Result") == "success"
    listener.wait_for(lambda: statuses(listener) == ["online", "offline"])
    assert listener.on(STATUS)[-1].retain


def test_a_crash_is_reported_by_the_will(unit: Machine, listener: Listener) -> None:
    """After SIGKILL, the broker publishes the will."""
    service.override(unit, "Restart=no\n")
    service.start(unit)
    listener.wait_for(lambda: statuses(listener) == ["online"])
    unit.systemctl("kill", "--signal=KILL", UNIT)
    listener.wait_for(lambda: statuses(listener) == ["online", "offline"])


def test_running_out_of_memory_ends_only_one_process(unit: Machine) -> None:
    """Swap is not used, and if the process that tests a model is killed for lack of memory, the agent continues."""
    limits = {name: unit.show(UNIT, name) for name in ("MemoryMax", "MemorySwapMax", "OOMPolicy")}
    assert limits == {"MemoryMax": str(512 << 20), "MemorySwapMax": "0", "OOMPolicy": "continue"}


def test_files_of_root_in_the_state_folder_are_reported_with_a_fix(unit: Machine) -> None:
    """After `sudo edge run` the service cannot start; `edge check` reports it with a command that fixes it."""
    leave = "from pathlib import Path; from edge.outbox import Outbox; from edge.state import DeviceState"
    leave += f"; folder = Path({STATE!r}); DeviceState(folder); Outbox(folder=folder, capacity=1)"

    def finding() -> str:
        lines = as_user(unit, "emotion-edge", "edge", "check").splitlines()
        return next(line for line in lines if "state folder" in line)

    unit.run("install", "--directory", "--owner=emotion-edge", STATE)
    as_user(unit, "root", "python", "-c", leave)
    failure = finding()
    assert (failure.startswith("FAIL"), f"{STATE}/lock" in failure) == (True, True)
    unit.run("sh", "-c", failure.split("`")[1].removeprefix("sudo "))
    assert finding().startswith("OK")
    service.start(unit)


def test_a_hung_camera_triggers_the_watchdog(unit: Machine, broker: Mosquitto, listener: Listener) -> None:
    """If a camera hangs, the watchdog restarts the agent, and the journal names the camera."""
    unit.run("mkfifo", "--mode=644", BLOCKING_PIPE)
    service.configure(unit, configuration(broker, source=BLOCKING_PIPE))
    service.override(unit, "WatchdogSec=5\n")
    service.start(unit)
    unit.await_journal(UNIT, "Started", times=2)
    journal = unit.journal(UNIT)
    assert journal.count("camera door is not responding") == 1
    assert "Watchdog timeout" in journal
    listener.wait_for(lambda: statuses(listener).count("online") >= 2)


def test_the_doctor_uses_the_password_and_state_folder_of_the_service(unit: Machine, tmp_path: Path) -> None:
    """As the service's user, `edge doctor` logs in to the broker while the service runs; otherwise it reports why not.

    It checks the state folder that systemd sets for the service, not that of the configuration file.
    """
    with password_protected_broker(tmp_path) as broker:
        lines = configuration(broker, source=VIDEO).replace("[mqtt]", '[mqtt]\nusername = "hall"')
        lines = lines.replace("[device]", '[device]\nstate_dir = "/data/state"')
        service.configure(unit, lines)
        unit.write("/etc/credstore/emotion-edge.mqtt_password", "s3cret\n", mode=0o600)
        service.start(unit)
        while_running = as_user(unit, "emotion-edge", "edge", "doctor")
        unit.systemctl("stop", UNIT)
        after_stop = as_user(unit, "emotion-edge", "edge", "doctor")
    assert "OK    MQTT publish    allowed on emotion/hall/probe" in while_running
    assert "OK    agent           running, as client " in while_running
    assert "OK    state folder    /var/lib/emotion-edge, writable" in while_running
    assert "FAIL  broker" in after_stop
    assert "a systemd credential is available only while its service runs" in after_stop


def test_the_doctor_reports_an_unreadable_configuration_to_other_users(unit: Machine) -> None:
    """For a user without access to the configuration, that check fails with a remedy, and the others still run."""
    output = as_user(unit, "nobody", "edge", "doctor")
    assert "FAIL  configuration   /etc/emotion-edge/config.toml: cannot be read (Permission denied)" in output
    assert "sudo -u emotion-edge" in output
    assert "OK    runtime" in output


def password_protected_broker(folder: Path) -> Mosquitto:
    """Returns a broker that accepts only the user `hall` with a password."""
    passwords = folder / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", passwords, "hall", "s3cret"], check=True, capture_output=True)
    return Mosquitto(folder, ["allow_anonymous false", f"password_file {passwords}"])


def as_user(machine: Machine, user: str, *command: str) -> str:
    """Returns the output of a command run as a user with an environment of its own."""
    rights = ["setpriv", f"--reuid={user}", f"--regid={machine.run('id', '-g', user).strip()}", "--init-groups"]
    environ = ["env", "-i", f"PATH={VENV}/bin:/bin", f"PYTHONPATH={CHECKOUT}", f"LD_LIBRARY_PATH={PYTHON}/lib"]
    return machine.run(*rights, *environ, *command, check=False)
