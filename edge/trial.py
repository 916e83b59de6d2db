"""Tests a downloaded bundle by loading it as the agent would, in a separate process.

A model that crashes its process, for example by an instruction that this processor lacks, then does not crash the
agent. The process runs this module:

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
"""Takes about a second on an x86 core; leaves enough time for a slow, busy device."""

_REMEDY: Final = "Test the release on such a device before publishing it for all"


def try_out(path: Path, *, runtime: RuntimeChoice, threads: int) -> None:
    """Loads a bundle in a separate process and runs its self-test.

    Args:
        path: The bundle's folder.
        runtime: As for `BundleClassifier`.
        threads: As for `BundleClassifier`.

    Raises:
        BundleError: The bundle cannot be used, or its process crashes or times out.
        UserError: The process cannot be started.
    """
    command = [sys.executable, "-P", "-m", __name__, str(path), runtime, str(threads)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_WITHIN_S)  # noqa: S603 - this module
    except subprocess.TimeoutExpired as error:
        raise BundleIncompatible(f"its self-test did not finish within {_WITHIN_S:.0f} s on this device", where=path,
                                 remedy=_REMEDY) from error  # fmt: skip
    except OSError as error:
        raise UserError(
            f"cannot be started to test a newer model ({error.strerror})", where=sys.executable,
            remedy="Check that it exists and that memory is available; the agent retries later",
        ) from error  # fmt: skip
    if process.returncode == 0:
        return
    log.debug("testing %s: %s", path, process.stderr)
    if process.returncode == BundleError.exit_code and process.stdout:
        raise BundleError(**json.loads(process.stdout.splitlines()[-1]))  # a runtime may have printed something before
    raise BundleIncompatible(f"does not run on this device ({_ending(process)})", where=path, remedy=_REMEDY)


def _ending(process: subprocess.CompletedProcess[str]) -> str:
    if process.returncode < 0:
        return f"its process was killed by {_signal_name(-process.returncode)}"
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
    sys.exit(_main(*sys.argv[1:]))  # type: ignore[arg-type]  # the arguments passed by try_out
