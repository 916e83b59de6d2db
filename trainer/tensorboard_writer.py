"""Writes a run's training curves for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorboard.compat import tf
from tensorboard.summary import DirectoryOutput, Writer


class TensorBoardWriter:
    """Writes one event file; those of earlier calls in the folder stay as they are.

    Args:
        folder: Created if missing.

    Raises:
        OSError: Something cannot be written, here or in a later call.
    """

    def __init__(self, folder: Path) -> None:
        with _as_os_error():
            self._writer = Writer(DirectoryOutput(str(folder)))

    def add(self, epoch: int, loss: float, accuracy: float) -> None:
        """Adds an epoch, counted from 1: its mean training loss and its PublicTest accuracy, 0 to 1."""
        with _as_os_error():
            self._writer.add_scalar("loss", loss, step=epoch)
            self._writer.add_scalar("accuracy/PublicTest", accuracy, step=epoch)

    def close(self) -> None:
        """Flushes and closes the file."""
        with _as_os_error():
            self._writer.close()


@contextmanager
def _as_os_error() -> Iterator[None]:
    """TensorBoard writes through TensorFlow where that is installed, whose errors are no subclasses of OSError."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(str(error.message)) from error
