"""The outbox's file: a SQLite table of messages, how it is opened, repaired, read and written."""

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


# As bytes, for SQLite's own decoding would fail for the whole batch.
_SELECT = """
SELECT id, CAST(topic AS BLOB), payload, qos, retain, expiry_s, CAST(content_type AS BLOB),
       CAST(user_properties AS BLOB) FROM outbox
"""


_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Entry:
    """A message in the outbox. Ids grow with time."""

    id: int
    message: Message


class OutboxFile:
    """The table on disk. Every method but `close` raises `sqlite3.Error` if the disk refuses.

    Args:
        path: The database; its folder is made if it is not there. One that cannot be read is moved aside.

    Raises:
        StateError: Nothing can be written there, or a newer agent has written the file.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
            self._db = _open_or_replace(path)
            # A connection of its own, so that nobody who writes has to wait for a checkpoint.
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
        """How many messages there are."""
        return self._count

    def last_id(self) -> int:
        """The greatest id, 0 if there are no messages."""
        (last_id,) = self._db.execute("SELECT coalesce(max(id), 0) FROM outbox").fetchone()
        return int(last_id)

    def change(self, *, delete: Collection[int], insert: Sequence[Entry], capacity: int) -> int:
        """Deletes ids, adds entries, and deletes the oldest that are too many then: all or nothing.

        Returns:
            How many were too many.
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

    def read(self, *, after: int, limit: int, without: Collection[str] = ()) -> tuple[list[Entry], list[int]]:
        """The oldest `limit` rows with an id greater than `after` that are not on the topics `without`, in order.

        Returns:
            Those that are messages, and the ids of those that are none any more: SQLite has no checksums, and a dying
            card returns other bits than were written.
        """
        others = ", ".join("?" * len(without))
        query = f"{_SELECT} WHERE id > ? AND topic NOT IN ({others}) ORDER BY id LIMIT ?"
        entries, rotten = [], []
        for entry_id, *fields in self._db.execute(query, (after, *without, limit)):
            try:
                entries.append(Entry(entry_id, _message(*fields)))
            except (ValueError, TypeError):
                rotten.append(entry_id)
        return entries, rotten

    def flush(self) -> None:
        """Waits until what was committed is on disk. May run beside the other methods, in another thread."""
        self._flusher.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        self._flusher.close()
        self._db.close()


def is_damage(error: sqlite3.Error | None) -> bool:
    """Whether the file itself is broken, rather than the disk full or read-only."""
    return type(error) is sqlite3.DatabaseError


def _open_or_replace(path: Path) -> sqlite3.Connection:
    try:
        return _open(path)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):
            raise
        _set_aside(path, error)
    return _open(path)


def _set_aside(path: Path, error: sqlite3.DatabaseError) -> None:
    aside = path.with_suffix(".corrupt")
    log.error("%s: %s. It is moved to %s, and an empty outbox takes its place", path, error, aside.name)
    path.replace(aside)
    wal, wal_aside = (file.with_name(f"{file.name}-wal") for file in (path, aside))
    wal_aside.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        wal.replace(wal_aside)  # the newest events are in it
    path.with_name(f"{path.name}-shm").unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    """A connection to a file that is sound, with the table in it."""
    path.touch(PRIVATE_FILE)  # its mode is that of the files which SQLite makes beside it
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
        db.execute("PRAGMA wal_autocheckpoint=0").fetchall()  # `flush` does it, at a better moment
        on_error.pop_all()
    return db


def _check(db: sqlite3.Connection, path: Path) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > _VERSION:
        raise StateError(
            f"a newer agent has written this (version {version}; this agent knows {_VERSION})",
            where=path,
            remedy="Install the newer agent again, or move the file away with the events that wait in it",
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
        ValueError: It is none that a broker takes.
        TypeError: A field is of another type.
    """
    if not isinstance(payload, bytes) or not isinstance(expiry_s, int | None):
        raise TypeError("the payload, or for how long it holds, is of another type")
    if not 0 <= (expiry_s or 0) < 1 << 32:
        raise ValueError("it would hold for too long")
    name = _text(topic)
    if not name or set(name) & {"+", "#"}:
        raise ValueError("nothing can be published on that topic")
    return Message(
        name,
        payload,
        qos=1 if qos else 0,
        retain=bool(retain),
        expiry_s=expiry_s,
        durable=True,
        content_type=_text(content_type),
        user_properties=tuple((_sendable(key), _sendable(value)) for key, value in json.loads(_text(more))),
    )


def _text(content: bytes) -> str:
    if not isinstance(content, bytes):
        raise TypeError("a text is of another type")
    return _sendable(content.decode())


def _sendable(text: str) -> str:
    """The text, if it has none of the characters for which brokers close the connection (MQTT 5, 1.5.4)."""
    if _UNSENDABLE.search(text):
        raise ValueError("a text holds characters that MQTT forbids")
    return text
