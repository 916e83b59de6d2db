"""Tests of the agent with a real Home Assistant, run by `make home-assistant` but not by `make test`.

Home Assistant is the newest release for the Python of its own virtual environment; the variable HOME_ASSISTANT_PYTHON
names that interpreter. It downloads the dependencies of its integrations itself, as usual.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from edge.contract.signature import new_signing_key, public_key
from tests.e2e import hall
from tests.e2e.process import Edge
from tests.mosquitto import PATIENCE_S, Mosquitto, free_port
from tests.update_server import UpdateHTTPServer, publish

DEPLOY = Path(__file__).parents[2] / "deploy"
HOST = Path(__file__).with_name("home_assistant_host.py")
PYTHON = os.environ.get("HOME_ASSISTANT_PYTHON", ".venv-home-assistant/bin/python")

_UNAVAILABLE = "unavailable"
_FIRST_START_S = 600.0
"""Includes downloading the dependencies of its integrations."""
_LIGHT = """
template:
  - light:
      - name: Hall
        turn_on: []
        turn_off: []
"""


@dataclass(frozen=True, slots=True)
class Entity:
    """State and attributes of an entity."""

    state: str
    attributes: dict[str, Any] = field(default_factory=dict)


class HomeAssistant:
    """Home Assistant with the MQTT integration set up, running while the context is open.

    Args:
        folder: Its configuration folder, which persists between runs.
        port: Port of the broker.
        configuration: Additional YAML for its configuration, used when the folder is created.

    Attributes:
        entities: The existing entities by entity id.
        changes: All state changes in order, as entity id and new state; None for a removed entity.
    """

    def __init__(self, folder: Path, port: int, configuration: str = "") -> None:
        self._folder = folder
        self._log = folder / "log.txt"
        self._changed = threading.Condition()
        self._started_or_dead = threading.Event()
        self._started = False
        self.entities: dict[str, Entity] = {}
        self.changes: list[tuple[str, Entity | None]] = []
        if not folder.exists():
            storage = folder / ".storage"
            storage.mkdir(parents=True)
            (storage / "core.config_entries").write_text(json.dumps(_mqtt_integration(port)))
            settings = f"logger:\n  default: warning\nhttp:\n  server_port: {free_port()}\n"
            (folder / "configuration.yaml").write_text(settings + configuration)

    def __enter__(self) -> Self:
        python = Path(PYTHON).absolute()  # not resolved: that would leave the virtual environment
        path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # where it finds `uv`
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [python, HOST, self._folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "PATH": path, "VIRTUAL_ENV": str(python.parents[1])},
            )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._started_or_dead.wait(_FIRST_START_S)
        assert self._started, self._log.read_text()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Shuts it down cleanly, so that it saves its entity registry."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._reader.join()

    def call(self, service: str, entity: str) -> None:
        """Calls a service, such as `switch.turn_on`, for an entity."""
        domain, name = service.split(".")
        assert self._process.stdin is not None
        call = {"domain": domain, "service": name, "data": {"entity_id": entity}}
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Waits until a condition on the entities holds."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S), f"{self.entities}\n{self._log.read_text()}"

    def wait_for_state(self, entity: str, *states: str) -> None:
        """Waits until an entity has one of these states."""
        self.wait_for(lambda: entity in self.entities and self.entities[entity].state in states)

    def logged_problems(self) -> list[str]:
        """Returns logged errors, and warnings about MQTT."""
        lines = self._log.read_text().splitlines()
        return [line for line in lines if " ERROR " in line or (" WARNING " in line and "mqtt" in line)]

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._handle(json.loads(line))
        self._started_or_dead.set()

    def _handle(self, fields: dict[str, Any]) -> None:
        if "started" in fields:
            self._started = True
            self._started_or_dead.set()
            return
        with self._changed:
            name = fields["entity"]
            entity = Entity(fields["state"], fields["attributes"]) if "state" in fields else None
            self.changes.append((name, entity))
            self.entities.pop(name, None)
            if entity is not None:
                self.entities[name] = entity
            self._changed.notify_all()


def _mqtt_integration(port: int) -> dict[str, Any]:
    """The content of the file that the dialog *Add integration* creates for a broker."""
    entry: dict[str, Any] = {
        "entry_id": "01JD0000000000000000000000", "domain": "mqtt", "title": "broker", "source": "user",
        "data": {"broker": "127.0.0.1", "port": port}, "options": {}, "unique_id": None, "version": 2,
        "minor_version": 1, "disabled_by": None, "pref_disable_new_entities": False, "pref_disable_polling": False,
        "subentries": [], "discovery_keys": {}, "created_at": "2026-01-01T00:00:00+00:00",
        "modified_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return {"version": 1, "minor_version": 5, "key": "core.config_entries", "data": {"entries": [entry]}}


@pytest.fixture
def camera(tmp_path: Path, astronaut_path: Path) -> str:
    """Configuration keys of a camera that repeatedly sees a happy face appear and disappear."""
    images = hall.create_images(tmp_path, astronaut_path)
    return f'source = "{images}"\nfps = 2\nrealtime = true\nloop = true'


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, broker: Mosquitto, camera: str) -> Path:
    """The device `hall` with a camera `door`."""
    return hall.configure(tmp_path, bundle=bundle_path, port=broker.port, camera=camera, more=hall.IMMEDIATE_EVENTS)


@pytest.fixture
def home(tmp_path: Path, broker: Mosquitto) -> Iterator[HomeAssistant]:
    """A Home Assistant without devices; at the end, it must have logged no errors and no MQTT warnings."""
    with HomeAssistant(tmp_path / "home", broker.port) as home:
        yield home
    assert home.logged_problems() == []


def test_the_device_is_discovered_with_all_entities_of_the_dashboard(config: Path, home: HomeAssistant) -> None:
    """All entities of the example dashboard are discovered; after a stop, they are unavailable."""
    with Edge("run", "--config", config) as agent:
        home.wait_for_state("sensor.hall_door_emotion", "happy")
        home.wait_for_state("sensor.hall_door_faces", "1")
        home.wait_for_state("sensor.hall_door_emotion", "none")
        home.wait_for(lambda: float(home.entities["sensor.hall_door_fps"].state) > 1)
        on_dashboard = re.findall(r"entity: (\S+)", (DEPLOY / "homeassistant" / "dashboard.yaml").read_text())
        assert on_dashboard
        assert {entity.replace(".pi_", ".hall_") for entity in on_dashboard} <= home.entities.keys()
        assert home.entities["binary_sensor.hall_connectivity"].state == "on"
        assert agent.stop() == 0, agent.output
    home.wait_for_state("binary_sensor.hall_connectivity", "off")
    home.wait_for_state("sensor.hall_door_emotion", _UNAVAILABLE)


def test_the_pause_switch_pauses_a_camera(config: Path, home: HomeAssistant) -> None:
    """Sensors of a paused camera are unavailable, its switch is not; turning the switch off resumes the camera."""
    with Edge("run", "--config", config):
        home.wait_for_state("sensor.hall_door_emotion", "happy", "none")
        home.call("switch.turn_on", "switch.hall_door_pause")
        home.wait_for_state("switch.hall_door_pause", "on")
        home.wait_for_state("sensor.hall_door_emotion", _UNAVAILABLE)
        home.call("switch.turn_off", "switch.hall_door_pause")
        home.wait_for_state("switch.hall_door_pause", "off")
        home.wait_for_state("sensor.hall_door_emotion", "happy", "none")


def test_the_documented_automation_ignores_events_from_before_a_restart(
    config: Path, tmp_path: Path, broker: Mosquitto
) -> None:
    """A happy face turns the light on; the last event, received at a start of Home Assistant or the agent, does not."""
    [automation] = re.findall(r"\n    triggers:\n(?:(?:    .*)?\n)+", (DEPLOY / "README.md").read_text())
    automation = textwrap.indent(textwrap.dedent(automation.replace("pi_door_door", "hall_door")), "    ")
    configuration = f"{_LIGHT}automation:\n  - alias: Happy face\n{automation}"
    with HomeAssistant(tmp_path / "home", broker.port, configuration) as home:
        with Edge("run", "--config", config):
            home.wait_for_state("light.hall", "on")  # the agent is killed while the face is in view
        home.call("light.turn_off", "light.hall")
        home.wait_for_state("light.hall", "off")
    for image in sorted((tmp_path / "images").iterdir())[:3]:
        image.unlink()
    with HomeAssistant(tmp_path / "home", broker.port) as home:
        home.wait_for(lambda: home.entities["event.hall_door_event"].attributes.get("emotion") == "happy")
        with Edge("run", "--config", config):
            home.wait_for_state("sensor.hall_door_emotion", "none")
        assert "light.hall" in home.entities
        assert not [name for name, entity in home.changes if name == "light.hall" and entity and entity.state == "on"]
    assert home.logged_problems() == []


def test_entities_of_a_renamed_camera_or_disabled_discovery_are_removed(config: Path, home: HomeAssistant) -> None:
    """The entities of a renamed camera are removed; with discovery disabled, so are all entities of the device."""
    with Edge("run", "--config", config) as agent:
        home.wait_for_state("sensor.hall_door_emotion", "happy", "none")
        assert agent.stop() == 0, agent.output
    config.write_text(config.read_text().replace('name = "door"', 'name = "window"'))
    with Edge("run", "--config", config) as agent:
        home.wait_for_state("sensor.hall_window_emotion", "happy", "none")
        home.wait_for(lambda: not any("hall_door" in entity for entity in home.entities))
        assert agent.stop() == 0, agent.output
    config.write_text(config.read_text().replace("[mqtt]", "[mqtt]\nhomeassistant = false"))
    with Edge("run", "--config", config):
        home.wait_for(lambda: not any(".hall_" in entity for entity in home.entities))


def test_the_install_button_installs_a_newer_model(
    config: Path, tmp_path: Path, bundle_path: Path, home: HomeAssistant
) -> None:
    """A new release is offered as an update, installed by the service call, and then shown as installed."""
    key, model = new_signing_key(), "update.hall_model"
    publish(tmp_path / "web", bundle_path, 2, key)
    with UpdateHTTPServer(tmp_path / "web") as web:
        update = (
            f'[update]\nurl = "{web.url}"\npublic_keys = ["{public_key(key)}"]\nautomatic = false\ninterval_h = 0.01\n'
        )
        config.write_text(config.read_text() + update)
        with Edge("run", "--config", config):
            home.wait_for_state(model, "on")
            offered = home.entities[model].attributes
            assert (offered["installed_version"], offered["latest_version"]) == ("1", "2")
            home.call("update.install", model)
            home.wait_for(lambda: home.entities[model].attributes.get("installed_version") == "2")
            home.wait_for_state(model, "off")
