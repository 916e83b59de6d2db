"""A disposable machine with a real systemd: systemd-nspawn boots the host's file system under an overlay.

The machine writes to a tmpfs in a private mount namespace; the host's files cannot be changed. It shares the host's
network, so that a test's broker or camera stream can be reached from inside. Only one machine runs at a time.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import gettempdir
from typing import Self

_LOCK = Path(gettempdir()) / "edge-test-machine.lock"
_NOTIFY_ADDRESS = "edge-test-machine"
_TIMEOUT_S = 120
"""Timeout of each operation in the machine."""

# $1 is an empty folder to build in; further arguments are passed to systemd-nspawn.
_BOOT = """
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o lowerdir=/,upperdir="$1/upper",workdir="$1/work" "$1/root"
root="$1/root"
shift
units="$root/etc/systemd/system"
rm -f "$root/etc/machine-id" "$units"/*.wants/*
ln -s /dev/null "$units/systemd-firstboot.service"
printf '[Unit]\\nRequires=basic.target\\nAfter=basic.target\\n' > "$units/test.target"
exec systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit --console=pipe --notify-ready=yes \\
    --resolv-conf=off --timezone=off --link-journal=no --machine=edge-test "$@" -- --unit=test.target
"""

# Not allowed in a container by default: loading device rules (DevicePolicy=), which are BPF programs, and querying the
# state of the clock.
_ALLOWED = ["--capability=CAP_BPF,CAP_NET_ADMIN", "--system-call-filter=bpf clock_adjtime"]


def unavailable_reason() -> str | None:
    """Returns why a machine cannot be started on this computer, or None if it can."""
    if os.geteuid() != 0:
        return "only root can boot a machine with systemd-nspawn"
    missing = [tool for tool in ("systemd-nspawn", "nsenter", "unshare", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install systemd-container util-linux)"
    return None


class Machine:
    """One boot of the machine, as a context manager.

    Args:
        folder: Empty folder for the machine's files and the output of its console.
        binds: Read-only bind mounts: path in the machine to path on the host.

    Attributes:
        root: The machine's root folder, as seen by the host. Absolute symbolic links in it resolve on the host.
    """

    root: Path

    def __init__(self, *, folder: Path, binds: Mapping[str, Path] | None = None) -> None:
        self._console = folder / "console.log"
        self._build_dir = folder / "machine"
        self._binds = [f"--bind-ro={host}:{inside}" for inside, host in (binds or {}).items()]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            lock = stack.enter_context(_LOCK.open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)  # two machines would share nspawn's cgroup
            notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            with notifications:
                notifications.bind(f"\0{_NOTIFY_ADDRESS}")
                self._nspawn = self._start()
                stack.callback(self._stop)
                self._leader_pid = self._await_boot(notifications)
            self.root = Path(f"/proc/{self._leader_pid}/root")
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._build_dir.mkdir()
        # --pdeathsig: the machine is stopped when the tests end, however they do.
        unshared = ["setpriv", "--pdeathsig=TERM", "unshare", "--mount"]
        # A unified cgroup v2 hierarchy, as in any current Debian, whatever the host uses.
        env = {**os.environ, "NOTIFY_SOCKET": f"@{_NOTIFY_ADDRESS}", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with self._console.open("wb") as console:
            return subprocess.Popen(
                [*unshared, "sh", "-c", _BOOT, "sh", str(self._build_dir), *_ALLOWED, *self._binds],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )

    def _await_boot(self, notifications: socket.socket) -> int:
        """Waits until the machine has booted, and returns the process id of its init."""
        notifications.settimeout(_TIMEOUT_S)
        leader_pid = 0
        while True:
            try:
                lines = notifications.recv(4096).decode().splitlines()
            except TimeoutError:
                raise AssertionError(f"The machine does not boot:\n{self._console.read_text()}") from None
            for line in lines:
                if line.startswith("X_NSPAWN_LEADER_PID="):
                    leader_pid = int(line.partition("=")[2])
            if "READY=1" in lines:
                return leader_pid

    def _stop(self) -> None:
        self._nspawn.send_signal(signal.SIGTERM)  # nspawn shuts the machine down cleanly
        try:
            self._nspawn.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:  # does not affect the tests
            self._nspawn.kill()
            self._nspawn.wait()

    def run(self, *command: str, check: bool = True, timeout_s: float = _TIMEOUT_S) -> str:
        """Runs a command as root in the machine and returns its output, including standard error.

        Raises:
            AssertionError: `check` is set and the command failed.
            subprocess.TimeoutExpired: The command took longer than `timeout_s`.
        """
        namespaces = ["--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"]
        done = subprocess.run(
            ["nsenter", f"--target={self._leader_pid}", *namespaces, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}"
        return done.stdout

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Writes a file in the machine, creating its parent folders."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """Runs `systemctl` in the machine."""
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        """Returns a property of a unit, as named by `systemctl show`."""
        return self.systemctl("show", unit, f"--property={name}", "--value").strip()

    def journal(self, unit: str) -> str:
        """Returns the journal of a unit since the boot, including systemd's messages about it; only the messages."""
        self.run("journalctl", "--sync")  # wait for pending messages
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def await_journal(self, unit: str, phrase: str, *, times: int = 1, timeout_s: float = _TIMEOUT_S) -> None:
        """Waits until `phrase` has occurred in `times` lines of the unit's journal since the boot.

        Raises:
            subprocess.TimeoutExpired: It has not within `timeout_s`.
        """
        follow = 'journalctl --unit="$1" --output=cat --follow --lines=all | grep -m "$2" -F -- "$3"'
        self.run("sh", "-c", follow, "sh", unit, str(times), phrase, timeout_s=timeout_s)
