from __future__ import annotations

import logging
import os
import resource
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edge.domain import Message
from edge.errors import StateError
from edge.mqtt.delivery import Delivery
from edge.outbox import Outbox
from edge.outbox_file import OutboxFile
from tests.mosquitto import PATIENCE_S, wait_until


def open_outbox(folder: Path, *, capacity: int = 10_000, flush_interval_s: float = 3600, **more: int) -> Outbox:
    """Opens an outbox that by default flushes only when `housekeep` is called."""
    return Outbox(folder=folder, capacity=capacity, flush_interval_s=flush_interval_s, **more)


def message(number: int, size: int = 0) -> Message:
    """A durable message with this number as its payload."""
    return Message(
        "emotion/hall/door/event",
        f"{number}".encode().ljust(size),
        qos=1,
        expiry_s=60,
        durable=True,
        user_properties=(("schema", "emotion.event/1"),),
    )


def pending_numbers(outbox: Outbox, *, after: int = 0, limit: int = 100_000) -> list[int]:
    """The numbers of the pending messages."""
    return [int(entry.message.payload) for entry in outbox.pending(after=after, limit=limit)[0]]


def put_messages(outbox: Outbox, numbers: range, size: int = 0) -> None:
    """Puts messages with these numbers into the outbox."""
    for number in numbers:
        outbox.put(message(number, size))


def acknowledge_oldest(outbox: Outbox, count: int) -> None:
    """Acknowledges the oldest messages."""
    for entry in outbox.pending(after=0, limit=count)[0]:
        outbox.ack(entry.id)


@contextmanager
def no_disk_space(limit_bytes: int) -> Iterator[None]:
    """Simulates a full disk: no file of this process can grow beyond the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_excluded_topics_are_skipped_in_one_read(tmp_path: Path) -> None:
    """Another topic's event is found behind many that the broker rejects, which are not read again."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(1000))
        outbox.put(replace(message(1000), topic="emotion/hall/yard/event"))
        put_messages(outbox, range(1001, 1005))
        entries, seen = outbox.pending(after=0, limit=20, exclude=["emotion/hall/door/event"])
        assert [int(entry.message.payload) for entry in entries] == [1000]
        assert seen == outbox.last_id
        assert outbox.pending(after=seen, limit=20) == ([], seen)


def test_acknowledged_messages_do_not_hide_pending_ones(tmp_path: Path) -> None:
    """Acknowledged events stay in the file for a while; only those are skipped when reading from the start."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(30))
        acknowledge_oldest(outbox, 20)
        assert pending_numbers(outbox, limit=20) == [*range(20, 30)]
        assert outbox.pending(after=0, limit=20)[1] == outbox.last_id


def test_a_closed_outbox_logs_lost_events(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A camera or publisher that hung may still use it after a reload; its lost event is not blamed on the disk."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(250))
        entries, seen = outbox.pending(after=0, limit=250)
    outbox.put(message(250))
    assert outbox.pending(after=seen, limit=20) == ([], seen)
    for entry in entries:
        outbox.ack(entry.id)
    logged = [record.getMessage() for record in caplog.records]
    assert logged == [f"{tmp_path}/outbox.sqlite: an event is lost: the outbox is closed"]
    with open_outbox(tmp_path) as outbox:
        assert pending_numbers(outbox) == list(range(250))


def test_other_users_may_not_read_the_outbox(tmp_path: Path) -> None:
    """Pending events are private, in every file that SQLite creates and in a damaged outbox."""
    umask = os.umask(0o022)
    try:
        (tmp_path / "state").mkdir()
        (tmp_path / "state" / "outbox.sqlite").write_bytes(b"no database" * 100)
        (tmp_path / "state" / "outbox.sqlite").chmod(0o600)
        for folder in (tmp_path / "state", tmp_path / "new"):
            with open_outbox(folder) as outbox:
                put_messages(outbox, range(3))
                modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
            assert {"outbox.sqlite", "outbox.sqlite-wal", "outbox.sqlite-shm"} <= modes.keys()
            assert set(modes.values()) == {0o600}
        assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(umask)


def test_first_in_first_out(tmp_path: Path) -> None:
    """Messages are returned in the order in which they were put, in batches, until they are acknowledged."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(10))
        first = outbox.pending(after=0, limit=4)[0]
        assert [entry.message for entry in first] == [message(number) for number in range(4)]
        assert pending_numbers(outbox, after=first[-1].id, limit=4) == [4, 5, 6, 7]
        outbox.ack(first[1].id)
        assert pending_numbers(outbox) == [0, 2, 3, 4, 5, 6, 7, 8, 9]
        assert outbox.depth == 9


def test_a_crash_loses_no_messages(tmp_path: Path) -> None:
    """Messages put before a crash of the process are still pending after it, in order."""
    with open_outbox(tmp_path / "before") as outbox:
        put_messages(outbox, range(100))
        acknowledge_oldest(outbox, 10)
        put_messages(outbox, range(100, 101))
        shutil.copytree(tmp_path / "before", tmp_path / "after")  # what a crash of the process would leave
    with open_outbox(tmp_path / "after") as outbox:
        assert pending_numbers(outbox) == list(range(10, 101))
        put_messages(outbox, range(101, 102))
        assert pending_numbers(outbox)[-1] == 101


def test_a_stop_keeps_undelivered_messages(tmp_path: Path) -> None:
    """After a clean stop, acknowledged messages are deleted and the others are kept."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(5))
        acknowledge_oldest(outbox, 3)
    with open_outbox(tmp_path) as outbox:
        assert (pending_numbers(outbox), outbox.depth) == ([3, 4], 2)


def open_after_power_cut(folder: Path, copy: Path) -> Outbox:
    """Opens a copy of what a power cut would leave of the outbox: only what was flushed."""
    copy.mkdir()
    shutil.copy(folder / "outbox.sqlite", copy)
    return open_outbox(copy)


def test_pending_messages_survive_a_power_cut(tmp_path: Path) -> None:
    """Housekeeping, every few seconds, flushes the events that pile up in an outage of the broker."""
    with open_outbox(tmp_path / "state") as outbox:
        put_messages(outbox, range(5))
        outbox.housekeep()
        with open_after_power_cut(tmp_path / "state", tmp_path / "copy") as recovered:
            assert pending_numbers(recovered) == [0, 1, 2, 3, 4]


def test_pending_messages_are_flushed_independently_of_the_network(tmp_path: Path) -> None:
    """The outbox flushes in a thread of its own, so a publisher that hangs causes no loss."""
    with open_outbox(tmp_path, flush_interval_s=0.01) as outbox:
        put_messages(outbox, range(5))
        wait_until(lambda: b"emotion.event/1" in (tmp_path / "outbox.sqlite").read_bytes())
    assert "outbox" not in {thread.name for thread in threading.enumerate()}


def test_a_flush_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a slow SD card is being flushed, cameras put events and the publisher delivers them."""
    started, release = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def flush_slowly(_file: OutboxFile) -> None:
        started.set()
        in_time.append(release.wait(PATIENCE_S))

    monkeypatch.setattr(OutboxFile, "flush", flush_slowly)
    with open_outbox(tmp_path, flush_interval_s=0.01) as outbox:
        put_messages(outbox, range(1))
        assert started.wait(PATIENCE_S)
        put_messages(outbox, range(1, 5))
        acknowledge_oldest(outbox, 2)
        assert pending_numbers(outbox) == [2, 3, 4]
        release.set()
    assert all(in_time)


def test_delivered_messages_are_not_flushed_one_by_one(tmp_path: Path) -> None:
    """Events delivered at once are not flushed, to spare SD cards; a checkpoint bounds the write-ahead log."""
    database, log = tmp_path / "outbox.sqlite", tmp_path / "outbox.sqlite-wal"
    with open_outbox(tmp_path) as outbox:
        written_at = database.stat().st_mtime_ns
        for number in range(100):
            outbox.put(message(number))
            acknowledge_oldest(outbox, 1)
            outbox.housekeep()
        assert database.stat().st_mtime_ns == written_at
        for number in range(1000):
            outbox.put(message(number))
            acknowledge_oldest(outbox, 1)
            outbox.housekeep()
        assert database.stat().st_mtime_ns > written_at
        assert log.stat().st_size < 8_000_000
        assert outbox.depth == 0


def test_a_full_outbox_drops_the_oldest_messages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """In a long outage the newest events are kept; the dropped ones are counted, which is logged once."""
    with open_outbox(tmp_path, capacity=10) as outbox:
        put_messages(outbox, range(25))
        assert pending_numbers(outbox) == list(range(15, 25))
        assert (outbox.depth, outbox.dropped) == (10, 15)
    assert sum("the oldest events are dropped" in record.message for record in caplog.records) == 1


def test_a_dropped_message_may_still_be_acknowledged(tmp_path: Path) -> None:
    """The acknowledgement of an event that was dropped while in flight is ignored."""
    with open_outbox(tmp_path, capacity=3) as outbox:
        put_messages(outbox, range(3))
        in_flight = outbox.pending(after=0, limit=1)[0]
        put_messages(outbox, range(3, 6))
        outbox.ack(in_flight[0].id)
        outbox.ack(999)
        assert pending_numbers(outbox) == [3, 4, 5]
        put_messages(outbox, range(6, 7))
        assert (pending_numbers(outbox), outbox.depth) == ([4, 5, 6], 3)


@pytest.mark.parametrize("size", [100, 100_000])
def test_a_corrupt_file_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, size: int) -> None:
    """A file that is not a database, or a damaged one, does not stop the agent; it is kept for inspection."""
    path = tmp_path / "outbox.sqlite"
    if size > 1000:
        with open_outbox(tmp_path) as outbox:
            put_messages(outbox, range(500), size=200)
        with path.open("r+b") as file:
            file.seek(8192)
            file.write(b"\xff" * 50_000)
    else:
        path.write_bytes(b"no database" * 50)
    with open_outbox(tmp_path) as outbox:
        assert pending_numbers(outbox) == []
        put_messages(outbox, range(3))
        assert pending_numbers(outbox) == [0, 1, 2]
    assert (tmp_path / "outbox.corrupt").exists()
    assert any("outbox.corrupt" in record.message and record.levelno == logging.ERROR for record in caplog.records)


def test_the_write_ahead_log_of_a_damaged_file_is_moved_aside_too(tmp_path: Path) -> None:
    """The newest events may be only in the write-ahead log, so it is kept too."""
    path = tmp_path / "outbox.sqlite"
    with open_outbox(tmp_path / "first") as outbox:
        put_messages(outbox, range(500), size=200)
        outbox.housekeep()
        put_messages(outbox, range(500, 501), size=200)
        for part in (tmp_path / "first").iterdir():
            shutil.copy(part, tmp_path)
    with closing(sqlite3.connect(path)) as reader:  # SQLite keeps the write-ahead log while this connection is open
        assert reader.execute("SELECT count(*) FROM outbox").fetchone() == (501,)
        with path.open("r+b") as file:
            file.seek(8192)
            file.write(b"\xff" * 50_000)
        with open_outbox(tmp_path) as outbox:
            assert pending_numbers(outbox) == []
    assert b"500 " in (tmp_path / "outbox.corrupt-wal").read_bytes()


def test_a_file_of_a_newer_agent_is_not_changed(tmp_path: Path) -> None:
    """After a downgrade the pending events are neither misread nor moved: the start fails with a remedy."""
    path = tmp_path / "outbox.sqlite"
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(3))
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    content = path.read_bytes()
    with pytest.raises(
        StateError, match=r"outbox\.sqlite: was written by a newer agent \(version 99; .*\)\. Install the newer"
    ):
        open_outbox(tmp_path)
    assert path.read_bytes() == content
    assert not (tmp_path / "outbox.corrupt").exists()


def test_opening_reads_the_file_once(tmp_path: Path) -> None:
    """A large outbox on a slow SD card does not delay the start more than necessary."""

    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])  # rchar

    if not Path("/proc/self/io").exists():
        pytest.skip("/proc/self/io exists only on Linux")
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(1000), size=5_000)
    before = read_bytes()
    with open_outbox(tmp_path):
        assert read_bytes() - before < 1.5 * (tmp_path / "outbox.sqlite").stat().st_size


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """The error names the file and a remedy."""
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"outbox\.sqlite: the outbox cannot be opened .* Make the state folder"):
        open_outbox(tmp_path / "file")


def test_a_full_disk_at_the_start_is_an_error(tmp_path: Path) -> None:
    """An agent that cannot store its events does not start."""
    with no_disk_space(0), pytest.raises(StateError, match="check that the disk is not full"):
        open_outbox(tmp_path)


def test_a_full_disk_at_run_time_does_not_stop_the_agent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """While the disk is full, the newest events are kept in memory; afterwards they are written to disk."""
    with open_outbox(tmp_path, memory_capacity=20) as outbox:
        put_messages(outbox, range(10), size=100)
        with no_disk_space((tmp_path / "outbox.sqlite-wal").stat().st_size):
            put_messages(outbox, range(10, 40), size=100)
            outbox.housekeep()
            assert pending_numbers(outbox) == [*range(10), *range(20, 40)]
            assert (outbox.depth, outbox.dropped) == (30, 10)
            acknowledge_oldest(outbox, 12)
            assert pending_numbers(outbox) == list(range(22, 40))
        put_messages(outbox, range(40, 41), size=100)
        outbox.housekeep()
        shutil.copytree(tmp_path, tmp_path / "copy")
    assert sum("are kept in memory" in record.message for record in caplog.records) == 1
    assert sum("events are written to disk again" in record.message for record in caplog.records) == 1
    with open_outbox(tmp_path / "copy") as outbox:
        assert pending_numbers(outbox) == list(range(22, 41))


def test_writing_to_disk_is_retried_independently_of_the_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Events in memory are written once the disk works again, even if none is put or delivered."""
    with open_outbox(tmp_path, flush_interval_s=0.01) as outbox:
        with no_disk_space(0):
            put_messages(outbox, range(5))
            assert pending_numbers(outbox) == list(range(5))
        wait_until(lambda: "events are written to disk again" in caplog.text)


def test_housekeeping_survives_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error is logged, and does not stop flushing for good."""
    faults = iter([ZeroDivisionError(), ZeroDivisionError()])
    flushed = threading.Event()

    def flush(_file: OutboxFile) -> None:
        if fault := next(faults, None):
            raise fault
        flushed.set()

    monkeypatch.setattr(OutboxFile, "flush", flush)
    with open_outbox(tmp_path, flush_interval_s=0.01) as outbox:
        wait_until(lambda: outbox.put(message(1)) or flushed.is_set())  # type: ignore[func-returns-value]
    assert caplog.text.count("cannot be flushed to disk") == 2


def limits_of_reads(statements: list[str]) -> list[int]:
    """The row limit of each statement that reads messages."""
    return [int(statement.split("LIMIT")[1]) for statement in statements if "WHERE id > " in statement]


def test_a_full_disk_does_not_slow_down_delivery(tmp_path: Path) -> None:
    """Acknowledged events are neither read again nor deleted again for each delivery."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(1000), size=100)
        outbox.housekeep()
        statements: list[str] = []
        outbox._file._db.set_trace_callback(statements.append)
        with no_disk_space(0):
            after, numbers = 0, []
            while entries := outbox.pending(after=after, limit=20)[0]:
                numbers += [int(entry.message.payload) for entry in entries]
                after = entries[-1].id
                for entry in entries:
                    outbox.ack(entry.id)
        assert numbers == list(range(1000))
        assert sum(statement.startswith("BEGIN") for statement in statements) == 1
        limits = limits_of_reads(statements)
        assert (len(limits), set(limits)) == (51, {20})
    with open_outbox(tmp_path) as outbox:
        assert outbox.depth == 0


def test_unreadable_messages_are_not_overtaken(tmp_path: Path) -> None:
    """While the disk cannot be read, the newer events in memory are not sent before those on disk."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(5))
        with closing(sqlite3.connect(tmp_path / "outbox.sqlite")) as db:
            db.execute("ALTER TABLE outbox RENAME TO elsewhere")
            put_messages(outbox, range(5, 8))
            assert pending_numbers(outbox) == []
            db.execute("ALTER TABLE elsewhere RENAME TO outbox")
        assert pending_numbers(outbox) == list(range(8))
        outbox.housekeep()
        assert (pending_numbers(outbox), outbox.depth, outbox.dropped) == (list(range(8)), 8, 0)


@pytest.mark.parametrize(
    "damage",
    [
        "user_properties = '[[\"schema'",
        "user_properties = CAST(X'5b5bff' AS TEXT)",
        "user_properties = '5'",
        "topic = CAST(X'656d6fff' AS TEXT)",
        "topic = 'emotion/+/door/event'",
        "content_type = CAST(X'ff' AS TEXT)",
        "topic = 'emotion' || char(15) || 'hall/door/event'",
        "content_type = char(0)",
        'user_properties = \'[["schema", "\\ud800"]]\'',
        "user_properties = '[[\"schema\", 5]]'",
        "expiry_s = 1 << 40",
        "expiry_s = 3.5",
        "expiry_s = 'soon'",
        "payload = 7",
    ],
)
def test_a_corrupt_event_does_not_block_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    """Bit errors on an SD card lose only the events that they hit, which are counted and logged once."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(60))
        with closing(sqlite3.connect(tmp_path / "outbox.sqlite", isolation_level=None)) as db:
            db.execute(f"UPDATE outbox SET {damage} WHERE id IN (3, 4)")  # noqa: S608 - a constant of this test
        for _ in range(2):
            assert pending_numbers(outbox, limit=20) == [0, 1, *range(4, 22)]
        assert (outbox.depth, outbox.dropped) == (58, 2)
        acknowledge_oldest(outbox, 58)
    assert sum("damaged and lost" in record.message for record in caplog.records) == 1
    with open_outbox(tmp_path) as outbox:
        assert outbox.depth == 0


def test_messages_in_memory_are_delivered_if_none_is_on_disk(tmp_path: Path) -> None:
    """A card that can be neither read nor written does not delay events if no older ones are on it."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(3))
        acknowledge_oldest(outbox, 3)
        with closing(sqlite3.connect(tmp_path / "outbox.sqlite")) as db:
            db.execute("ALTER TABLE outbox RENAME TO elsewhere")
        put_messages(outbox, range(3, 6))
        assert pending_numbers(outbox) == [3, 4, 5]


def test_a_damaged_file_that_cannot_be_replaced_yet_does_not_block_new_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events in the file are lost; newer ones are delivered from memory, whatever the disk does."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(300), size=200)
        corrupt_schema(tmp_path / "outbox.sqlite")
        put_messages(outbox, range(300, 303))
        with monkeypatch.context() as patch:
            patch.setattr("edge.outbox.OutboxFile", fail_to_open)
            outbox.housekeep()
            put_messages(outbox, range(303, 305))
            assert pending_numbers(outbox) == list(range(300, 305))
            acknowledge_oldest(outbox, 2)
        outbox.housekeep()
        assert pending_numbers(outbox) == [302, 303, 304]
        assert (outbox.depth, outbox.dropped) == (3, 300)


def test_temporarily_unreadable_messages_are_delivered_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After one failed read, the events on disk are delivered over the same connection, oldest first."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(5))
        with monkeypatch.context() as patch:
            patch.setattr(OutboxFile, "read", fail_to_read)
            entries, seen = outbox.pending(after=0, limit=20)
            assert not entries
        put_messages(outbox, range(5, 7))
        outbox.housekeep()
        assert pending_numbers(outbox, after=seen) == list(range(7))
        assert (outbox.depth, outbox.dropped) == (7, 0)


def test_temporarily_unreadable_messages_are_sent_before_delivery_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Delivery.idle` does not lose the position from which to read again."""
    connection = AcceptingConnection()
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(5))
        delivery = Delivery(outbox=outbox, connection=connection)  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            patch.setattr(OutboxFile, "read", fail_to_read)
            delivery.send()
        outbox.housekeep()
        assert not delivery.idle
        delivery.send()
        assert connection.sent == list(range(5))


class AcceptingConnection:
    """A connection with send quota for everything."""

    send_quota = 20

    def __init__(self) -> None:
        self.sent: list[int] = []

    def send(self, message: Message) -> int:
        """Records the message, and returns its send id."""
        self.sent.append(int(message.payload))
        return len(self.sent)


def fail_to_read(_file: OutboxFile, **_: object) -> None:
    """Raises the error of SQLite for a corrupt page."""
    raise sqlite3.DatabaseError("database disk image is malformed")


def corrupt_schema(path: Path) -> None:
    """Damages the schema of a database so that other connections no longer find its tables."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema=ON")
        db.execute("UPDATE sqlite_master SET rootpage = 9999")
        db.execute("PRAGMA schema_version=42")


def fail_to_open(path: Path) -> OutboxFile:
    """Raises the error of a full disk."""
    raise StateError("the outbox cannot be opened for writing", where=path)


def test_delivered_messages_that_are_not_deleted_are_read_in_batches(tmp_path: Path) -> None:
    """On a card that can no longer be written, a new connection does not read the whole file at once."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(1000), size=100)
        with no_disk_space(0):
            acknowledge_oldest(outbox, 990)
            statements: list[str] = []
            outbox._file._db.set_trace_callback(statements.append)
            assert pending_numbers(outbox, limit=20) == list(range(990, 1000))
    assert set(limits_of_reads(statements)) == {20}


def test_a_file_that_is_damaged_at_run_time_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When a failing card corrupts the file, the agent continues with a new one, and counts the lost events."""
    with open_outbox(tmp_path) as outbox:
        put_messages(outbox, range(300), size=200)
        acknowledge_oldest(outbox, 100)
        corrupt_schema(tmp_path / "outbox.sqlite")
        put_messages(outbox, range(300, 310))
        outbox.housekeep()
        put_messages(outbox, range(310, 312))
        assert pending_numbers(outbox) == list(range(300, 312))
        assert outbox.dropped == 200
    assert (tmp_path / "outbox.corrupt").exists()
    assert any("events are written to disk again" in record.message for record in caplog.records)


def test_several_threads_may_use_the_outbox(tmp_path: Path) -> None:
    """Cameras put events while the publisher delivers them, and none is lost or delivered twice."""
    delivered: list[int] = []

    def drain(outbox: Outbox) -> None:
        while len(delivered) < 400:
            for entry in outbox.pending(after=0, limit=20)[0]:
                delivered.append(int(entry.message.payload))
                outbox.ack(entry.id)
            outbox.housekeep()

    with open_outbox(tmp_path) as outbox, ThreadPoolExecutor() as pool:
        jobs = [pool.submit(put_messages, outbox, range(start, start + 100)) for start in (0, 100, 200, 300)]
        jobs.append(pool.submit(drain, outbox))
        for job in jobs:
            job.result()
        assert sorted(delivered) == list(range(400))
        assert outbox.depth == 0
