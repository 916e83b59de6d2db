"""The sd_notify protocol, tested with a real datagram socket."""

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
    """The service manager's end of the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


def received(manager: socket.socket) -> dict[str, str]:
    """The assignments in the next datagram."""
    return dict(line.split("=", 1) for line in manager.recv(4096).decode().split("\n"))


def test_notifications_follow_sd_notify(manager: socket.socket) -> None:
    """The manager receives start, pings, status and stop as specified by sd_notify(3)."""
    notify.ready("watching 2 cameras")
    notify.ping_watchdog()
    notify.status("hall is away")
    notify.stopping("SIGTERM")
    assert [received(manager) for _ in range(4)] == [
        {"READY": "1", "STATUS": "watching 2 cameras"},
        {"WATCHDOG": "1"},
        {"STATUS": "hall is away"},
        {"STOPPING": "1", "STATUS": "SIGTERM"},
    ]


def test_a_reload_includes_its_start_time(manager: socket.socket) -> None:
    """The monotonic time distinguishes a reload from an earlier one."""
    before_us = time.monotonic_ns() // 1000
    notify.reloading()
    assignments = received(manager)
    assert assignments["RELOADING"] == "1"
    assert before_us <= int(assignments["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_a_status_cannot_inject_another_assignment(manager: socket.socket) -> None:
    """An error message with line breaks does not make the manager believe that the agent is stopping."""
    notify.status("camera said:\nSTOPPING=1\n")
    assert received(manager) == {"STATUS": "camera said: STOPPING=1"}


def test_abstract_sockets_are_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager whose socket is in the abstract namespace, as in containers, is notified too."""
    name = f"edge-notify-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind(f"\0{name}")
        notify.ping_watchdog()
        assert received(receiver) == {"WATCHDOG": "1"}


def test_nothing_happens_without_a_manager(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Started in a terminal, the agent neither fails nor logs a warning."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.ready("started by hand")
    assert not caplog.records


def test_a_missing_manager_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the manager's socket no longer exists, a warning is logged and the agent keeps running."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    with caplog.at_level(logging.WARNING):
        notify.ping_watchdog()
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
def test_the_ping_interval_is_half_the_watchdog_timeout(
    environment: dict[str, str], interval_s: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval is None if the timeout is missing, invalid, or meant for another process."""
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert notify.watchdog_interval_s() == interval_s
