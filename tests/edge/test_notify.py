"""The service manager's protocol, spoken to a real datagram socket."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import notify


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listener


def heard(manager: socket.socket) -> dict[str, str]:
    """The next datagram, word by word."""
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))


def test_a_life_is_told_in_the_managers_own_words(manager: socket.socket) -> None:
    """The manager sees start, pings, status and stop as sd_notify(3) spells them."""
    notify.ready("watching 2 cameras")
    notify.alive()
    notify.status("hall is away")
    notify.stopping("SIGTERM")
    assert [heard(manager) for _ in range(4)] == [
        {"READY": "1", "STATUS": "watching 2 cameras"},
        {"WATCHDOG": "1"},
        {"STATUS": "hall is away"},
        {"STOPPING": "1", "STATUS": "SIGTERM"},
    ]


def test_a_reload_carries_the_time_at_which_it_began(manager: socket.socket) -> None:
    """The manager can tell this reload from an earlier one by its monotonic time."""
    before_us = time.monotonic_ns() // 1000
    notify.reloading()
    words = heard(manager)
    assert words["RELOADING"] == "1"
    assert before_us <= int(words["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_a_status_cannot_smuggle_in_another_word(manager: socket.socket) -> None:
    """A camera whose error message has line breaks does not make the manager believe that the agent stops."""
    notify.status("camera said:\nSTOPPING=1\n")
    assert heard(manager) == {"STATUS": "camera said: STOPPING=1"}


def test_abstract_sockets_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Managers that listen in Linux's abstract namespace (containers do) hear the agent too."""
    name = f"edge-notify-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(5)
        listener.bind(f"\0{name}")
        notify.alive()
        assert heard(listener) == {"WATCHDOG": "1"}


def test_nothing_happens_without_a_manager(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Started by hand in a terminal, the agent neither fails nor complains."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready("started by hand")
    assert not caplog.records


def test_a_manager_that_went_away_is_reported_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the manager's socket is gone, the log says so and the agent goes on."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        notify.alive()
    assert "WATCHDOG=1" in caplog.text


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_pings_come_twice_in_the_watchdogs_time(
    environment: dict[str, str], interval_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent pings at half of the time it is given, and not at all if the watchdog is another process's."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_interval_s() == interval_s
