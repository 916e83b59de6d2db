"""Where events wait until the broker has acknowledged them: a bounded queue on disk that survives a crash.

The queue is a SQLite database in WAL mode with `synchronous=NORMAL`. Each `put` is committed before it returns, which
hands it to the operating system: a killed agent loses nothing. Only the first one after a flush waits for the disk: to
flush every event would wear an SD card out. Flushed (by a checkpoint) is what has been waiting for
`flush_interval_s`, so a power cut costs at most the events of that time, and only while the broker is away; events
that are delivered at once are hardly ever flushed. Deletions ride along with the next `put`: a crash may deliver an
event twice, and never loses one.

A disk that is full or read-only while the agent runs does not stop it: events wait in memory, in a smaller queue,
until the disk takes them again.
"""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Self

from edge.domain import Message
from edge.errors import StateError
from edge.outbox_file import Entry, OutboxFile, is_damage

log = logging.getLogger(__name__)

_MOST_UNDELETED = 200
"""Acknowledged messages that may wait for their deletion to ride along with a `put`."""
_MOST_UNFLUSHED = 250
"""Changes after which the write-ahead log is folded into the database even if no message waits."""
_NOTHING_UNREAD = sys.maxsize
"""Where to go back to after a read that failed, when there was none."""


class Outbox:
    """A first-in, first-out queue of durable messages. Thread-safe.

    While its context is open, a thread of its own brings to disk what is due, whatever the network does meanwhile.

    Args:
        folder: The state folder; it is made if it is not there.
        capacity: How many messages it holds. When it is full, the oldest are dropped, and counted.
        memory_capacity: How many it holds while the disk refuses.
        flush_interval_s: For how long waiting events may be at risk of a power cut, and how often a disk that
            refused is tried again.

    Raises:
        StateError: The folder cannot be used, or a newer agent has written the file.
    """

    def __init__(
        self,
        *,
        folder: Path,
        capacity: int,
        memory_capacity: int = 1_000,
        flush_interval_s: float = 10.0,
    ) -> None:
        self._path = folder / "outbox.sqlite"
        self._capacity = capacity
        self._memory_capacity = memory_capacity
        self._flush_interval_s = flush_interval_s
        self._lock = threading.Lock()
        self._acknowledged: set[int] = set()
        self._in_memory: deque[Entry] = deque()
        self._dropped = 0
        self._unflushed = 0
        self._refusal: sqlite3.Error | None = None
        self._unread_after = _NOTHING_UNREAD
        self._file = OutboxFile(self._path)
        self._last_id = self._file.last_id()
        self._closed = False
        self._closing = threading.Event()
        self._housekeeper = threading.Thread(target=self._keep_house, name="outbox", daemon=True)

    def __enter__(self) -> Self:
        self._housekeeper.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def put(self, message: Message) -> None:
        """Adds a message. When it returns, a crash of this process cannot lose it (unless the disk refused it).

        Once the outbox is closed, it is lost, and said to be.
        """
        with self._lock:
            if self._closed:
                log.error("%s: an event is lost: the outbox is closed", self._path)
                return
            self._last_id += 1
            entry = Entry(self._last_id, message)
            # What is put into a damaged file would be lost with it.
            if self._in_memory or is_damage(self._refusal) or not self._commit([entry]):
                self._keep_in_memory(entry)

    def pending(self, *, after: int, limit: int, without: Collection[str] = ()) -> tuple[list[Entry], int]:
        """The oldest `limit` unacknowledged messages with an id greater than `after`, in order.

        Args:
            after: Where to begin.
            limit: How many at the most.
            without: Topics whose messages are passed over.

        Returns:
            The messages, and the id up to which there are no others.
        """
        with self._lock:
            on_disk = self._read(min(after, self._unread_after), limit, without)
            if on_disk is None:
                self._unread_after = min(after, self._unread_after)
                if self._waiting_on_disk() and not is_damage(self._refusal):
                    return [], after  # those in memory are newer: their turn is after what cannot be read just now
            else:
                self._unread_after = _NOTHING_UNREAD
            in_memory = [entry for entry in self._in_memory if entry.id > after and entry.message.topic not in without]
            entries = ((on_disk or []) + in_memory)[:limit]
            return entries, entries[-1].id if len(entries) == limit else self._last_id

    def ack(self, entry_id: int) -> None:
        """Forgets a message that the broker has taken. An unknown id is no error: it may have been dropped."""
        with self._lock:
            in_memory = deque(entry for entry in self._in_memory if entry.id != entry_id)
            if len(in_memory) < len(self._in_memory):
                self._in_memory = in_memory
                return
            self._acknowledged.add(entry_id)
            # While the disk refuses, `housekeep` tries again: it would take longer each time.
            if len(self._acknowledged) >= _MOST_UNDELETED and self._refusal is None:
                self._commit([])

    def housekeep(self) -> None:
        """Brings to disk what is due. Nobody else has to wait for the flush; only one thread at a time may call it."""
        with self._lock:
            self._tidy()
            if self._unflushed == 0 or (self._file.count == 0 and self._unflushed < _MOST_UNFLUSHED):
                return
            self._unflushed = 0
        try:
            self._file.flush()
        except sqlite3.Error as error:
            with self._lock:
                self._note_refusal(error)

    def close(self) -> None:
        """Deletes what is acknowledged, writes what is in memory, and closes the file."""
        self._closing.set()
        if self._housekeeper.ident is not None:
            self._housekeeper.join()
        with self._lock:
            self._tidy()
            if self._in_memory:
                log.error("%s: %d events are lost: the disk still refuses them", self._path, len(self._in_memory))
            self._file.close()
            self._closed = True

    @property
    def depth(self) -> int:
        """How many messages wait."""
        with self._lock:
            return self._waiting_on_disk() + len(self._in_memory)

    @property
    def dropped(self) -> int:
        """How many messages were lost since the start because there was no room, or with a damaged file."""
        with self._lock:
            return self._dropped

    @property
    def last_id(self) -> int:
        """The id of the newest message: put since the start, or found in the file then; 0 without either."""
        with self._lock:
            return self._last_id

    def _keep_house(self) -> None:
        while not self._closing.wait(self._flush_interval_s):
            try:
                self.housekeep()
            except Exception:
                log.exception("%s: what waits cannot be brought to disk. Trying again", self._path)

    def _tidy(self) -> None:
        if self._refusal is not None:
            self._retry_disk(self._refusal)
        if self._acknowledged:
            self._commit([])

    def _commit(self, entries: Sequence[Entry]) -> bool:
        """Adds entries and deletes what was acknowledged, in one transaction; False if the disk refuses."""
        try:
            dropped = self._file.change(delete=self._acknowledged, insert=entries, capacity=self._capacity)
        except sqlite3.Error as error:
            self._note_refusal(error)
            return False
        self._count_dropped(dropped)
        self._acknowledged.clear()
        self._unflushed += 1
        return True

    def _waiting_on_disk(self) -> int:
        return max(0, self._file.count - len(self._acknowledged))

    def _read(self, after: int, limit: int, without: Collection[str]) -> list[Entry] | None:
        """The same as `pending`, of what is on the disk; None if it cannot be read."""
        waiting: list[Entry] = []
        while len(waiting) < limit:
            try:
                entries, rotten = self._file.read(after=after, limit=limit, without=without)
            except sqlite3.Error as error:
                self._note_refusal(error)
                return None
            waiting += [entry for entry in entries if entry.id not in self._acknowledged]
            self._give_up(rotten)
            if len(entries) + len(rotten) < limit:
                break
            after = max([*rotten, *(entry.id for entry in entries)])
        return waiting[:limit]

    def _give_up(self, rotten: Collection[int]) -> None:
        """Counts what cannot be read any more as lost, and has it deleted."""
        lost = set(rotten) - self._acknowledged
        if lost:
            log.error("%s: %d events are damaged and lost", self._path, len(lost))
            self._dropped += len(lost)
            self._acknowledged |= lost

    def _keep_in_memory(self, entry: Entry) -> None:
        if len(self._in_memory) >= self._memory_capacity:
            self._in_memory.popleft()
            self._count_dropped(1)
        self._in_memory.append(entry)

    def _retry_disk(self, refusal: sqlite3.Error) -> None:
        if is_damage(refusal) and not self._reopen():
            return
        if self._commit(list(self._in_memory)):
            self._in_memory.clear()
            self._refusal = None
            log.warning("%s: the disk takes events again", self._path)

    def _reopen(self) -> bool:
        """Opens the file anew, by which a damaged one is replaced."""
        count = self._file.count
        self._file.close()
        try:
            self._file = OutboxFile(self._path)
        except StateError as error:
            log.debug("not yet: %s", error)
            return False
        lost = count - len(self._acknowledged) - self._file.count
        if lost > 0:
            log.error("%s: %d events are lost with the damaged file", self._path, lost)
            self._dropped += lost
        return True

    def _note_refusal(self, error: sqlite3.Error) -> None:
        """Remembers it until the disk takes events again. That the file is damaged is not forgotten over the rest."""
        if self._closed:
            return  # a publisher that was left behind asks, and the disk is not to blame
        if self._refusal is None:
            log.error(
                "%s: %s. Up to %d events are kept in memory until the disk takes them again",
                self._path,
                error,
                self._memory_capacity,
            )
        if self._refusal is None or not is_damage(self._refusal):
            self._refusal = error

    def _count_dropped(self, count: int) -> None:
        if count > 0 and self._dropped == 0:
            log.warning("%s: events are dropped from now on, the oldest first, and counted", self._path)
        self._dropped += max(0, count)
