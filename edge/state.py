"""State that persists across restarts: client id, session number, pauses, and topics retained on the broker."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Final, Self

from pydantic import BaseModel, ConfigDict, PositiveFloat, ValidationError

from edge.client_id import new_client_id
from edge.disk import PRIVATE_FILE, PRIVATE_FOLDER, REMEDY, flush_folder
from edge.errors import StateError

log = logging.getLogger(__name__)

STATE_FILE: Final = "state.json"
_LOCK_FILE = "lock"
_LOCK_TIMEOUT_S = 1.0
"""`in_use` holds the lock for a moment."""
_VERSION = 1


def known_client_id(folder: Path) -> str | None:
    """Returns the client id in a state folder; None if no agent has used it yet or the file is not readable."""
    try:
        return _StoredState.model_validate_json((folder / STATE_FILE).read_bytes()).client_id
    except (OSError, ValidationError):
        return None


def is_unused(folder: Path) -> bool:
    """Returns whether no agent has used a state folder yet; False if that cannot be determined."""
    try:
        (folder / STATE_FILE).stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def in_use(folder: Path) -> bool:
    """Returns whether an agent is running with a state folder; False if that cannot be determined."""
    try:
        with (folder / _LOCK_FILE).open() as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class _Versioned(BaseModel):
    """The fields of the file in every version. Keys added by newer agents are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = _VERSION


class _StoredState(_Versioned):
    """The content of the file."""

    client_id: str
    session: int = 0
    paused: frozenset[str] = frozenset()
    rates: dict[str, PositiveFloat] = {}
    retained: dict[str, dict[str, str]] = {}


class DeviceState:
    """The persistent state of a device, a JSON file that is replaced atomically. Thread-safe; a context manager.

    Opening it starts a new session and locks the folder, so that two agents never share a client id. A damaged file is
    moved aside, and the device gets a new client id.

    Args:
        folder: The state folder; created if missing.

    Raises:
        StateError: The folder is not writable, another agent uses it, or a newer version wrote the file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE_FILE
        self._change_lock = threading.Lock()
        self._wanted: Mapping[str, Mapping[str, str]] = {}
        try:
            folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            with contextlib.ExitStack() as on_error:
                self._lock_file = on_error.enter_context(_lock(folder / _LOCK_FILE))
                stored = _load(self._path)
                self._stored = stored.model_copy(update={"session": max(stored.session + 1, int(time.time()))})
                _save(self._path, self._stored)
                on_error.pop_all()
        except OSError as error:
            raise StateError(
                f"the state folder cannot be used ({error.strerror})", where=folder, remedy=REMEDY
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._lock_file.close()

    @property
    def client_id(self) -> str:
        """The MQTT client id, generated at random once."""
        return self._stored.client_id

    @property
    def session(self) -> int:
        """Number of this session: Unix seconds at its start, or the previous number plus one if the clock is behind."""
        return self._stored.session

    @property
    def paused(self) -> frozenset[str]:
        """The paused cameras."""
        return self._stored.paused

    @property
    def rates(self) -> Mapping[str, float]:
        """The requested frame rate limits by camera."""
        return self._stored.rates

    @property
    def retained(self) -> Mapping[str, Mapping[str, str]]:
        """The topics on which the broker may retain a message of this device.

        The value of a Home Assistant discovery topic maps each announced component to its platform; that of any other
        topic is empty.
        """
        return self._stored.retained

    def pause(self, camera: str) -> None:
        """Stores that a camera is paused."""
        self._change(lambda stored: {"paused": stored.paused | {camera}})

    def resume(self, camera: str) -> None:
        """Stores that a camera is not paused."""
        self._change(lambda stored: {"paused": stored.paused - {camera}})

    def limit(self, camera: str, max_fps: float | None) -> None:
        """Stores the frame rate limit of a camera; None removes it."""

        def limited(stored: _StoredState) -> dict[str, object]:
            others = {name: fps for name, fps in stored.rates.items() if name != camera}
            return {"rates": others if max_fps is None else others | {camera: max_fps}}

        self._change(limited)

    def retain(self, wanted: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Stores what will be retained, before it is published. Earlier entries are kept until `delivered`.

        Args:
            wanted: The topics of this configuration, in the form of `retained`.

        Returns:
            The topics of earlier configurations that are no longer wanted, oldest first.
        """
        self._wanted = wanted

        def merged(stored: _StoredState) -> dict[str, object]:
            before = stored.retained
            obsolete = {topic: components for topic, components in before.items() if topic not in wanted}
            return {"retained": obsolete | {topic: {**before.get(topic, {}), **wanted[topic]} for topic in wanted}}

        self._change(merged)
        return [topic for topic in self.retained if topic not in wanted]

    def delivered(self, topic: str) -> None:
        """Removes the earlier entry of a topic, now that the broker has acknowledged the message that replaces it."""
        wanted = self._wanted.get(topic)
        if self.retained.get(topic) == wanted:
            return

        def replaced(stored: _StoredState) -> dict[str, object]:
            if wanted is not None:
                return {"retained": stored.retained | {topic: dict(wanted)}}
            return {"retained": {name: entry for name, entry in stored.retained.items() if name != topic}}

        self._change(replaced)

    def _change(self, fields: Callable[[_StoredState], Mapping[str, object]]) -> None:
        with self._change_lock:
            changed = self._stored.model_copy(update=fields(self._stored))
            if changed == self._stored:
                return
            self._stored = changed
            try:
                _save(self._path, changed)
            except OSError as error:
                log.warning("%s: %s. The change is lost when the agent stops", self._path, error.strerror)


def _lock(path: Path) -> IO[str]:
    path.touch(PRIVATE_FILE)
    with contextlib.ExitStack() as on_error:
        lock_file = on_error.enter_context(path.open("w"))
        deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
        while not _try_lock(lock_file):
            if time.monotonic() >= deadline_s:
                raise StateError(
                    "another agent is running with this state folder",
                    where=path.parent,
                    remedy="Stop the other agent, or give each its own state folder",
                )
            time.sleep(0.02)
        on_error.pop_all()
    return lock_file


def _try_lock(lock_file: IO[str]) -> bool:
    """Acquires an exclusive lock without blocking; returns False if another process holds one."""
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _load(path: Path) -> _StoredState:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return _new_identity()
    try:
        version = _Versioned.model_validate_json(content).version
        if version > _VERSION:
            raise StateError(
                f"was written by a newer agent (version {version}; this agent supports {_VERSION})",
                where=path,
                remedy="Install the newer agent again, or move the file away; the device then gets a new client id",
            )
        return _StoredState.model_validate_json(content)
    except ValidationError as error:
        aside = path.with_suffix(".corrupt")
        log.warning(
            "%s: %s. The file is moved to %s; the device gets a new client id, and pauses and frame rates are lost",
            path,
            error.errors()[0]["msg"],
            aside.name,
        )
        path.replace(aside)
        return _new_identity()


def _new_identity() -> _StoredState:
    """Returns the state of a new device. Sessions start at the current time, so that no lost number is used again."""
    return _StoredState(client_id=new_client_id(), session=int(time.time()))


def _save(path: Path, stored: _StoredState) -> None:
    """Replaces the file atomically: after a power failure, either the old or the new one is there."""
    fresh = path.with_suffix(".new")
    fresh.touch(PRIVATE_FILE)
    with fresh.open("wb") as file:
        file.write(stored.model_dump_json().encode())
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    flush_folder(path.parent)
