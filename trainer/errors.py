"""The trainer's errors, and the exit code that each gives to the process.

    UserError (edge.contract.errors)  1
    ├── BundleError (edge.contract)   4   the bundle to evaluate
    ├── DataError                    10   the data set: path, layout, column, class or image
    ├── CheckpointError              11   a run or a study that cannot be read or resumed
    │   └── StorageError             11   the storage of a study fails
    └── QualityError                 12   the int8 model lost too much accuracy to be written

2 is argparse's own code for a wrong command line.
"""

from __future__ import annotations

from edge.contract.errors import UserError


class DataError(UserError):
    """The data set cannot be used; `where` names the path."""

    exit_code = 10


class CheckpointError(UserError):
    """A run folder or a study cannot be read or resumed."""

    exit_code = 11


class StorageError(CheckpointError):
    """The file or database in which a study lies cannot be read or written."""


class QualityError(UserError):
    """Quantization cost more accuracy than is allowed."""

    exit_code = 12
