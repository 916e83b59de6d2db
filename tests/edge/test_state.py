from __future__ import annotations

import fcntl
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge.errors import StateError
from edge.state import DeviceState, is_unused


@pytest.fixture
def generous_umask() -> Iterator[None]:
    """As a shell has it: what is made is everybody's to read unless it is made otherwise."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_the_device_remembers_who_it_is(tmp_path: Path) -> None:
    """The client id is made once, and the session grows with each start."""
    with DeviceState(tmp_path / "state") as state:
        first = state.client_id
        assert re.fullmatch(r"edge-[0-9a-f]{16}", first)
        number = state.session
    with DeviceState(tmp_path / "state") as state:
        assert state.client_id == first
        assert state.session > number
    with DeviceState(tmp_path / "other") as state:
        assert state.client_id != first


def test_a_folder_is_unused_until_the_first_start(tmp_path: Path) -> None:
    """Neither a damaged memory nor a path that leads through a file is taken for a device that never ran."""
    assert is_unused(tmp_path / "state")
    with DeviceState(tmp_path / "state"):
        assert not is_unused(tmp_path / "state")
    (tmp_path / "state" / "state.json").write_bytes(b"{")
    assert not is_unused(tmp_path / "state")
    assert not is_unused(tmp_path / "state" / "state.json")


@pytest.mark.parametrize("memory", ["lost", "put back"])
def test_no_number_of_a_session_comes_again(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events are told apart by it: a device with a new card, or an old image of its card, does not use them again."""
    folder = tmp_path / "state"
    with DeviceState(folder):
        pass
    shutil.copytree(folder, tmp_path / "image")
    for _ in range(3):
        with DeviceState(folder) as state:
            before = state.session
    shutil.rmtree(folder)
    if memory == "put back":
        shutil.move(tmp_path / "image", folder)
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 60)
    with DeviceState(folder) as state:
        assert state.session > before


def test_a_paused_camera_stays_paused(tmp_path: Path) -> None:
    """A pause outlives a restart, and ends when it is told to."""
    with DeviceState(tmp_path) as state:
        state.pause("door")
        state.pause("yard")
        state.resume("yard")
    with DeviceState(tmp_path) as state:
        assert state.paused == {"door"}


def test_a_frame_rate_stays_limited(tmp_path: Path) -> None:
    """A limit outlives a restart, and ends when it is lifted."""
    with DeviceState(tmp_path) as state:
        state.limit("door", 2.5)
        state.limit("yard", 1.0)
        state.limit("yard", None)
        state.limit("hall", None)
    with DeviceState(tmp_path) as state:
        assert state.rates == {"door": 2.5}


CONFIG = "homeassistant/device/x/config"


def test_what_is_left_on_the_broker_is_remembered_until_it_is_cleared(tmp_path: Path) -> None:
    """However often the agent starts before it reaches the broker, the topics of its old name are cleared then."""
    with DeviceState(tmp_path) as state:
        assert state.retain({CONFIG: {"door_fps": "sensor"}, "emotion/old/status": {}}) == []
    for _ in range(2):
        with DeviceState(tmp_path) as state:
            assert state.retain({"emotion/new/status": {}}) == [CONFIG, "emotion/old/status"]
    with DeviceState(tmp_path) as state:
        state.retain({"emotion/new/status": {}})
        for delivered in ("emotion/new/status", CONFIG, "emotion/new/door/event", "emotion/old/status"):
            state.delivered(delivered)
    with DeviceState(tmp_path) as state:
        assert state.retain({}) == ["emotion/new/status"]


def test_what_was_announced_is_remembered_until_that_is_taken_back(tmp_path: Path) -> None:
    """A camera that was removed is still known while Home Assistant may not have been told."""
    with DeviceState(tmp_path) as state:
        state.retain({CONFIG: {"door_fps": "sensor", "yard_fps": "sensor"}})
        state.delivered(CONFIG)
    with DeviceState(tmp_path) as state:
        state.retain({CONFIG: {"door_fps": "sensor"}})
    with DeviceState(tmp_path) as state:
        assert state.retained == {CONFIG: {"door_fps": "sensor", "yard_fps": "sensor"}}
        state.retain({CONFIG: {"door_fps": "sensor"}})
        state.delivered(CONFIG)
    with DeviceState(tmp_path) as state:
        assert state.retained == {CONFIG: {"door_fps": "sensor"}}


def test_no_pause_is_forgotten_for_another(tmp_path: Path) -> None:
    """Threads that remember something at the same time do not undo one another's."""
    cameras = [f"camera-{number}" for number in range(8)]
    with DeviceState(tmp_path) as state, ThreadPoolExecutor(len(cameras)) as pool:
        list(pool.map(state.pause, cameras))
        assert state.paused == set(cameras)


def test_a_file_of_a_newer_agent_is_left_alone(tmp_path: Path) -> None:
    """After a downgrade the device does not become another one: the start ends, and the error says what to do."""
    path = tmp_path / "state.json"
    content = '{"client_id": "edge-1", "session": {"count": 7}, "version": 99}'
    path.write_text(content)
    with pytest.raises(StateError, match=r"state\.json: a newer agent .* \(version 99; .*\)\. Install the newer agent"):
        DeviceState(tmp_path)
    assert path.read_text() == content


def test_what_a_newer_agent_has_added_is_passed_over(tmp_path: Path) -> None:
    """A key that this agent does not know costs the device neither its identity nor its count of sessions."""
    (tmp_path / "state.json").write_text('{"client_id": "edge-1", "session": 4000000000, "colour": "red"}')
    with DeviceState(tmp_path) as state:
        assert (state.client_id, state.session) == ("edge-1", 4_000_000_001)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"session": "many"}', b"\xff\xfe", b'{"colour": 1}'])
def test_a_damaged_file_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    """A file that a power cut or an editor broke does not stop the agent; it says what becomes of it."""
    (tmp_path / "state.json").write_bytes(content)
    with DeviceState(tmp_path) as state:
        assert state.client_id
    assert (tmp_path / "state.corrupt").read_bytes() == content
    assert any("the device gets a new client id" in record.message for record in caplog.records)


def test_two_agents_do_not_share_a_state_folder(tmp_path: Path) -> None:
    """A second agent started by mistake is refused, instead of pushing the first one off the broker for ever."""
    with DeviceState(tmp_path), pytest.raises(StateError, match="another agent is running with this state folder"):
        DeviceState(tmp_path)
    with DeviceState(tmp_path):
        pass


def test_an_agent_starts_while_somebody_asks_whether_one_is_running(tmp_path: Path) -> None:
    """`edge doctor` holds the lock for a moment; a service or a reload at that moment does not fail by it."""
    with DeviceState(tmp_path):
        pass
    asking = (tmp_path / "lock").open()
    fcntl.flock(asking, fcntl.LOCK_SH)
    asked = threading.Timer(0.3, asking.close)
    asked.start()
    with DeviceState(tmp_path) as state:
        assert state.client_id
    asked.join()


@pytest.mark.usefixtures("generous_umask")
def test_nobody_else_may_read_who_the_device_is(tmp_path: Path) -> None:
    """Who knows the client id can push the device off the broker, and take its place there."""
    with DeviceState(tmp_path / "deep" / "state") as state:
        state.pause("door")
        assert mode(tmp_path / "deep") == 0o755
        assert mode(tmp_path / "deep" / "state") == 0o700
        assert {mode(path) for path in (tmp_path / "deep" / "state").iterdir()} == {0o600}


@pytest.mark.usefixtures("generous_umask")
def test_the_rights_of_a_folder_that_is_there_are_left_alone(tmp_path: Path) -> None:
    """They are somebody's choice, be it systemd's; what is written into it is hidden all the same."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o750)
    with DeviceState(folder):
        assert mode(folder) == 0o750
        assert {mode(path) for path in folder.iterdir()} == {0o600}


def mode(path: Path) -> int:
    """Who may do what with a file or a folder."""
    return path.stat().st_mode & 0o777


def test_a_folder_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """The error names the folder and what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"file/state: the state folder cannot be used .* Make the state folder"):
        DeviceState(tmp_path / "file" / "state")


def test_a_failure_to_remember_does_not_stop_the_agent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pause holds for this run even if the disk does not take it."""
    with DeviceState(tmp_path / "state") as state:
        (tmp_path / "state").rename(tmp_path / "gone")
        state.pause("door")
        assert state.paused == {"door"}
        assert not (tmp_path / "state").exists()
    assert any("holds until the agent stops" in record.message for record in caplog.records)
