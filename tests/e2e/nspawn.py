"""A throw-away machine with a real service manager: systemd-nspawn boots the host's own files under an overlay.

What the machine writes lies in a tmpfs of a private mount namespace and is gone with it; the host's files cannot be
changed. It shares the host's network, so that a broker or a camera stream of a test can be reached from inside.
One machine runs at a time; the next one waits.
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
_PATIENCE_S = 120
"""How long whatever happens in the machine may take."""

# $1 is an empty folder to build in; what follows is added to systemd-nspawn's command line.
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

# What a container may not do unless it is told so: load device rules (DevicePolicy=), which are BPF programs, and ask
# for the clock's state.
_ALLOWED = ["--capability=CAP_BPF,CAP_NET_ADMIN", "--system-call-filter=bpf clock_adjtime"]


def why_not() -> str | None:
    """What this computer lacks for starting a machine; None if it lacks nothing."""
    if os.geteuid() != 0:
        return "only root can boot a machine with systemd-nspawn"
    missing = [tool for tool in ("systemd-nspawn", "nsenter", "unshare", "setpriv") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install systemd-container util-linux)"
    return None


class Machine:
    """One boot of the machine, as a context manager.

    Args:
        folder: An empty folder for the machine's files and its console's output.
        binds: What is to be seen read-only under another path: path in the machine to path on the host.

    Attributes:
        root: The machine's root folder, as the host sees it. Absolute symbolic links in it lead back to the host.
    """

    root: Path

    def __init__(self, *, folder: Path, binds: Mapping[str, Path] | None = None) -> None:
        self._console = folder / "console.log"
        self._build_dir = folder / "machine"
        self._binds = [f"--bind-ro={host}:{inside}" for inside, host in (binds or {}).items()]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            turn = stack.enter_context(_LOCK.open("w"))
            fcntl.flock(turn, fcntl.LOCK_EX)  # two at once would share nspawn's cgroup
            notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            with notifications:
                notifications.bind(f"\0{_NOTIFY_ADDRESS}")
                self._nspawn = self._start()
                stack.callback(self._stop)
                self._leader_pid = self._await_boot(notifications)
            self.root = Path(f"/proc/{self._leader_pid}/root")
            self._exits = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._exits.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._build_dir.mkdir()
        # --pdeathsig: the machine goes down with the tests, however they end.
        unshared = ["setpriv", "--pdeathsig=TERM", "unshare", "--mount"]
        # One cgroup tree of version 2, as any current Debian has, whatever the host has.
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
        """The process id of the machine's first process, once that says that the machine is up."""
        notifications.settimeout(_PATIENCE_S)
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
        self._nspawn.send_signal(signal.SIGTERM)  # nspawn turns it into an orderly shutdown
        try:
            self._nspawn.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:  # what the tests saw of it is none the worse
            self._nspawn.kill()
            self._nspawn.wait()

    def run(self, *command: str, check: bool = True, timeout_s: float = _PATIENCE_S) -> str:
        """Runs a command as root inside and returns what it wrote, standard error included.

        Raises:
            AssertionError: `check` is set and it failed.
            subprocess.TimeoutExpired: It took longer than `timeout_s`.
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
        """Writes a file inside, with the folders above it."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """`systemctl` inside."""
        return self.run("systemctl", "--no-pager", *arguments, check=check)

    def show(self, unit: str, name: str) -> str:
        """A property of a unit, as `systemctl show` names it."""
        return self.systemctl("show", unit, f"--property={name}", "--value").strip()

    def journal(self, unit: str) -> str:
        """What a unit, and the manager about it, have said since the boot: the messages alone."""
        self.run("journalctl", "--sync")  # some may be on their way
        return self.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")

    def await_journal(self, unit: str, phrase: str, *, times: int = 1, timeout_s: float = _PATIENCE_S) -> None:
        """Waits until `phrase` has stood in `times` lines of the unit's journal, counted from the boot.

        Raises:
            subprocess.TimeoutExpired: It does not within `timeout_s`.
        """
        follow = 'journalctl --unit="$1" --output=cat --follow --lines=all | grep -m "$2" -F -- "$3"'
        self.run("sh", "-c", follow, "sh", unit, str(times), phrase, timeout_s=timeout_s)
