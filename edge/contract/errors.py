"""The root of every error that a user sees, and the errors of the bundle itself.

    UserError                 1   anything that a person can put right
    └── BundleError           4   the model bundle cannot be used
        ├── BundleMissing         no such folder, or a file of it is not there
        ├── BundleCorrupt         a size, checksum or golden output differs
        ├── BundleIncompatible    written for another schema or a newer agent
        └── BundleUntrusted       an update that nobody has signed who is trusted

The number is the exit code of the process when the error reaches the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class UserError(Exception):
    """An error that says what was wrong, where, and what to do next.

    Args:
        what: The fault in one clause, without a full stop.
        where: The file, key, device or address at fault.
        remedy: What the user can do about it, as an imperative sentence without a full stop.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where is not None else ""
        remedy = f". {self.remedy}" if self.remedy else ""
        return f"{place}{self.what}{remedy}."


class BundleError(UserError):
    """The model bundle cannot be used."""

    exit_code = 4


class BundleMissing(BundleError):
    """The bundle's folder, or a file that its manifest names, is not there."""


class BundleCorrupt(BundleError):
    """A file of the bundle differs from what its manifest promises."""


class BundleIncompatible(BundleError):
    """The bundle is sound, but not for this version of the software."""


class BundleUntrusted(BundleError):
    """The bundle came from afar, and no key that is trusted has signed it."""
