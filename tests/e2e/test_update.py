"""Model updates of a running agent: no event is lost, and the new model persists across restarts."""

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
    """An update server without a release."""
    with UpdateHTTPServer(tmp_path / "web") as web:
        yield web


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, astronaut_path: Path, broker: Mosquitto, web: UpdateHTTPServer) -> Path:
    """A device that checks for updates, and whose camera repeatedly sees a face appear and disappear."""
    images = hall.create_images(tmp_path, astronaut_path)
    camera = f'source = "{images}"\nfps = 20\nrealtime = true\nloop = true'
    update = f'[update]\nurl = "{web.url}"\npublic_keys = ["{public_key(KEY)}"]\n'
    more = hall.IMMEDIATE_EVENTS + update
    return hall.configure(tmp_path, bundle=bundle_path, port=broker.port, camera=camera, more=more)


def payloads(listener: Listener, topic: str) -> list[Payload]:
    """Returns the JSON payloads received on a topic of the device, in order."""
    return [json.loads(message.payload) for message in listener.on(f"emotion/hall/{topic}")]


def uses_model(listener: Listener, version: str, *, session: int) -> bool:
    """Whether the newest info and event of a session report this model version."""
    infos = [info["model"]["version"] for info in payloads(listener, "info") if info["session"] == session]
    events = [event["model"]["version"] for event in payloads(listener, "door/event") if event["session"] == session]
    return infos[-1:] == [version] and events[-1:] == [version]


def test_a_newer_model_is_installed_on_command_and_persists(
    config: Path, tmp_path: Path, bundle_path: Path, listener: Listener
) -> None:
    """The model is loaded without a process restart or a lost event, and is used again after a restart."""
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: uses_model(listener, "1.0.0", session=hall.session(1)))
        publish(tmp_path / "web", bundle_path, 2, KEY)
        listener.publish("emotion/hall/cmd/update", '{"id": 7}')
        listener.wait_for(lambda: uses_model(listener, "2.0.0", session=hall.session(2)))
        listener.wait_for(lambda: payloads(listener, "update")[-1]["session"] == hall.session(2))
        agent.stop(signal.SIGKILL)
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: uses_model(listener, "2.0.0", session=hall.session(3)))
        assert agent.stop() == 0, agent.output
    [response] = payloads(listener, "cmd/update/response")
    assert (response["id"], response["ok"]) == (7, True)
    _require_complete(payloads(listener, "door/event"))
    updates = payloads(listener, "update")
    for update in updates:
        jsonschema.validate(update, json.loads((SCHEMAS / "update.json").read_text()))
    releases = [update["installed"]["release"] for update in updates]
    assert (releases[0], releases[-1], releases) == (1, 2, sorted(releases))
    assert not updates[-1]["installing"]


def test_a_model_with_an_untrusted_signature_is_rejected(
    config: Path, tmp_path: Path, bundle_path: Path, listener: Listener
) -> None:
    """The error is reported on the update topic and in the log, and the agent keeps running."""
    publish(tmp_path / "web", bundle_path, 2, new_signing_key())
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: uses_model(listener, "1.0.0", session=hall.session(1)))
        listener.publish("emotion/hall/cmd/update", '{"id": 7}')
        listener.wait_for(lambda: payloads(listener, "update")[-1]["error"])
        received = len(payloads(listener, "door/event"))
        listener.wait_for(lambda: len(payloads(listener, "door/event")) > received + 4)
        assert agent.stop() == 0, agent.output
    assert "is not signed with a trusted key" in payloads(listener, "update")[-1]["error"]
    assert [line for line in agent.output if "model update failed" in line and "is not signed" in line]
    assert {info["session"] for info in payloads(listener, "info")} == {hall.session(1)}


def test_a_model_that_crashes_its_trial_process_is_rejected(
    config: Path, tmp_path: Path, bundle_path: Path, listener: Listener
) -> None:
    """If the separate process that tests a model crashes, the agent reports it and keeps its model."""
    (tmp_path / "sitecustomize.py").write_text(
        'import os, signal, sys\nif "edge.trial" in sys.orig_argv:\n    os.kill(os.getpid(), signal.SIGILL)\n'
    )
    publish(tmp_path / "web", bundle_path, 2, KEY)
    with Edge("run", "--config", config, environ={**os.environ, "PYTHONPATH": str(tmp_path)}) as agent:
        listener.wait_for(lambda: uses_model(listener, "1.0.0", session=hall.session(1)))
        listener.publish("emotion/hall/cmd/update", '{"id": 7}')
        listener.wait_for(lambda: "its process was killed by SIGILL" in str(payloads(listener, "update")[-1]["error"]))
        received = len(payloads(listener, "door/event"))
        listener.wait_for(lambda: len(payloads(listener, "door/event")) > received + 4)
        assert agent.stop() == 0, agent.output
    assert {info["session"] for info in payloads(listener, "info")} == {hall.session(1)}
    assert {event["model"]["version"] for event in payloads(listener, "door/event")} == {"1.0.0"}


def _require_complete(events: list[Payload]) -> None:
    """Asserts that all events of each session were received, and that all tracks of the first have ended."""
    for session in {event["session"] for event in events}:
        numbers = list(dict.fromkeys(event["seq"] for event in events if event["session"] == session))
        assert numbers == list(range(1, len(numbers) + 1))
    first = [(event["track_id"], event["event"]) for event in events if event["session"] == hall.session(1)]
    started, ended = ({track for track, kind in first if kind == what} for what in ("start", "end"))
    assert started
    assert started == ended
