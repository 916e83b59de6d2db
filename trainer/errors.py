"""The trainer's errors and their exit codes.

    UserError (edge.contract.errors)  1
    ├── BundleError (edge.contract)   4   the bundle to evaluate
    ├── DataError                    10   the data set: path, layout, column, class or image
    ├── CheckpointError              11   a run or a study that cannot be read or resumed
    │   └── StorageError             11   the storage of a study cannot be read or written
    └── QualityError                 12   the int8 model lost too much accuracy to be written

Exit code 2 is argparse's, for a wrong command line.
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
    """The file or database that stores a study cannot be read or written."""


class QualityError(UserError):
    """Quantization cost more accuracy than is allowed."""

    exit_code = 12
