"""What the device remembers from run to run: who it is, how often it started, and what it left on the broker."""

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
_LOCK_PATIENCE_S = 1.0
"""Whoever asks whether an agent is running holds the lock for a moment."""
_VERSION = 1


def known_client_id(folder: Path) -> str | None:
    """The client id in a state folder; None if no agent has started there yet, or this user may not look."""
    try:
        return _Memory.model_validate_json((folder / STATE_FILE).read_bytes()).client_id
    except (OSError, ValidationError):
        return None


def is_unused(folder: Path) -> bool:
    """Whether no agent has started with a state folder yet; False too where this user may not look."""
    try:
        (folder / STATE_FILE).stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def in_use(folder: Path) -> bool:
    """Whether an agent is running with a state folder; False too where this user may not look."""
    try:
        with (folder / _LOCK_FILE).open() as lock_file:
            fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class _Versioned(BaseModel):
    """What the file says in every version. Keys that a newer agent has added are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = _VERSION


class _Memory(_Versioned):
    """The file's content."""

    client_id: str
    session: int = 0
    paused: frozenset[str] = frozenset()
    rates: dict[str, PositiveFloat] = {}
    retained: dict[str, dict[str, str]] = {}


class DeviceState:
    """The agent's small memory, a JSON file that is replaced as a whole. Thread-safe; usable as a context manager.

    Opening it counts one more session and locks the folder, so that two agents never share one identity. A file that
    cannot be read is moved aside, and the device starts with a new identity.

    Args:
        folder: The state folder; it is made if it is not there.

    Raises:
        StateError: The folder cannot be written, another agent uses it, or a newer one has written the file.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / STATE_FILE
        self._guard = threading.Lock()
        self._wanted: Mapping[str, Mapping[str, str]] = {}
        try:
            folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            with contextlib.ExitStack() as on_error:
                self._lock_file = on_error.enter_context(_lock(folder / _LOCK_FILE))
                memory = _load(self._path)
                self._memory = memory.model_copy(update={"session": max(memory.session + 1, int(time.time()))})
                _save(self._path, self._memory)
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
        """The MQTT client id, made once at random."""
        return self._memory.client_id

    @property
    def session(self) -> int:
        """Number of this start: the time in Unix seconds, or one more than the last where the clock is behind."""
        return self._memory.session

    @property
    def paused(self) -> frozenset[str]:
        """The cameras that were told to pause."""
        return self._memory.paused

    @property
    def rates(self) -> Mapping[str, float]:
        """The highest frame rate of each camera that was given one."""
        return self._memory.rates

    @property
    def retained(self) -> Mapping[str, Mapping[str, str]]:
        """The topics on which the broker may hold a message of this device, with what Home Assistant was told on each.

        That is the platform of each component; nothing on a topic that is not for Home Assistant.
        """
        return self._memory.retained

    def pause(self, camera: str) -> None:
        """Remembers that a camera is paused."""
        self._change(lambda memory: {"paused": memory.paused | {camera}})

    def resume(self, camera: str) -> None:
        """Remembers that a camera is not paused."""
        self._change(lambda memory: {"paused": memory.paused - {camera}})

    def limit(self, camera: str, max_fps: float | None) -> None:
        """Remembers a camera's highest frame rate; None forgets it."""

        def limited(memory: _Memory) -> dict[str, object]:
            others = {name: fps for name, fps in memory.rates.items() if name != camera}
            return {"rates": others if max_fps is None else others | {camera: max_fps}}

        self._change(limited)

    def retain(self, wanted: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Remembers what is going to be retained, before any of it is sent. What was before is remembered beside it.

        Args:
            wanted: As `retained`.

        Returns:
            The topics of earlier runs that are not wanted any more, in the order in which they were remembered.
        """
        self._wanted = wanted

        def beside(memory: _Memory) -> dict[str, object]:
            before = memory.retained
            gone = {topic: components for topic, components in before.items() if topic not in wanted}
            return {"retained": gone | {topic: {**before.get(topic, {}), **wanted[topic]} for topic in wanted}}

        self._change(beside)
        return [topic for topic in self.retained if topic not in wanted]

    def delivered(self, topic: str) -> None:
        """Forgets what was retained on a topic before, now that the broker has what takes its place there."""
        wanted = self._wanted.get(topic)
        if self.retained.get(topic) == wanted:
            return

        def replaced(memory: _Memory) -> dict[str, object]:
            if wanted is not None:
                return {"retained": memory.retained | {topic: dict(wanted)}}
            return {"retained": {name: told for name, told in memory.retained.items() if name != topic}}

        self._change(replaced)

    def _change(self, fields: Callable[[_Memory], Mapping[str, object]]) -> None:
        with self._guard:
            changed = self._memory.model_copy(update=fields(self._memory))
            if changed == self._memory:
                return
            self._memory = changed
            try:
                _save(self._path, changed)
            except OSError as error:
                log.warning("%s: %s. The change holds until the agent stops", self._path, error.strerror)


def _lock(path: Path) -> IO[str]:
    path.touch(PRIVATE_FILE)
    with contextlib.ExitStack() as on_error:
        lock_file = on_error.enter_context(path.open("w"))
        give_up_s = time.monotonic() + _LOCK_PATIENCE_S
        while not _take(lock_file):
            if time.monotonic() >= give_up_s:
                raise StateError(
                    "another agent is running with this state folder",
                    where=path.parent,
                    remedy="Stop the other one, or give each its own state folder",
                )
            time.sleep(0.02)
        on_error.pop_all()
    return lock_file


def _take(lock_file: IO[str]) -> bool:
    """Takes a lock for this agent alone; False if somebody has it."""
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _load(path: Path) -> _Memory:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return _newborn()
    try:
        version = _Versioned.model_validate_json(content).version
        if version > _VERSION:
            raise StateError(
                f"a newer agent has written this (version {version}; this agent knows {_VERSION})",
                where=path,
                remedy="Install the newer agent again, or move the file away: the device then gets a new client id",
            )
        return _Memory.model_validate_json(content)
    except ValidationError as error:
        aside = path.with_suffix(".corrupt")
        log.warning(
            "%s: %s. It is moved to %s; the device gets a new client id, and forgets what was paused",
            path,
            error.errors()[0]["msg"],
            aside.name,
        )
        path.replace(aside)
        return _newborn()


def _newborn() -> _Memory:
    """A new identity. It counts its sessions from now on, so that none has the number of one before it was lost."""
    return _Memory(client_id=new_client_id(), session=int(time.time()))


def _save(path: Path, memory: _Memory) -> None:
    """Replaces the file so that a power cut leaves either the old one or the new one."""
    fresh = path.with_suffix(".new")
    fresh.touch(PRIVATE_FILE)
    with fresh.open("wb") as file:
        file.write(memory.model_dump_json().encode())
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    flush_folder(path.parent)
