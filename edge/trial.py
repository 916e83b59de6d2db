"""Tries a bundle that came from afar as the agent would load it, in a process of its own.

What a model could do to a process, such as asking for an instruction that this processor lacks, then happens to that
one, and the agent goes on. The process is this module, told of the bundle by its arguments:

    python -m edge.trial BUNDLE RUNTIME THREADS
"""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from edge.classify import BundleClassifier
from edge.contract.errors import BundleError, BundleIncompatible, UserError
from edge.runtime import RuntimeChoice

log = logging.getLogger(__name__)

_WITHIN_S: Final = 60.0
"""It takes a second on an x86 core; a slow device with much else to do gets its time."""

_REMEDY: Final = "Try the release on such a device before it is published for all"


def try_out(path: Path, *, runtime: RuntimeChoice, threads: int) -> None:
    """Loads a bundle and has it test itself.

    Args:
        path: The bundle's folder.
        runtime: As for `BundleClassifier`.
        threads: As for `BundleClassifier`.

    Raises:
        BundleError: It cannot be used, or ends or keeps the process that tries.
        UserError: There is no such process to be had.
    """
    command = [sys.executable, "-P", "-m", __name__, str(path), runtime, str(threads)]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN_S)  # noqa: S603 - this module
    except subprocess.TimeoutExpired as error:
        raise BundleIncompatible(f"has not tested itself within {_WITHIN_S:.0f} s on this device", where=path,
                                 remedy=_REMEDY) from error  # fmt: skip
    except OSError as error:
        raise UserError(
            f"cannot try a newer model ({error.strerror})", where=sys.executable,
            remedy="See that it is there and that memory is left; the agent tries again later",
        ) from error  # fmt: skip
    if tried.returncode == 0:
        return
    log.debug("trying %s: %s", path, tried.stderr)
    if tried.returncode == BundleError.exit_code and tried.stdout:
        raise BundleError(**json.loads(tried.stdout.splitlines()[-1]))  # a runtime may have said something before
    raise BundleIncompatible(f"does not run on this device ({_ending(tried)})", where=path, remedy=_REMEDY)


def _ending(process: subprocess.CompletedProcess[str]) -> str:
    if process.returncode < 0:
        return f"its process was ended by {_signal_name(-process.returncode)}"
    return (process.stderr.strip() or f"exit status {process.returncode}").splitlines()[-1]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _main(path: str, runtime: RuntimeChoice, threads: str) -> int:
    try:
        BundleClassifier(Path(path), runtime=runtime, threads=int(threads))
    except BundleError as error:
        where = str(error.where) if error.where is not None else None
        json.dump({"what": error.what, "where": where, "remedy": error.remedy}, sys.stdout)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))  # type: ignore[arg-type]  # what try_out gives
