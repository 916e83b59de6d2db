"""Runs the installed `edge` command in a separate process."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.mosquitto import PATIENCE_S

EDGE = str(Path(sys.executable).with_name("edge"))

UNPRIVILEGED = (
    ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all") if os.geteuid() == 0 else ()
)
"""Prefix of a command that makes file permissions apply even if the tests run as root."""


class Edge:
    """`edge` running in a process while the context is open. Standard output and the log are combined.

    Args:
        arguments: Command-line arguments.
        environ: Environment of the process; the current one if None.
        program: Program to run instead of the installed `edge`.
    """

    def __init__(
        self,
        *arguments: str | Path,
        environ: Mapping[str, str] | None = None,
        program: Sequence[str] = (EDGE,),
    ) -> None:
        self._program = program
        self.arguments = [str(argument) for argument in arguments]
        self._environ = environ
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.output: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [*self._program, *self.arguments],
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def wait_for(self, phrase: str, timeout_s: float = PATIENCE_S) -> str:
        """Waits for the next line of output that contains `phrase`, and returns it.

        Raises:
            AssertionError: The process ends or the timeout expires without such a line.
        """
        give_up_s = time.monotonic() + timeout_s
        with contextlib.suppress(queue.Empty):
            while (left_s := give_up_s - time.monotonic()) > 0:
                if (line := self._lines.get(timeout=left_s)) is None:
                    break
                self.output.append(line)
                if phrase in line:
                    return line
        raise AssertionError(f"no {phrase!r} in\n" + "\n".join(self.output))

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        """Sends a signal and waits for the process to exit; returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout_s)
        self._reader.join()
        while (line := self._lines.get()) is not None:
            self.output.append(line)
        return code


@contextlib.contextmanager
def suspended(*pids: int) -> Iterator[None]:
    """Suspends processes started by the test while the context is open."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
