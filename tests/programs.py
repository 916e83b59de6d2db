"""Skips tests whose external programs or optional libraries are not installed."""

from __future__ import annotations

import shutil
from importlib import metadata

import pytest


def require_program(program: str, package: str) -> str:
    """Returns the path of a program. Skips the test if it is not installed.

    Args:
        program: Name of the program.
        package: Debian package that contains it.
    """
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (apt-get install {package})")
    return found


def require_tflite_runtime(*, numpy: str | None = None) -> None:
    """Skips the test if tflite-runtime is not installed, or is installed with another numpy version.

    Args:
        numpy: Required major version of numpy; None for any.
    """
    if not list(metadata.distributions(name="tflite-runtime")):
        pytest.skip("tflite-runtime has no release for this Python")
    if numpy not in {None, metadata.version("numpy").partition(".")[0]}:
        pytest.skip(f"tflite-runtime is not installed with numpy {numpy}")
