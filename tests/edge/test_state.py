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
def permissive_umask() -> Iterator[None]:
    """A typical umask: new files are world-readable unless created with another mode."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_the_client_id_is_kept_and_the_session_grows(tmp_path: Path) -> None:
    """The client id is generated once, and the session number grows with each start."""
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
    """Neither a damaged state file nor a path through a file counts as unused."""
    assert is_unused(tmp_path / "state")
    with DeviceState(tmp_path / "state"):
        assert not is_unused(tmp_path / "state")
    (tmp_path / "state" / "state.json").write_bytes(b"{")
    assert not is_unused(tmp_path / "state")
    assert not is_unused(tmp_path / "state" / "state.json")


@pytest.mark.parametrize("state_file", ["lost", "restored"])
def test_no_session_number_is_reused(state_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Session numbers identify events, so a new SD card or an old image of one must not repeat them."""
    folder = tmp_path / "state"
    with DeviceState(folder):
        pass
    shutil.copytree(folder, tmp_path / "image")
    for _ in range(3):
        with DeviceState(folder) as state:
            before = state.session
    shutil.rmtree(folder)
    if state_file == "restored":
        shutil.move(tmp_path / "image", folder)
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 60)
    with DeviceState(folder) as state:
        assert state.session > before


def test_a_paused_camera_stays_paused(tmp_path: Path) -> None:
    """A pause survives a restart until the camera is resumed."""
    with DeviceState(tmp_path) as state:
        state.pause("door")
        state.pause("yard")
        state.resume("yard")
    with DeviceState(tmp_path) as state:
        assert state.paused == {"door"}


def test_a_frame_rate_stays_limited(tmp_path: Path) -> None:
    """A limit survives a restart until it is lifted."""
    with DeviceState(tmp_path) as state:
        state.limit("door", 2.5)
        state.limit("yard", 1.0)
        state.limit("yard", None)
        state.limit("hall", None)
    with DeviceState(tmp_path) as state:
        assert state.rates == {"door": 2.5}


CONFIG = "homeassistant/device/x/config"


def test_retained_topics_are_stored_until_they_are_cleared(tmp_path: Path) -> None:
    """The topics of an old name are cleared even if the agent restarts before it reaches the broker."""
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


def test_announced_components_are_stored_until_they_are_removed(tmp_path: Path) -> None:
    """A removed camera is kept until the broker has acknowledged the new announcement."""
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


def test_concurrent_changes_are_all_stored(tmp_path: Path) -> None:
    """Threads that change the state at the same time do not overwrite each other's changes."""
    cameras = [f"camera-{number}" for number in range(8)]
    with DeviceState(tmp_path) as state, ThreadPoolExecutor(len(cameras)) as pool:
        list(pool.map(state.pause, cameras))
        assert state.paused == set(cameras)


def test_a_file_of_a_newer_agent_is_not_changed(tmp_path: Path) -> None:
    """After a downgrade the device keeps its identity: the start fails with an error that names the remedy."""
    path = tmp_path / "state.json"
    content = '{"client_id": "edge-1", "session": {"count": 7}, "version": 99}'
    path.write_text(content)
    with pytest.raises(
        StateError, match=r"state\.json: was written by a newer agent \(version 99; .*\)\. Install the newer agent"
    ):
        DeviceState(tmp_path)
    assert path.read_text() == content


def test_keys_added_by_a_newer_agent_are_ignored(tmp_path: Path) -> None:
    """An unknown key affects neither the client id nor the session number."""
    (tmp_path / "state.json").write_text('{"client_id": "edge-1", "session": 4000000000, "colour": "red"}')
    with DeviceState(tmp_path) as state:
        assert (state.client_id, state.session) == ("edge-1", 4_000_000_001)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"session": "many"}', b"\xff\xfe", b'{"colour": 1}'])
def test_a_damaged_file_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    """A file damaged by a power failure or an editor does not stop the agent; the consequences are logged."""
    (tmp_path / "state.json").write_bytes(content)
    with DeviceState(tmp_path) as state:
        assert state.client_id
    assert (tmp_path / "state.corrupt").read_bytes() == content
    assert any("the device gets a new client id" in record.message for record in caplog.records)


def test_two_agents_do_not_share_a_state_folder(tmp_path: Path) -> None:
    """A second agent started by mistake fails, instead of disconnecting the first one from the broker forever."""
    with DeviceState(tmp_path), pytest.raises(StateError, match="another agent is running with this state folder"):
        DeviceState(tmp_path)
    with DeviceState(tmp_path):
        pass


def test_an_agent_starts_while_a_check_holds_the_lock(tmp_path: Path) -> None:
    """`edge doctor` holds the lock for a moment, which must not make a start or a reload fail."""
    with DeviceState(tmp_path):
        pass
    reader = (tmp_path / "lock").open()
    fcntl.flock(reader, fcntl.LOCK_SH)
    release = threading.Timer(0.3, reader.close)
    release.start()
    with DeviceState(tmp_path) as state:
        assert state.client_id
    release.join()


@pytest.mark.usefixtures("permissive_umask")
def test_the_state_is_not_readable_by_others(tmp_path: Path) -> None:
    """Whoever knows the client id can disconnect the device from the broker and impersonate it."""
    with DeviceState(tmp_path / "deep" / "state") as state:
        state.pause("door")
        assert mode(tmp_path / "deep") == 0o755
        assert mode(tmp_path / "deep" / "state") == 0o700
        assert {mode(path) for path in (tmp_path / "deep" / "state").iterdir()} == {0o600}


@pytest.mark.usefixtures("permissive_umask")
def test_the_permissions_of_an_existing_folder_are_kept(tmp_path: Path) -> None:
    """The user or systemd chose the mode of the folder; the files in it are private nevertheless."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o750)
    with DeviceState(folder):
        assert mode(folder) == 0o750
        assert {mode(path) for path in folder.iterdir()} == {0o600}


def mode(path: Path) -> int:
    """Returns the permission bits of a file or folder."""
    return path.stat().st_mode & 0o777


def test_a_folder_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    """The error names the folder and the remedy."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"file/state: the state folder cannot be used .* Make the state folder"):
        DeviceState(tmp_path / "file" / "state")


def test_a_failed_write_does_not_stop_the_agent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A pause applies until the agent stops even if it cannot be stored."""
    with DeviceState(tmp_path / "state") as state:
        (tmp_path / "state").rename(tmp_path / "gone")
        state.pause("door")
        assert state.paused == {"door"}
        assert not (tmp_path / "state").exists()
    assert any("is lost when the agent stops" in record.message for record in caplog.records)
