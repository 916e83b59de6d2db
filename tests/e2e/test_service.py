"""The agent as a service: the deployed unit, a real systemd, a real broker, and a photograph as camera."""

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
FILM = "/srv/door.avi"
NEVER_OPENS = "/srv/pipe-that-nobody-writes-to"


@pytest.fixture
def unit(machine: Machine, broker: Mosquitto, bundle_path: Path, astronaut_path: Path) -> Iterator[Machine]:
    """The machine with the agent installed, ready to be started on a film of a face."""
    shutil.copytree(bundle_path, machine.root / MODEL[1:], dirs_exist_ok=True)
    film(astronaut_path, machine.root / FILM[1:])
    service.install(machine, program=AGENT, config=configuration(broker, source=FILM))
    yield machine
    service.remove(machine)


def configuration(broker: Mosquitto, *, source: str) -> str:
    """A configuration with one camera."""
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


def film(photograph: Path, path: Path) -> None:
    """A second of a photograph as a video."""
    picture = cv2.imread(str(photograph))
    assert picture is not None
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (picture.shape[1], picture.shape[0]))
    for _ in range(10):
        writer.write(picture)
    writer.release()


def statuses(listener: Listener) -> list[str]:
    """The payloads of the status topic so far."""
    return [message.payload for message in listener.on(STATUS)]


def test_the_service_sees_and_tells(unit: Machine, listener: Listener) -> None:
    """Started by systemd in its sandbox, the agent publishes `online` and the emotion of the face in view."""
    service.start(unit)
    listener.wait_for(lambda: any(json.loads(m.payload)["face_count"] == 1 for m in listener.on(EMOTION)))
    assert statuses(listener) == ["online"]


def test_the_status_line_says_how_things_stand(unit: Machine, broker: Mosquitto, listener: Listener) -> None:
    """`systemctl status` shows the status of the cameras and of the broker connection."""
    service.start(unit)
    wait_until(lambda: "door online; connected to the broker" in unit.show(UNIT, "StatusText"))
    listener.publish("emotion/hall/cmd/pause", '{"id": 1}')
    wait_until(lambda: "door paused" in unit.show(UNIT, "StatusText"))
    broker.kill()
    wait_until(lambda: "not connected to the broker" in unit.show(UNIT, "StatusText"))


def test_a_reload_takes_another_configuration(unit: Machine, broker: Mosquitto, listener: Listener) -> None:
    """After `systemctl reload`, the same process uses the new configuration."""
    service.start(unit)
    listener.wait_for(lambda: listener.on(EMOTION))
    process = unit.show(UNIT, "MainPID")
    service.configure(unit, configuration(broker, source=FILM).replace('"door"', '"gate"'))
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
        service.configure(unit, configuration(broker, source=FILM) + update)
        service.start(unit)
        listener.wait_for(lambda: listener.on(EMOTION))
        process = unit.show(UNIT, "MainPID")
        listener.publish("emotion/hall/cmd/update", '{"id": 1}')
        listener.wait_for(lambda: json.loads(listener.on(EMOTION)[-1].payload)["model"]["version"] == "2.0.0")
    assert (unit.show(UNIT, "MainPID"), unit.show(UNIT, "NRestarts")) == (process, "0")
    wait_until(lambda: "door online; connected to the broker" in unit.show(UNIT, "StatusText"))


def test_the_command_restart_brings_a_new_process(unit: Machine, listener: Listener) -> None:
    """The command gets a response, the agent shuts down cleanly, and systemd restarts it."""
    service.start(unit)
    listener.wait_for(lambda: statuses(listener) == ["online"])
    process = unit.show(UNIT, "MainPID")
    listener.publish("emotion/hall/cmd/restart", '{"id": 1}')
    listener.wait_for(lambda: statuses(listener) == ["online", "offline", "online"])
    [answer] = listener.on("emotion/hall/cmd/restart/response")
    assert json.loads(answer.payload)["ok"]
    assert unit.show(UNIT, "MainPID") != process
    assert unit.show(UNIT, "Result") == "success"


def test_stopping_the_service_says_so(unit: Machine, listener: Listener) -> None:
    """`systemctl stop` gives a clean exit, and the retained status is `offline`."""
    service.start(unit)
    listener.wait_for(lambda: statuses(listener) == ["online"])
    unit.systemctl("stop", UNIT)
    assert unit.show(UNIT, "Result") == "success"
    listener.wait_for(lambda: statuses(listener) == ["online", "offline"])
    assert listener.on(STATUS)[-1].retain


def test_a_crash_is_told_by_the_last_will(unit: Machine, listener: Listener) -> None:
    """After `kill -9`, the broker publishes the will."""
    service.override(unit, "Restart=no\n")
    service.start(unit)
    listener.wait_for(lambda: statuses(listener) == ["online"])
    unit.systemctl("kill", "--signal=KILL", UNIT)
    listener.wait_for(lambda: statuses(listener) == ["online", "offline"])


def test_running_out_of_memory_is_the_end_of_one_process(unit: Machine) -> None:
    """The memory limit applies before swapping, and killing the test process of a model does not kill the agent."""
    limits = {name: unit.show(UNIT, name) for name in ("MemoryMax", "MemorySwapMax", "OOMPolicy")}
    assert limits == {"MemoryMax": str(512 << 20), "MemorySwapMax": "0", "OOMPolicy": "continue"}


def test_what_root_left_in_the_state_folder_is_found(unit: Machine) -> None:
    """After `sudo edge run` the service cannot start; `edge check` reports it with a command that fixes it."""
    leave = "from pathlib import Path; from edge.outbox import Outbox; from edge.state import DeviceState"
    leave += f"; folder = Path({STATE!r}); DeviceState(folder); Outbox(folder=folder, capacity=1)"

    def finding() -> str:
        lines = as_user(unit, "emotion-edge", "edge", "check").splitlines()
        return next(line for line in lines if "state folder" in line)

    unit.run("install", "--directory", "--owner=emotion-edge", STATE)
    as_user(unit, "root", "python", "-c", leave)
    told = finding()
    assert (told.startswith("FAIL"), f"{STATE}/lock" in told) == (True, True)
    unit.run("sh", "-c", told.split("`")[1].removeprefix("sudo "))
    assert finding().startswith("OK")
    service.start(unit)


def test_a_hung_camera_brings_the_watchdog(unit: Machine, broker: Mosquitto, listener: Listener) -> None:
    """If a camera's driver hangs, the watchdog restarts the agent, and the journal names the camera."""
    unit.run("mkfifo", "--mode=644", NEVER_OPENS)
    service.configure(unit, configuration(broker, source=NEVER_OPENS))
    service.override(unit, "WatchdogSec=5\n")
    service.start(unit)
    unit.await_journal(UNIT, "Started", times=2)
    journal = unit.journal(UNIT)
    assert journal.count("camera door is not responding") == 1
    assert "Watchdog timeout" in journal
    listener.wait_for(lambda: statuses(listener).count("online") >= 2)


def test_the_doctor_has_the_password_and_the_state_of_the_service(unit: Machine, tmp_path: Path) -> None:
    """Run as the service's user, the doctor logs in to the broker while the service runs; otherwise it says why not.

    It uses the state folder that systemd gives the service, whatever the file sets.
    """
    with locked_broker(tmp_path) as broker:
        lines = configuration(broker, source=FILM).replace("[mqtt]", '[mqtt]\nusername = "hall"')
        lines = lines.replace("[device]", '[device]\nstate_dir = "/data/state"')
        service.configure(unit, lines)
        unit.write("/etc/credstore/emotion-edge.mqtt_password", "s3cret\n", mode=0o600)
        service.start(unit)
        found = as_user(unit, "emotion-edge", "edge", "doctor")
        unit.systemctl("stop", UNIT)
        found_later = as_user(unit, "emotion-edge", "edge", "doctor")
    assert "OK    MQTT publish    allowed on emotion/hall/probe" in found
    assert "OK    agent           running, as client " in found
    assert "OK    state folder    /var/lib/emotion-edge, writable" in found
    assert "FAIL  broker" in found_later
    assert "a systemd credential is available only while its service runs" in found_later


def test_the_doctor_tells_strangers_who_may_ask(unit: Machine) -> None:
    """A user without access to the configuration gets an error for it, and the machine is still checked."""
    found = as_user(unit, "nobody", "edge", "doctor")
    assert "FAIL  configuration   /etc/emotion-edge/config.toml: cannot be read (Permission denied)" in found
    assert "sudo -u emotion-edge" in found
    assert "OK    runtime" in found


def locked_broker(folder: Path) -> Mosquitto:
    """A broker that accepts only the user `hall`."""
    passwords = folder / "passwords"
    passwords.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", passwords, "hall", "s3cret"], check=True, capture_output=True)
    return Mosquitto(folder, ["allow_anonymous false", f"password_file {passwords}"])


def as_user(machine: Machine, user: str, *command: str) -> str:
    """The output of a command run by a user from a shell."""
    rights = ["setpriv", f"--reuid={user}", f"--regid={machine.run('id', '-g', user).strip()}", "--init-groups"]
    environ = ["env", "-i", f"PATH={VENV}/bin:/bin", f"PYTHONPATH={CHECKOUT}", f"LD_LIBRARY_PATH={PYTHON}/lib"]
    return machine.run(*rights, *environ, *command, check=False)
