"""Programs that tests call and not every computer has."""

from __future__ import annotations

import shutil

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
