"""The queue of events that the broker has not acknowledged: bounded, on disk, and safe against crashes.

It is a SQLite database in WAL mode with `synchronous=NORMAL`. Each `put` is committed before it returns, which hands it
to the operating system: a killed agent loses nothing. Only the first commit after a flush waits for the disk, because
flushing every event would wear out an SD card. Instead, a checkpoint flushes pending events every `flush_interval_s`:
a power cut loses at most the events of that time, and only while the broker is away; events that are delivered at once
are hardly ever flushed. Deletions are batched with the next `put`: a crash may cause an event to be delivered twice,
but never loses one.

A disk that becomes full or read-only at run time does not stop the agent: events are kept in memory, in a smaller
queue, until they can be written to disk again.
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

_MAX_UNDELETED = 200
"""How many acknowledged messages may wait to be deleted together with the next `put`."""
_MAX_UNFLUSHED = 250
"""How many commits may pass until the write-ahead log is checkpointed even if no message is pending."""
_NOTHING_UNREAD = sys.maxsize
"""The value of `_unread_after` when no read has failed."""


class Outbox:
    """A first-in, first-out queue of durable messages. Thread-safe.

    While its context is open, a thread of its own flushes it to disk, independently of the network.

    Args:
        folder: The state folder; created if missing.
        capacity: How many messages it holds. When it is full, the oldest are dropped and counted.
        memory_capacity: How many it holds in memory while the disk cannot be written.
        flush_interval_s: How long pending events may be at risk of a power cut, and how often to retry a disk that
            could not be written.

    Raises:
        StateError: The folder cannot be used, or the file was written by a newer agent.
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
        self._disk_error: sqlite3.Error | None = None
        self._unread_after = _NOTHING_UNREAD  # where the earliest failed read started
        self._file = OutboxFile(self._path)
        self._last_id = self._file.last_id()
        self._closed = False
        self._closing = threading.Event()
        self._housekeeper = threading.Thread(target=self._run_housekeeping, name="outbox", daemon=True)

    def __enter__(self) -> Self:
        self._housekeeper.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def put(self, message: Message) -> None:
        """Adds a message. Once this returns, a crash of this process cannot lose it (unless the disk failed).

        If the outbox is closed, the message is lost, which is logged.
        """
        with self._lock:
            if self._closed:
                log.error("%s: an event is lost: the outbox is closed", self._path)
                return
            self._last_id += 1
            entry = Entry(self._last_id, message)
            # A message in a damaged file would be lost with it.
            if self._in_memory or is_damage(self._disk_error) or not self._commit([entry]):
                self._keep_in_memory(entry)

    def pending(self, *, after: int, limit: int, exclude: Collection[str] = ()) -> tuple[list[Entry], int]:
        """Returns the oldest unacknowledged messages, in order.

        Args:
            after: Only messages with a greater id are returned.
            limit: The maximum number of messages.
            exclude: Topics whose messages are skipped.

        Returns:
            The messages, and the id up to which there are no others: `after` for the next call.
        """
        with self._lock:
            on_disk = self._read(min(after, self._unread_after), limit, exclude)
            if on_disk is None:
                self._unread_after = min(after, self._unread_after)
                if self._pending_on_disk() and not is_damage(self._disk_error):
                    return [], after  # those in memory are newer, and must not overtake those that cannot be read
            else:
                self._unread_after = _NOTHING_UNREAD
            in_memory = [entry for entry in self._in_memory if entry.id > after and entry.message.topic not in exclude]
            entries = ((on_disk or []) + in_memory)[:limit]
            return entries, entries[-1].id if len(entries) == limit else self._last_id

    def ack(self, entry_id: int) -> None:
        """Deletes a message that the broker has acknowledged. Ignores an unknown id: it may have been dropped."""
        with self._lock:
            in_memory = deque(entry for entry in self._in_memory if entry.id != entry_id)
            if len(in_memory) < len(self._in_memory):
                self._in_memory = in_memory
                return
            self._acknowledged.add(entry_id)
            # While the disk fails, only `housekeep` retries: a growing transaction for each message would be slow.
            if len(self._acknowledged) >= _MAX_UNDELETED and self._disk_error is None:
                self._commit([])

    def housekeep(self) -> None:
        """Writes and flushes what is due, without blocking other methods during the flush. For one thread at a time."""
        with self._lock:
            self._write_due()
            if self._unflushed == 0 or (self._file.count == 0 and self._unflushed < _MAX_UNFLUSHED):
                return
            self._unflushed = 0
        try:
            self._file.flush()
        except sqlite3.Error as error:
            with self._lock:
                self._note_disk_error(error)

    def close(self) -> None:
        """Deletes acknowledged messages, writes those in memory, and closes the file."""
        self._closing.set()
        if self._housekeeper.ident is not None:
            self._housekeeper.join()
        with self._lock:
            self._write_due()
            if self._in_memory:
                log.error(
                    "%s: %d events are lost: they still cannot be written to disk", self._path, len(self._in_memory)
                )
            self._file.close()
            self._closed = True

    @property
    def depth(self) -> int:
        """How many messages are pending."""
        with self._lock:
            return self._pending_on_disk() + len(self._in_memory)

    @property
    def dropped(self) -> int:
        """How many messages were lost since the start because the queue was full or the file damaged."""
        with self._lock:
            return self._dropped

    @property
    def last_id(self) -> int:
        """The id of the newest message that was put or found in the file at the start; 0 if there was none."""
        with self._lock:
            return self._last_id

    def _run_housekeeping(self) -> None:
        while not self._closing.wait(self._flush_interval_s):
            try:
                self.housekeep()
            except Exception:
                log.exception("%s: pending events cannot be flushed to disk; trying again", self._path)

    def _write_due(self) -> None:
        if self._disk_error is not None:
            self._retry_disk(self._disk_error)
        if self._acknowledged:
            self._commit([])

    def _commit(self, entries: Sequence[Entry]) -> bool:
        """Adds entries and deletes acknowledged ones in one transaction. Returns False if the disk fails."""
        try:
            dropped = self._file.change(delete=self._acknowledged, insert=entries, capacity=self._capacity)
        except sqlite3.Error as error:
            self._note_disk_error(error)
            return False
        self._count_dropped(dropped)
        self._acknowledged.clear()
        self._unflushed += 1
        return True

    def _pending_on_disk(self) -> int:
        return max(0, self._file.count - len(self._acknowledged))

    def _read(self, after: int, limit: int, exclude: Collection[str]) -> list[Entry] | None:
        """Does the same as `pending` for the messages on disk. Returns None if they cannot be read."""
        pending: list[Entry] = []
        while len(pending) < limit:
            try:
                entries, corrupt = self._file.read(after=after, limit=limit, exclude=exclude)
            except sqlite3.Error as error:
                self._note_disk_error(error)
                return None
            pending += [entry for entry in entries if entry.id not in self._acknowledged]
            self._drop_corrupt(corrupt)
            if len(entries) + len(corrupt) < limit:
                break
            after = max([*corrupt, *(entry.id for entry in entries)])
        return pending[:limit]

    def _drop_corrupt(self, corrupt: Collection[int]) -> None:
        """Counts corrupt messages as lost, and deletes them with the next commit."""
        lost = set(corrupt) - self._acknowledged
        if lost:
            log.error("%s: %d events are damaged and lost", self._path, len(lost))
            self._dropped += len(lost)
            self._acknowledged |= lost

    def _keep_in_memory(self, entry: Entry) -> None:
        if len(self._in_memory) >= self._memory_capacity:
            self._in_memory.popleft()
            self._count_dropped(1)
        self._in_memory.append(entry)

    def _retry_disk(self, error: sqlite3.Error) -> None:
        if is_damage(error) and not self._reopen():
            return
        if self._commit(list(self._in_memory)):
            self._in_memory.clear()
            self._disk_error = None
            log.warning("%s: events are written to disk again", self._path)

    def _reopen(self) -> bool:
        """Opens the file again, which replaces a damaged one. Returns False if that is not possible yet."""
        count = self._file.count
        self._file.close()
        try:
            self._file = OutboxFile(self._path)
        except StateError as error:
            log.debug("cannot reopen the outbox yet: %s", error)
            return False
        lost = count - len(self._acknowledged) - self._file.count
        if lost > 0:
            log.error("%s: %d events are lost with the damaged file", self._path, lost)
            self._dropped += lost
        return True

    def _note_disk_error(self, error: sqlite3.Error) -> None:
        """Remembers an error until the disk can be written again. The error of a damaged file is never replaced."""
        if self._closed:
            return  # the caller is a publisher that failed to stop in time; the disk is not the cause
        if self._disk_error is None:
            log.error(
                "%s: %s. Up to %d events are kept in memory until they can be written to disk again",
                self._path,
                error,
                self._memory_capacity,
            )
        if self._disk_error is None or not is_damage(self._disk_error):
            self._disk_error = error

    def _count_dropped(self, count: int) -> None:
        if count > 0 and self._dropped == 0:
            log.warning("%s: the queue is full; from now on the oldest events are dropped and counted", self._path)
        self._dropped += max(0, count)
