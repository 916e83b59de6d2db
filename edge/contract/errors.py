"""The base class of all errors shown to users, and the errors of the bundle.

    UserError                 1   any error that a user can fix
    └── BundleError           4   the model bundle cannot be used
        ├── BundleMissing         the folder or one of its files does not exist
        ├── BundleCorrupt         a size, checksum or golden output differs
        ├── BundleIncompatible    made for another schema or a newer agent
        └── BundleUntrusted       an update that is not signed with a trusted key

The number is the exit code of the process if the error reaches the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class UserError(Exception):
    """An error with what went wrong, where, and how to fix it.

    Args:
        what: What went wrong, as one clause without a final period.
        where: The affected file, key, device or address.
        remedy: How the user can fix it, as an imperative sentence without a final period.
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
    """The bundle's folder, or a file listed in its manifest, does not exist."""


class BundleCorrupt(BundleError):
    """A file of the bundle does not match its manifest."""


class BundleIncompatible(BundleError):
    """The bundle is intact, but not compatible with this version of the software."""


class BundleUntrusted(BundleError):
    """The downloaded bundle is not signed with a trusted key."""
