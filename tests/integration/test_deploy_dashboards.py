"""The examples in deploy/ for Home Assistant, Node-RED, Telegraf and Grafana, held against the published payloads."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import BaseModel

from edge.config.sections import PublishConfig
from edge.homeassistant import announce
from edge.payloads import CameraState, Event, Health
from edge.topics import Topics
from tests.mosquitto import PROGRAM, Mosquitto, free_port, wait_until
from tests.programs import need

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_dashboard_card_shows_entities_that_there_are() -> None:
    """Every entity on the card is one that the device `pi` with the camera `door` makes in Home Assistant."""
    announcement = announce(
        topics=Topics("emotion", "pi"),
        cameras=["door"],
        agent_version="1.0.0",
        state_expiry_s=60,
        health_expiry_s=180,
        announced={},
    )
    components = json.loads(announcement.messages[-1].payload)["components"].values()
    shown = re.findall(r"entity: (\S+)", (DEPLOY / "homeassistant/dashboard.yaml").read_text(encoding="utf-8"))
    assert shown
    assert set(shown) <= {component["default_entity_id"] for component in components}


# Node-RED


def flow() -> list[dict[str, Any]]:
    """The nodes of the example flow."""
    nodes: list[dict[str, Any]] = json.loads((DEPLOY / "nodered/flow.json").read_text(encoding="utf-8"))
    return nodes


def test_every_wire_leads_to_a_node() -> None:
    """The flow imports whole: no node is named that is not there."""
    ids = {node["id"] for node in flow()}
    named = {node[key] for node in flow() for key in ("z", "broker", "tls") if key in node and "wires" in node}
    named |= {target for node in flow() for wires in node.get("wires", []) for target in wires}
    named |= {node["tls"] for node in flow() if "tls" in node}
    assert named <= ids


def test_node_red_runs_the_flow(tmp_path: Path) -> None:
    """Node-RED shows a new emotion in words, and leaves out the end of one."""
    node_red = shutil.which("node-red")
    if node_red is None or PROGRAM is None:
        pytest.skip("node-red (npm install --global node-red) or mosquitto is not installed")
    with Mosquitto(tmp_path) as broker:
        here = {"broker": "127.0.0.1", "port": str(broker.port), "usetls": False}
        nodes = [{**node, **here} if node["type"] == "mqtt-broker" else node for node in flow()]
        (tmp_path / "flows.json").write_text(json.dumps(nodes), encoding="utf-8")
        publish(broker.port, "status", "offline", "--retain")
        command = [node_red, "--userDir", str(tmp_path), "--port", str(free_port()), "flows.json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as started:
            assert started.stdout is not None
            try:
                shown = "".join(watch(started.stdout, broker.port))
            finally:
                started.terminate()
    assert "pi/door: face 2 is sad" in shown
    assert "face 1" not in shown


def watch(lines: Iterable[str], port: int) -> Iterator[str]:
    """Node-RED's log until it shows the second of two events, which are sent once it has shown the retained status."""
    common = {"device": "pi", "camera": "door", "historical": False, "confidence": 0.9}
    for line in lines:
        yield line
        if "offline: emotion/pi/status" in line:
            publish(port, "door/event", json.dumps({**common, "event": "end", "track_id": 1, "emotion": "happy"}))
            publish(port, "door/event", json.dumps({**common, "event": "start", "track_id": 2, "emotion": "sad"}))
        if "face 2" in line:
            return


def publish(port: int, topic: str, payload: str, *options: str) -> None:
    """Publishes what a device called `pi` would."""
    command = ["mosquitto_pub", "-p", str(port), "-q", "1", "-t", f"emotion/pi/{topic}", "-m", payload, *options]
    subprocess.run(command, check=True)


# Telegraf and Grafana

MEASURED: dict[str, type[BaseModel]] = {"emotion_state": CameraState, "emotion_event": Event, "emotion_health": Health}


def telegraf() -> dict[str, Any]:
    """The Telegraf configuration."""
    return tomllib.loads((DEPLOY / "telegraf/telegraf.conf").read_text(encoding="utf-8"))


def telegraf_input(measurement: str) -> dict[str, Any]:
    """The part of the Telegraf configuration that makes a measurement."""
    [found] = [entry for entry in telegraf()["inputs"]["mqtt_consumer"] if entry["name_override"] == measurement]
    return dict(found)


def panels() -> list[dict[str, Any]]:
    """The panels of the Grafana dashboard."""
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana/dashboard.json").read_text(encoding="utf-8"))["panels"]
    return found


def flattened(model: type[BaseModel], prefix: str = "") -> set[str]:
    """The names that Telegraf's JSON parser gives to a payload's fields; `*` stands for a key of a map."""
    names: set[str] = set()
    for name, field in model.model_fields.items():
        parts = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)
        star = "*_" if getattr(field.annotation, "__origin__", None) is dict else ""
        names |= flattened(inner, f"{prefix}{name}_{star}") if inner else {prefix + name}
    return names


def stored(measurement: str) -> set[str]:
    """The fields of a measurement in the database."""
    asked = telegraf_input(measurement)
    published = flattened(MEASURED[measurement])
    return matching(published, asked["fieldinclude"]) - matching(published, asked.get("fieldexclude", []))


def matching(names: set[str], patterns: list[str]) -> set[str]:
    """The names that match one of Telegraf's patterns."""
    return {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}


@pytest.mark.parametrize("measurement", MEASURED)
def test_telegraf_asks_for_what_is_published(measurement: str) -> None:
    """Every field and tag that Telegraf takes out of a message is in the messages."""
    asked = telegraf_input(measurement)
    keys = ("fieldinclude", "fieldexclude", "tag_keys", "json_string_fields")
    published = flattened(MEASURED[measurement])
    assert [pattern for key in keys for pattern in asked.get(key, []) if not matching(published, [pattern])] == []


def test_telegraf_keeps_events_of_the_same_moment_apart() -> None:
    """Two faces that begin to smile in the same picture leave two points, and an event that comes twice leaves one."""
    [processor] = telegraf()["processors"]["starlark"]
    assert processor["namepass"] == ["emotion_event"]
    assert "seq" in stored("emotion_event")
    program: dict[str, Any] = {}
    exec(processor["source"], program)  # noqa: S102 - Starlark is written like Python
    taken_ns = 1_790_000_000_123_000_000

    def time_of(seq: int) -> int:
        # Telegraf's JSON parser makes floats of all numbers.
        event = SimpleNamespace(time=taken_ns, fields={"seq": float(seq)})
        return int(program["apply"](event).time)

    assert len({time_of(seq) for seq in (17, 18, 18, 999_999, 1_000_000)}) == 4
    assert {time_of(seq) // 1_000_000 for seq in (1, 999_999, 12_345_678)} == {taken_ns // 1_000_000}


def test_grafana_shows_what_telegraf_stores() -> None:
    """Every panel asks for a measurement that is in the database, and for one field of it."""
    queries = [target["query"] for panel in panels() for target in panel["targets"]]
    assert len(queries) >= len(MEASURED)
    for query in queries:
        found = re.match(r'SELECT (?:\w+\()+(?:"(\w+)"|/(\S+)/)\)(?:, \d\))? FROM "(\w+)"', query)
        assert found, query
        name, pattern, measurement = found.groups()
        assert len([field for field in stored(measurement) if re.search(pattern or f"^{name}$", field)]) == 1, query


@pytest.fixture
def influxdb(tmp_path: Path) -> Iterator[int]:
    """The port of a real InfluxDB with an empty database `emotion`; Debian's 1.x speaks InfluxQL as 2.x does."""
    http, rpc = free_port(), free_port()
    folders = f'[meta]\ndir = "{tmp_path}/meta"\n[data]\ndir = "{tmp_path}/data"\nwal-dir = "{tmp_path}/wal"\n'
    config = tmp_path / "influxdb.conf"
    config.write_text(
        f'reporting-disabled = true\nbind-address = "127.0.0.1:{rpc}"\n{folders}'
        f'[http]\nbind-address = "127.0.0.1:{http}"\n[monitor]\nstore-enabled = false\n'
    )
    command = [need("influxd", "influxdb"), "-config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: makes_database(http))
            yield http
        finally:
            server.terminate()


def makes_database(port: int) -> bool:
    """Whether InfluxDB is there yet, and so has made the database."""
    with contextlib.suppress(OSError):
        post(port, "query", {"q": "CREATE DATABASE emotion"})
        return True
    return False


def post(port: int, path: str, parameters: dict[str, str], body: str = "") -> str:
    """What InfluxDB says to a request."""
    with contextlib.closing(HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", f"/{path}?{urlencode(parameters)}", body.encode())
        response = connection.getresponse()
        answer = response.read().decode()
        assert response.status < 400, answer
        return answer


def point(measurement: str) -> str:
    """What Telegraf stores of one message, in the line protocol."""
    tags = {"device": "pi", "camera": "door", "event": "start", "emotion": "happy", "time_synced": "true"}
    asked = telegraf_input(measurement)
    used = [*asked.get("tag_keys", []), *asked["topic_parsing"][0]["tags"].split("/")]
    texts = asked.get("json_string_fields", [])
    fields = [f'{name}="happy"' if name in texts else f"{name}=1" for name in stored(measurement) - set(used)]
    tagged = ",".join([measurement, *(f"{tag}={value}" for tag, value in tags.items() if tag in used)])
    return f"{tagged} {','.join(fields).replace('*', 'door')}"


def test_the_database_answers_every_panel(influxdb: int) -> None:
    """Each panel of the dashboard has something to show of what Telegraf stores."""
    post(influxdb, "write", {"db": "emotion"}, "\n".join(point(measurement) for measurement in MEASURED))
    for panel in panels():
        for target in panel["targets"]:
            query = target["query"].replace("$timeFilter", "time > now() - 5m").replace("$__interval", "1m")
            answer = json.loads(post(influxdb, "query", {"db": "emotion", "q": query.replace("$device", "(pi|hall)")}))
            [result] = answer["results"]
            assert "series" in result, (panel["title"], query, result)


def test_a_device_is_online_while_its_reports_come() -> None:
    """Two intervals hold more than one report at the default pace, and none is shown as offline."""
    [panel] = [panel for panel in panels() if panel["title"] == "Devices online"]
    [target] = panel["targets"]
    assert 'moving_average(count("uptime_s"), 2)' in target["query"]
    assert target["query"].endswith('GROUP BY time($__interval), "device" fill(0)')
    assert int(panel["interval"].removesuffix("m")) * 60 > PublishConfig().health_interval_s
    none, some = panel["fieldConfig"]["defaults"]["mappings"]
    assert none["options"]["0"]["text"] == "offline"
    assert (some["options"]["from"], some["options"]["result"]["text"]) == (1 / 2, "online")
