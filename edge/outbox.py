"""Where events wait until the broker has acknowledged them: a bounded queue on disk that survives a crash.

The queue is a SQLite database in WAL mode with `synchronous=NORMAL`. Each `put` is committed before it returns, which
hands it to the operating system: a killed agent loses nothing. It does not wait for the disk: committing with a flush
for every event would wear an SD card out. Flushed to disk (a checkpoint) is only what has been waiting for longer than
`sync_interval_s`, so a power cut costs at most that much, and only while the broker is away; events that are
delivered at once are hardly ever flushed. Deletions ride along with the next `put`. A crash may therefore deliver an
event twice, but none never.

A disk that is full or read-only while the agent runs does not stop it: events wait in memory, in a smaller queue,
until the disk takes them again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from edge.domain import Message
from edge.errors import StateError

log = logging.getLogger(__name__)

_FILE = "outbox.sqlite"
_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL, retain INTEGER NOT NULL,
    expiry_s INTEGER, content_type TEXT NOT NULL, user_properties TEXT NOT NULL
)
"""
_MOST_UNDELETED = 200
"""Acknowledged messages that may wait for their deletion to ride along with a `put`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in the outbox. Ids grow with time."""

    id: int
    message: Message


class Outbox:
    """A first-in, first-out queue of durable messages. Thread-safe; usable as a context manager.

    Args:
        folder: The state folder; it is made if it is not there.
        capacity: How many messages it holds. When it is full, the oldest are dropped, and counted.
        memory_capacity: How many it holds while the disk refuses.
        sync_interval_s: For how long waiting events may be at risk of a power cut.

    Raises:
        StateError: The folder cannot be used.
    """

    def __init__(
        self,
        *,
        folder: Path,
        capacity: int = 20_000,
        memory_capacity: int = 1_000,
        sync_interval_s: float = 10.0,
    ) -> None:
        self._path = folder / _FILE
        self._capacity = capacity
        self._memory_capacity = memory_capacity
        self._sync_interval_s = sync_interval_s
        self._lock = threading.Lock()
        self._acknowledged: set[int] = set()
        self._in_memory: deque[Entry] = deque()
        self._dropped = 0
        self._unsynced = False
        self._synced_s = time.monotonic()
        self._refused_because: str | None = None
        self._db: sqlite3.Connection | None = _open(self._path)
        self._on_disk, self._last_id = _extent(self._db)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def put(self, message: Message) -> None:
        """Adds a message. When it returns, a crash of this process cannot lose it (unless the disk refused it)."""
        with self._lock:
            self._last_id += 1
            entry = Entry(self._last_id, message)
            if self._in_memory or not self._commit([entry]):
                self._keep_in_memory(entry)

    def pending(self, *, after: int, limit: int) -> list[Entry]:
        """The oldest `limit` unacknowledged messages whose id is greater than `after`, in order."""
        with self._lock:
            entries = self._read(after, limit + len(self._acknowledged))
            entries += [entry for entry in self._in_memory if entry.id > after]
            return [entry for entry in entries if entry.id not in self._acknowledged][:limit]

    def ack(self, entry_id: int) -> None:
        """Forgets a message that the broker has taken. An unknown id is no error: it may have been dropped."""
        with self._lock:
            if any(entry.id == entry_id for entry in self._in_memory):
                self._in_memory = deque(entry for entry in self._in_memory if entry.id != entry_id)
                return
            self._acknowledged.add(entry_id)
            if len(self._acknowledged) >= _MOST_UNDELETED:
                self._commit([])

    def housekeep(self) -> None:
        """Brings to disk what is due. To be called about once a second; it does nothing most of the time."""
        with self._lock:
            if time.monotonic() - self._synced_s < self._sync_interval_s:
                return
            self._synced_s = time.monotonic()
            if self._refused_because is not None:
                self._retry_disk()
            if self._acknowledged:
                self._commit([])
            if self._unsynced and self._on_disk:
                self._sync()

    @property
    def depth(self) -> int:
        """How many messages wait."""
        with self._lock:
            return self._on_disk - len(self._acknowledged) + len(self._in_memory)

    @property
    def dropped(self) -> int:
        """How many messages were lost since the start because there was no room."""
        with self._lock:
            return self._dropped

    @property
    def last_id(self) -> int:
        """The id of the newest message ever put."""
        with self._lock:
            return self._last_id

    def close(self) -> None:
        """Deletes what is acknowledged, flushes the rest, and closes the file."""
        with self._lock:
            if self._in_memory:
                self._retry_disk()
            if self._acknowledged:
                self._commit([])
            if self._in_memory:
                log.error("%d events are lost: the disk still refuses them", len(self._in_memory))
            if self._db is not None:
                self._db.close()
            self._db = None

    def _commit(self, entries: Sequence[Entry]) -> bool:
        """Adds entries and deletes what was acknowledged, in one transaction; False if the disk refuses."""
        if self._db is None:
            return False
        excess = max(0, self._on_disk - len(self._acknowledged) + len(entries) - self._capacity)
        try:
            with _transaction(self._db):
                deleted = _delete(self._db, self._acknowledged)
                _insert(self._db, entries)
                dropped = _delete_oldest(self._db, excess)
        except sqlite3.Error as error:
            self._note_refusal(error)
            return False
        self._on_disk += len(entries) - deleted - dropped
        self._count_dropped(dropped)
        self._acknowledged.clear()
        self._unsynced = True
        return True

    def _read(self, after: int, limit: int) -> list[Entry]:
        if self._db is None:
            return []
        try:
            return _select(self._db, after, limit)
        except sqlite3.Error as error:
            self._note_refusal(error)
            return []

    def _sync(self) -> None:
        if self._db is None:
            return
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            self._note_refusal(error)
        else:
            self._unsynced = False

    def _keep_in_memory(self, entry: Entry) -> None:
        if len(self._in_memory) >= self._memory_capacity:
            self._in_memory.popleft()
            self._count_dropped(1)
        self._in_memory.append(entry)

    def _retry_disk(self) -> None:
        """Opens the database anew, which also replaces a corrupt one, and writes what waits in memory."""
        if self._db is not None:
            self._db.close()
            self._db = None
        try:
            self._db = _open(self._path)
            on_disk, _ = _extent(self._db)
        except (StateError, sqlite3.Error) as error:
            log.debug("the outbox still refuses: %s", error)
            return
        self._count_dropped(self._on_disk - on_disk)
        self._on_disk = on_disk
        if self._commit(list(self._in_memory)):
            self._in_memory.clear()
            self._refused_because = None
            log.warning("%s: the disk takes events again", self._path)

    def _note_refusal(self, error: sqlite3.Error) -> None:
        if self._refused_because is None:
            log.error(
                "%s: %s. Up to %d events are kept in memory until the disk takes them again",
                self._path,
                error,
                self._memory_capacity,
            )
        self._refused_because = str(error)

    def _count_dropped(self, count: int) -> None:
        if count > 0 and self._dropped == 0:
            log.warning("%s: full; the oldest events are dropped from now on, and counted", self._path)
        self._dropped += count


def _open(path: Path) -> sqlite3.Connection:
    """The database, with a new one in place of one that cannot be read.

    Raises:
        StateError: Nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _connect(path)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            _set_aside(path, error)
            return _connect(path)
    except (OSError, sqlite3.Error) as error:
        raise StateError(
            f"the outbox cannot be opened for writing ({error})",
            where=path,
            remedy="Make the state folder writable for the agent's user and see that the disk is not full",
        ) from error


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
    try:
        if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("the database is damaged")
        if db.execute("PRAGMA user_version").fetchone()[0] not in (0, _VERSION):
            raise sqlite3.DatabaseError("the database was written by a newer agent")
        db.execute("PRAGMA journal_mode=WAL").fetchall()
        db.execute("PRAGMA synchronous=NORMAL")
        with _transaction(db):
            db.execute(_TABLE)
            db.execute(f"PRAGMA user_version={_VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _set_aside(path: Path, error: sqlite3.DatabaseError) -> None:
    aside = path.with_suffix(".corrupt")
    log.error("%s: %s. It is moved to %s, and an empty outbox takes its place", path, error, aside)
    path.replace(aside)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterable[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _extent(db: sqlite3.Connection) -> tuple[int, int]:
    """How many messages there are, and the greatest id."""
    count, last_id = db.execute("SELECT count(*), coalesce(max(id), 0) FROM outbox").fetchone()
    return count, last_id


def _insert(db: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    db.executemany(
        "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (e.id, m.topic, m.payload, m.qos, m.retain, m.expiry_s, m.content_type, json.dumps(m.user_properties))
            for e in entries
            for m in [e.message]
        ),
    )


def _delete(db: sqlite3.Connection, ids: Iterable[int]) -> int:
    return db.executemany("DELETE FROM outbox WHERE id = ?", [(entry_id,) for entry_id in ids]).rowcount


def _delete_oldest(db: sqlite3.Connection, count: int) -> int:
    query = "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT ?)"
    return db.execute(query, (count,)).rowcount


def _select(db: sqlite3.Connection, after: int, limit: int) -> list[Entry]:
    rows = db.execute("SELECT * FROM outbox WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
    return [
        Entry(
            entry_id,
            Message(
                topic,
                payload,
                qos=qos,
                retain=bool(retain),
                expiry_s=expiry_s,
                durable=True,
                content_type=content_type,
                user_properties=tuple((name, value) for name, value in json.loads(user_properties)),
            ),
        )
        for entry_id, topic, payload, qos, retain, expiry_s, content_type, user_properties in rows
    ]
