"""Programs that tests call, and a library that they try, which not every computer has."""

from __future__ import annotations

import shutil
from importlib import metadata

import pytest


def need(program: str, package: str) -> str:
    """Where a program is; skips the test where it is not installed.

    Args:
        program: Its name.
        package: Debian's package that has it.
    """
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (apt-get install {package})")
    return found


def need_tflite_runtime(*, numpy: str | None = None) -> None:
    """Skips the test where tflite-runtime is not installed, or is beside another numpy.

    Args:
        numpy: The first figure of the version that the test is about.
    """
    if not list(metadata.distributions(name="tflite-runtime")):
        pytest.skip("tflite-runtime has no release for this Python")
    if numpy not in {None, metadata.version("numpy").partition(".")[0]}:
        pytest.skip(f"tflite-runtime is not beside numpy {numpy} here")
