"""The signed releases of the model that came by update, in the state folder."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from edge.contract.errors import BundleError
from edge.contract.manifest import MANIFEST_FILE, Manifest, read_manifest
from edge.contract.signature import SIGNATURE_FILE, require_signature
from edge.errors import StateError

log = logging.getLogger(__name__)

_INCOMING: Final = "incoming"
_REMEDY: Final = "Make the state folder writable for the agent's user and see that the disk is not full"


class Releases:
    """Bundles in folders that are named after their release, each with its signature.

    The signature is checked at every start again: the folder is the agent's own to write in, and a key that is not
    trusted any more takes its releases with it.

    Args:
        folder: Where they lie; it is made when the first one comes.
        public_keys: Of those who may sign.
    """

    def __init__(self, folder: Path, public_keys: Sequence[str]) -> None:
        self._folder = folder
        self._public_keys = public_keys

    def newer_than(self, base: Manifest) -> Iterator[Path]:
        """The releases of the same model above the release of `base`, newest first.

        What is damaged or signed by nobody who is trusted is passed over with a warning. The files beside the manifest
        are not looked at: `load_bundle` does that.
        """
        numbers = (int(path.name) for path in self._folder.glob("[0-9]*") if path.name.isdecimal())
        for number in sorted(numbers, reverse=True):
            path = self._folder / str(number)
            try:
                manifest = self._manifest(path)
            except BundleError as error:
                log.warning("passed over: %s", error)
                continue
            if manifest.name == base.name and manifest.release > base.release:
                yield path

    def keep(self, release: int, files: Mapping[str, bytes], try_out: Callable[[Path], object]) -> Path:
        """Puts a release in its place, if it works here, and takes the older ones away.

        At any moment, also that of a power cut, the folder holds it as a whole or not at all.

        Args:
            release: Its number.
            files: Manifest and signature among them.
            try_out: Called with a folder that holds them; raises what is wrong with them.

        Raises:
            StateError: The folder cannot be written.
        """
        incoming, place = self._folder / _INCOMING, self._folder / str(release)
        try:
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir(parents=True)
            for name, content in files.items():
                _write(incoming / name, content)
            try_out(incoming)
            shutil.rmtree(place, ignore_errors=True)  # one that was damaged
            incoming.rename(place)
            _flush(self._folder)
            for other in self._folder.iterdir():
                if other != place:
                    shutil.rmtree(other, ignore_errors=True)
        except OSError as error:
            raise StateError(
                f"an update cannot be kept ({error.strerror})", where=self._folder, remedy=_REMEDY
            ) from error
        return place

    def _manifest(self, path: Path) -> Manifest:
        try:
            manifest, signature = ((path / name).read_bytes() for name in (MANIFEST_FILE, SIGNATURE_FILE))
        except OSError:
            manifest = signature = b""  # which nobody has signed
        require_signature(manifest, signature, self._public_keys, where=path)
        return read_manifest(path)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    """Sees that a name that was changed in it outlives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
