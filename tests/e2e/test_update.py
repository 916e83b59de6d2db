"""Model updates of a running agent: no event is lost, and the new model stays installed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge.contract.signature import new_signing_key, public_key
from tests.e2e import hall
from tests.e2e.process import Edge
from tests.mosquitto import Listener, Mosquitto
from tests.update_server import UpdateHTTPServer, publish

SCHEMAS = Path(__file__).parents[2] / "docs" / "schema"
KEY = new_signing_key()

Payload = dict[str, Any]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[UpdateHTTPServer]:
    """A web server with nothing on it yet."""
    with UpdateHTTPServer(tmp_path / "web") as web:
        yield web


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, astronaut_path: Path, broker: Mosquitto, web: UpdateHTTPServer) -> Path:
    """A device that checks for updates, and whose camera sees faces come and go all the time."""
    pictures = hall.visitors(tmp_path, astronaut_path)
    camera = f'source = "{pictures}"\nfps = 20\nrealtime = true\nloop = true'
    update = f'[update]\nurl = "{web.url}"\npublic_keys = ["{public_key(KEY)}"]\n'
    more = hall.RESTLESS + update
    return hall.configure(tmp_path, bundle=bundle_path, port=broker.port, camera=camera, more=more)


def heard(listener: Listener, topic: str) -> list[Payload]:
    """The JSON payloads received on a topic of the device, in order."""
    return [json.loads(message.payload) for message in listener.on(f"emotion/hall/{topic}")]


def runs(listener: Listener, version: str, *, session: int) -> bool:
    """Whether info and events report this model version."""
    infos = [info["model"]["version"] for info in heard(listener, "info") if info["session"] == session]
    events = [event["model"]["version"] for event in heard(listener, "door/event") if event["session"] == session]
    return infos[-1:] == [version] and events[-1:] == [version]


def test_a_newer_model_is_installed_on_command_and_stays(
    config: Path, tmp_path: Path, bundle_path: Path, listener: Listener
) -> None:
    """The process stays the same; no event is missing, and every track has an end event."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: runs(listener, "1.0.0", session=hall.session(1)))
        publish(tmp_path / "web", bundle_path, 2, KEY)
        listener.publish("emotion/hall/cmd/update", '{"id": 7}')
        listener.wait_for(lambda: runs(listener, "2.0.0", session=hall.session(2)))
        listener.wait_for(lambda: heard(listener, "update")[-1]["session"] == hall.session(2))
        agent.stop(signal.SIGKILL)
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: runs(listener, "2.0.0", session=hall.session(3)))
        assert agent.stop() == 0, agent.output
    [answer] = heard(listener, "cmd/update/response")
    assert (answer["id"], answer["ok"]) == (7, True)
    _require_all(heard(listener, "door/event"))
    told = heard(listener, "update")
    for update in told:
        jsonschema.validate(update, json.loads((SCHEMAS / "update.json").read_text()))
    releases = [update["installed"]["release"] for update in told]
    assert (releases[0], releases[-1], releases) == (1, 2, sorted(releases))
    assert not told[-1]["installing"]


def test_a_model_of_a_stranger_changes_nothing(
    config: Path, tmp_path: Path, bundle_path: Path, listener: Listener
) -> None:
    """The error is on the update topic and in the log, and the agent keeps running."""
    publish(tmp_path / "web", bundle_path, 2, new_signing_key())
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: runs(listener, "1.0.0", session=hall.session(1)))
        listener.publish("emotion/hall/cmd/update", '{"id": 7}')
        listener.wait_for(lambda: heard(listener, "update")[-1]["error"])
        seen = len(heard(listener, "door/event"))
        listener.wait_for(lambda: len(heard(listener, "door/event")) > seen + 4)
        assert agent.stop() == 0, agent.output
    assert "is not signed with a trusted key" in heard(listener, "update")[-1]["error"]
    assert [line for line in agent.output if "model update failed" in line and "is not signed" in line]
    assert {info["session"] for info in heard(listener, "info")} == {hall.session(1)}


def test_a_model_that_kills_what_runs_it_does_not_kill_the_agent(
    config: Path, tmp_path: Path, bundle_path: Path, listener: Listener
) -> None:
    """The model is tested in a separate process; if that crashes, the agent reports it and keeps running."""
    (tmp_path / "sitecustomize.py").write_text(
        'import os, signal, sys\nif "edge.trial" in sys.orig_argv:\n    os.kill(os.getpid(), signal.SIGILL)\n'
    )
    publish(tmp_path / "web", bundle_path, 2, KEY)
    with Edge("run", "--config", config, environ={**os.environ, "PYTHONPATH": str(tmp_path)}) as agent:
        listener.wait_for(lambda: runs(listener, "1.0.0", session=hall.session(1)))
        listener.publish("emotion/hall/cmd/update", '{"id": 7}')
        listener.wait_for(lambda: "its process was killed by SIGILL" in str(heard(listener, "update")[-1]["error"]))
        seen = len(heard(listener, "door/event"))
        listener.wait_for(lambda: len(heard(listener, "door/event")) > seen + 4)
        assert agent.stop() == 0, agent.output
    assert {info["session"] for info in heard(listener, "info")} == {hall.session(1)}
    assert {event["model"]["version"] for event in heard(listener, "door/event")} == {"1.0.0"}


def _require_all(events: list[Payload]) -> None:
    """Asserts that all events of each session were received, and that all tracks of the first have ended."""
    for session in {event["session"] for event in events}:
        numbers = list(dict.fromkeys(event["seq"] for event in events if event["session"] == session))
        assert numbers == list(range(1, len(numbers) + 1))
    first = [(event["track_id"], event["event"]) for event in events if event["session"] == hall.session(1)]
    started, ended = ({track for track, kind in first if kind == what} for what in ("start", "end"))
    assert started
    assert started == ended
