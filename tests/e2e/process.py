"""The installed command as a process of its own: started, listened to, and ended."""

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

AS_ANYBODY = (
    ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all") if os.geteuid() == 0 else ()
)
"""What to put before a command so that rights count for it, as they do for everybody but root."""


class Edge:
    """`edge` with its arguments, running while the context is open. Its output and its log come as one stream.

    Args:
        arguments: Of the command line.
        environ: The process's environment; the present one if not given.
        program: What to run instead of the installed `edge`.
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
        """The next line of output that holds `phrase`.

        Raises:
            AssertionError: It does not come in time, or at all.
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
        """Sends a signal and waits for the end; returns the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(timeout_s)
        self._reader.join()
        while (line := self._lines.get()) is not None:
            self.output.append(line)
        return code


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Processes that the test has started do nothing while the context is open."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            os.waitid(os.P_PID, pid, os.WSTOPPED)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
