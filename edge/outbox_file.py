"""The file of the outbox: a SQLite table of messages."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.disk import PRIVATE_FILE, PRIVATE_FOLDER, REMEDY
from edge.domain import Message
from edge.errors import StateError

log = logging.getLogger(__name__)

_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY,
    topic TEXT NOT NULL, payload BLOB NOT NULL, qos INTEGER NOT NULL, retain INTEGER NOT NULL,
    expiry_s INTEGER, content_type TEXT NOT NULL, user_properties TEXT NOT NULL
)
"""


# Texts are read as bytes: one that SQLite cannot decode would fail the whole batch.
_SELECT = """
SELECT id, CAST(topic AS BLOB), payload, qos, retain, expiry_s, CAST(content_type AS BLOB),
       CAST(user_properties AS BLOB) FROM outbox
"""


_FORBIDDEN_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in the outbox. Ids are ascending."""

    id: int
    message: Message


class OutboxFile:
    """The table on disk. Every method but `close` raises `sqlite3.Error` if the disk fails.

    Args:
        path: The database; its folder is created if missing. A file that is not a sound database is moved aside.

    Raises:
        StateError: The file cannot be written, or was written by a newer agent.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            self._db = _open_or_replace(path)
            # A connection of its own, so that a checkpoint does not block writers.
            self._flusher = _connect(path)
            self._count: int = self._db.execute("SELECT count(*) FROM outbox").fetchone()[0]
        except (OSError, sqlite3.Error) as error:
            raise StateError(
                f"the outbox cannot be opened for writing ({error})",
                where=path,
                remedy=REMEDY,
            ) from error

    @property
    def count(self) -> int:
        """The number of messages."""
        return self._count

    def last_id(self) -> int:
        """Returns the greatest id, 0 if there are no messages."""
        (last_id,) = self._db.execute("SELECT coalesce(max(id), 0) FROM outbox").fetchone()
        return int(last_id)

    def change(self, *, delete: Collection[int], insert: Sequence[Entry], capacity: int) -> int:
        """Deletes ids, inserts entries, and then deletes the oldest beyond the capacity, in one transaction.

        Returns:
            How many were beyond the capacity.
        """
        with _transaction(self._db):
            deleted = self._db.executemany("DELETE FROM outbox WHERE id = ?", [(i,) for i in delete]).rowcount
            self._db.executemany("INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(_row, insert))
            count = self._count - deleted + len(insert)
            excess = max(0, count - capacity)
            oldest = "SELECT id FROM outbox ORDER BY id LIMIT ?"
            self._db.execute(f"DELETE FROM outbox WHERE id IN ({oldest})", (excess,))  # noqa: S608
        self._count = count - excess
        return excess

    def read(self, *, after: int, limit: int, exclude: Collection[str] = ()) -> tuple[list[Entry], list[int]]:
        """Reads the oldest `limit` rows with an id greater than `after`, except those on topics in `exclude`, in order.

        Returns:
            The messages, and the ids of corrupt rows: SQLite has no checksums, and a failing SD card may return other
            bits than were written.
        """
        topics = ", ".join("?" * len(exclude))
        query = f"{_SELECT} WHERE id > ? AND topic NOT IN ({topics}) ORDER BY id LIMIT ?"
        entries, corrupt = [], []
        for entry_id, *fields in self._db.execute(query, (after, *exclude, limit)):
            try:
                entries.append(Entry(entry_id, _message(*fields)))
            except (ValueError, TypeError):
                corrupt.append(entry_id)
        return entries, corrupt

    def flush(self) -> None:
        """Waits until all commits are on disk. May run in parallel with the other methods."""
        self._flusher.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        self._flusher.close()
        self._db.close()


def is_damage(error: sqlite3.Error | None) -> bool:
    """Whether the error means a damaged file, rather than a disk that is full or read-only."""
    return type(error) is sqlite3.DatabaseError


def _open_or_replace(path: Path) -> sqlite3.Connection:
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        _move_aside(path, error)
    return _open(path)


def _move_aside(path: Path, error: sqlite3.DatabaseError) -> None:
    aside = path.with_suffix(".corrupt")
    log.error("%s: %s. It is moved to %s; starting with an empty outbox", path, error, aside.name)
    path.replace(aside)
    wal, wal_aside = (file.with_name(f"{file.name}-wal") for file in (path, aside))
    wal_aside.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        wal.replace(wal_aside)  # it contains the newest events
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    """Returns a connection to a file that passed the check, with the table in it."""
    path.touch(PRIVATE_FILE)  # SQLite creates the files beside it with the same mode
    with contextlib.ExitStack() as on_error:
        db = _connect(path)
        on_error.callback(db.close)
        _check(db, path)
        db.execute("PRAGMA journal_mode=WAL").fetchall()
        with _transaction(db):
            db.execute(_TABLE)
            db.execute(f"PRAGMA user_version={_VERSION}")
        on_error.pop_all()
    return db


def _connect(path: Path) -> sqlite3.Connection:
    with contextlib.ExitStack() as on_error:
        db = sqlite3.connect(path, timeout=1.0, isolation_level=None, check_same_thread=False)
        on_error.callback(db.close)
        db.execute("PRAGMA synchronous=NORMAL")
        db.execute("PRAGMA wal_autocheckpoint=0").fetchall()  # `flush` does that, at a better moment
        on_error.pop_all()
    return db


def _check(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise StateError(
            f"was written by a newer agent (version {version}; this agent supports {_VERSION})",
            where=path,
            remedy="Install the newer agent again, or move the file away, with the pending events in it",
        )
    (finding,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if finding != "ok":
        raise sqlite3.DatabaseError(f"the database is damaged ({finding})")


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _row(entry: Entry) -> tuple[int, str, bytes, int, bool, int | None, str, str]:
    m = entry.message
    properties = json.dumps(m.user_properties)
    return entry.id, m.topic, m.payload, m.qos, m.retain, m.expiry_s, m.content_type, properties


def _message(
    topic: bytes, payload: bytes, qos: int, retain: int, expiry_s: int | None, content_type: bytes, more: bytes
) -> Message:
    """The inverse of `_row`.

    Raises:
        ValueError: A broker would not accept it.
        TypeError: A field has the wrong type.
    """
    if not isinstance(payload, bytes) or not isinstance(expiry_s, int | None):
        raise TypeError("the payload or the expiry has the wrong type")
    if not 0 <= (expiry_s or 0) < 1 << 32:
        raise ValueError("the expiry is out of range")
    name = _text(topic)
    if not name or set(name) & {"+", "#"}:
        raise ValueError("not a valid topic to publish on")
    return Message(
        name,
        payload,
        qos=1 if qos else 0,
        retain=bool(retain),
        expiry_s=expiry_s,
        durable=True,
        content_type=_text(content_type),
        user_properties=tuple((_checked(key), _checked(value)) for key, value in json.loads(_text(more))),
    )


def _text(content: bytes) -> str:
    if not isinstance(content, bytes):
        raise TypeError("a text has the wrong type")
    return _checked(content.decode())


def _checked(text: str) -> str:
    """Returns the text unless it has characters over which brokers close the connection (MQTT 5, 1.5.4)."""
    if _FORBIDDEN_CHARACTERS.search(text):
        raise ValueError("a text contains characters that MQTT forbids")
    return text
