from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge.errors import StateError
from edge.state import DeviceState


def test_the_device_remembers_who_it_is(tmp_path: Path) -> None:
    """The client id is made once, and the session counts the starts."""
    with DeviceState(tmp_path / "state") as state:
        first = state.client_id
        assert re.fullmatch(r"edge-[0-9a-f]{16}", first)
        assert state.session == 1
    with DeviceState(tmp_path / "state") as state:
        assert (state.client_id, state.session) == (first, 2)
    with DeviceState(tmp_path / "other") as state:
        assert state.client_id != first


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


def test_what_was_announced_is_remembered(tmp_path: Path) -> None:
    """A camera that is removed later can be cleared from Home Assistant."""
    announced = {"homeassistant/device/x/config": {"door_fps": "sensor"}}
    with DeviceState(tmp_path) as state:
        state.announce(announced)
    with DeviceState(tmp_path) as state:
        assert state.announced == announced


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"session": "many"}', b"\xff\xfe", b'{"colour": 1}'])
def test_a_damaged_file_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    """A file that a power cut or an editor broke does not stop the agent; it says what becomes of it."""
    (tmp_path / "state.json").write_bytes(content)
    with DeviceState(tmp_path) as state:
        assert state.session == 1
    assert (tmp_path / "state.corrupt").read_bytes() == content
    assert any("the device gets a new client id" in record.message for record in caplog.records)


def test_two_agents_do_not_share_a_state_folder(tmp_path: Path) -> None:
    """A second agent started by mistake is refused, instead of pushing the first one off the broker for ever."""
    with DeviceState(tmp_path), pytest.raises(StateError, match="another agent is running with this state folder"):
        DeviceState(tmp_path)
    with DeviceState(tmp_path):
        pass


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
