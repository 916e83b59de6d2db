"""The examples in deploy/ for Home Assistant, Node-RED, Telegraf and Grafana match the published payloads."""

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
from tests.programs import require_program

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_dashboard_card_shows_existing_entities() -> None:
    """Discovery of the device `pi` with the camera `door` creates every entity on the card."""
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
    """Returns the nodes of the example flow."""
    nodes: list[dict[str, Any]] = json.loads((DEPLOY / "nodered/flow.json").read_text(encoding="utf-8"))
    return nodes


def test_every_reference_in_the_flow_is_to_a_node() -> None:
    """Wires, tabs, brokers and TLS configurations refer to nodes of the flow, so that its import is complete."""
    ids = {node["id"] for node in flow()}
    referenced = {node[key] for node in flow() for key in ("z", "broker", "tls") if key in node and "wires" in node}
    referenced |= {target for node in flow() for wires in node.get("wires", []) for target in wires}
    referenced |= {node["tls"] for node in flow() if "tls" in node}
    assert referenced <= ids


def test_node_red_runs_the_flow(tmp_path: Path) -> None:
    """Node-RED shows the message for the start of an emotion, and filters out the end of one."""
    node_red = shutil.which("node-red")
    if node_red is None or PROGRAM is None:
        pytest.skip("node-red (npm install --global node-red) or mosquitto is not installed")
    with Mosquitto(tmp_path) as broker:
        connection = {"broker": "127.0.0.1", "port": str(broker.port), "usetls": False}
        nodes = [{**node, **connection} if node["type"] == "mqtt-broker" else node for node in flow()]
        (tmp_path / "flows.json").write_text(json.dumps(nodes), encoding="utf-8")
        publish(broker.port, "status", "offline", "--retain")
        command = [node_red, "--userDir", str(tmp_path), "--port", str(free_port()), "flows.json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            try:
                shown = "".join(publish_events_and_follow(process.stdout, broker.port))
            finally:
                process.terminate()
    assert "pi/door: face 2 is sad" in shown
    assert "face 1" not in shown


def publish_events_and_follow(lines: Iterable[str], port: int) -> Iterator[str]:
    """Yields Node-RED's log until it shows the second of two events.

    The events are published as soon as the log shows the retained status, so the flow is subscribed by then.
    """
    common = {"device": "pi", "camera": "door", "historical": False, "confidence": 0.9}
    for line in lines:
        yield line
        if "offline: emotion/pi/status" in line:
            publish(port, "door/event", json.dumps({**common, "event": "end", "track_id": 1, "emotion": "happy"}))
            publish(port, "door/event", json.dumps({**common, "event": "start", "track_id": 2, "emotion": "sad"}))
        if "face 2" in line:
            return


def publish(port: int, topic: str, payload: str, *options: str) -> None:
    """Publishes a message of the device `pi`."""
    command = ["mosquitto_pub", "-p", str(port), "-q", "1", "-t", f"emotion/pi/{topic}", "-m", payload, *options]
    subprocess.run(command, check=True)


# Telegraf and Grafana

PAYLOADS: dict[str, type[BaseModel]] = {"emotion_state": CameraState, "emotion_event": Event, "emotion_health": Health}
"""The payload from which Telegraf creates each measurement."""


def telegraf() -> dict[str, Any]:
    """Returns the Telegraf configuration."""
    return tomllib.loads((DEPLOY / "telegraf/telegraf.conf").read_text(encoding="utf-8"))


def telegraf_input(measurement: str) -> dict[str, Any]:
    """Returns the input in the Telegraf configuration that creates a measurement."""
    [found] = [entry for entry in telegraf()["inputs"]["mqtt_consumer"] if entry["name_override"] == measurement]
    return dict(found)


def panels() -> list[dict[str, Any]]:
    """Returns the panels of the Grafana dashboard."""
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana/dashboard.json").read_text(encoding="utf-8"))["panels"]
    return found


def flattened(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Returns the names that Telegraf's JSON parser gives to the fields of a payload; `*` stands for a key of a map."""
    names: set[str] = set()
    for name, field in model.model_fields.items():
        parts = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)
        key = "*_" if getattr(field.annotation, "__origin__", None) is dict else ""
        names |= flattened(inner, f"{prefix}{name}_{key}") if inner else {prefix + name}
    return names


def stored_fields(measurement: str) -> set[str]:
    """Returns the fields of a measurement in the database."""
    source = telegraf_input(measurement)
    published = flattened(PAYLOADS[measurement])
    return matching_names(published, source["fieldinclude"]) - matching_names(published, source.get("fieldexclude", []))


def matching_names(names: set[str], patterns: list[str]) -> set[str]:
    """Returns the names that match at least one of Telegraf's glob patterns."""
    return {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}


@pytest.mark.parametrize("measurement", PAYLOADS)
def test_telegraf_reads_published_fields(measurement: str) -> None:
    """Every field and tag in the Telegraf configuration is a field of the payload."""
    source = telegraf_input(measurement)
    keys = ("fieldinclude", "fieldexclude", "tag_keys", "json_string_fields")
    published = flattened(PAYLOADS[measurement])
    assert [
        pattern for key in keys for pattern in source.get(key, []) if not matching_names(published, [pattern])
    ] == []


def test_telegraf_stores_simultaneous_events_as_separate_points() -> None:
    """Two faces that begin to smile in the same frame are two points; an event that is received twice is one."""
    [processor] = telegraf()["processors"]["starlark"]
    assert processor["namepass"] == ["emotion_event"]
    assert "seq" in stored_fields("emotion_event")
    program: dict[str, Any] = {}
    exec(processor["source"], program)  # noqa: S102 - this Starlark program is valid Python
    time_ns = 1_790_000_000_123_000_000

    def time_of(seq: int) -> int:
        # Telegraf's JSON parser converts all numbers to floats.
        event = SimpleNamespace(time=time_ns, fields={"seq": float(seq)})
        return int(program["apply"](event).time)

    assert len({time_of(seq) for seq in (17, 18, 18, 999_999, 1_000_000)}) == 4
    assert {time_of(seq) // 1_000_000 for seq in (1, 999_999, 12_345_678)} == {time_ns // 1_000_000}


def test_grafana_queries_stored_fields() -> None:
    """Every panel queries exactly one stored field of a measurement."""
    queries = [target["query"] for panel in panels() for target in panel["targets"]]
    assert len(queries) >= len(PAYLOADS)
    for query in queries:
        found = re.match(r'SELECT (?:\w+\()+(?:"(\w+)"|/(\S+)/)\)(?:, \d\))? FROM "(\w+)"', query)
        assert found, query
        name, pattern, measurement = found.groups()
        assert len([field for field in stored_fields(measurement) if re.search(pattern or f"^{name}$", field)]) == 1, (
            query
        )


@pytest.fixture
def influxdb(tmp_path: Path) -> Iterator[int]:
    """The port of a real InfluxDB with an empty database `emotion`; Debian's 1.x supports InfluxQL as 2.x does."""
    http, rpc = free_port(), free_port()
    folders = f'[meta]\ndir = "{tmp_path}/meta"\n[data]\ndir = "{tmp_path}/data"\nwal-dir = "{tmp_path}/wal"\n'
    config = tmp_path / "influxdb.conf"
    config.write_text(
        f'reporting-disabled = true\nbind-address = "127.0.0.1:{rpc}"\n{folders}'
        f'[http]\nbind-address = "127.0.0.1:{http}"\n[monitor]\nstore-enabled = false\n'
    )
    command = [require_program("influxd", "influxdb"), "-config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(lambda: create_database(http))
            yield http
        finally:
            server.terminate()


def create_database(port: int) -> bool:
    """Creates the database. Returns False if InfluxDB does not accept connections yet."""
    with contextlib.suppress(OSError):
        post(port, "query", {"q": "CREATE DATABASE emotion"})
        return True
    return False


def post(port: int, path: str, parameters: dict[str, str], body: str = "") -> str:
    """Sends a request to InfluxDB and returns the body of the response."""
    with contextlib.closing(HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", f"/{path}?{urlencode(parameters)}", body.encode())
        response = connection.getresponse()
        content = response.read().decode()
        assert response.status < 400, content
        return content


def point(measurement: str) -> str:
    """Returns the point that Telegraf stores for one message, in line protocol."""
    tags = {"device": "pi", "camera": "door", "event": "start", "emotion": "happy", "time_synced": "true"}
    source = telegraf_input(measurement)
    used = [*source.get("tag_keys", []), *source["topic_parsing"][0]["tags"].split("/")]
    strings = source.get("json_string_fields", [])
    fields = [f'{name}="happy"' if name in strings else f"{name}=1" for name in stored_fields(measurement) - set(used)]
    series = ",".join([measurement, *(f"{tag}={value}" for tag, value in tags.items() if tag in used)])
    return f"{series} {','.join(fields).replace('*', 'door')}"


def test_every_panel_has_data(influxdb: int) -> None:
    """With one stored point of each measurement, every query of the dashboard returns a series."""
    post(influxdb, "write", {"db": "emotion"}, "\n".join(point(measurement) for measurement in PAYLOADS))
    for panel in panels():
        for target in panel["targets"]:
            query = target["query"].replace("$timeFilter", "time > now() - 5m").replace("$__interval", "1m")
            response = json.loads(
                post(influxdb, "query", {"db": "emotion", "q": query.replace("$device", "(pi|hall)")})
            )
            [result] = response["results"]
            assert "series" in result, (panel["title"], query, result)


def test_a_device_is_online_while_its_health_reports_arrive() -> None:
    """The panel averages two intervals, each longer than the default health interval; 0 is shown as offline."""
    [panel] = [panel for panel in panels() if panel["title"] == "Devices online"]
    [target] = panel["targets"]
    assert 'moving_average(count("uptime_s"), 2)' in target["query"]
    assert target["query"].endswith('GROUP BY time($__interval), "device" fill(0)')
    assert int(panel["interval"].removesuffix("m")) * 60 > PublishConfig().health_interval_s
    offline, online = panel["fieldConfig"]["defaults"]["mappings"]
    assert offline["options"]["0"]["text"] == "offline"
    assert (online["options"]["from"], online["options"]["result"]["text"]) == (1 / 2, "online")
