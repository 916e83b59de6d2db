"""The signed releases of the model that were installed by updates, in the state folder."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from edge.contract.errors import BundleError, UserError
from edge.contract.manifest import MANIFEST_FILE, Manifest, parse_manifest
from edge.contract.signature import SIGNATURE_FILE, verify_signature
from edge.disk import REMEDY, flush_folder
from edge.errors import StateError

log = logging.getLogger(__name__)

OnSkipped = Callable[[UserError], object]
"""Called with the reason why an installed release is skipped."""

_INCOMING: Final = "incoming"


def log_skipped(error: UserError) -> None:
    """Logs why an installed release is skipped."""
    log.warning("skipped: %s", error)


class Releases:
    """Signed bundles, each in a folder named after its release number.

    Signatures are verified at every start: the agent can write to the folder, and releases signed with a key that is no
    longer trusted must not be used.

    Args:
        folder: Folder of the releases; created when the first one is installed.
        public_keys: Keys of the trusted signers.
    """

    _installing = threading.Lock()  # a thread left over from before a reload may still be installing

    def __init__(self, folder: Path, public_keys: Sequence[str]) -> None:
        self._folder = folder
        self._public_keys = public_keys

    def remove_incomplete(self) -> None:
        """Removes an installation interrupted by a power failure. Requires that no other agent uses the folder."""
        if self._installing.acquire(blocking=False):  # otherwise an installation is in progress
            try:
                self._remove_incoming()
            finally:
                self._installing.release()

    def newer_than(self, base: Manifest, on_skipped: OnSkipped) -> Iterator[Path]:
        """Yields the folders of the releases of the same model that are newer than `base`, newest first.

        Skips releases that are damaged or not signed with a trusted key, and all if the folder cannot be read. Checks
        only the manifests; `load_bundle` verifies the other files.
        """
        try:
            for release in self._releases_of(base.name, on_skipped):
                if release > base.release:
                    yield self._folder / str(release)
        except OSError as error:
            remedy = "Check that it belongs to the agent's user, and run this command as that user"
            on_skipped(StateError(f"cannot be read ({error.strerror})", where=self._folder, remedy=remedy))

    def install(self, release: int, files: Mapping[str, bytes], try_out: Callable[[Path], object]) -> None:
        """Installs a release if it works on this device, and removes all others but the previous one.

        The previous release is kept in case the new one turns out to be damaged. Releases of another model, or without
        a trusted signature, are removed whatever their number.

        The installation is atomic: even after a power failure, the release's folder is either complete or missing.

        Args:
            release: Release number.
            files: Content of each file, including manifest and signature.
            try_out: Called with a folder that contains the files; raises if they cannot be used.

        Raises:
            StateError: The folder cannot be written, or the disk is too full.
        """
        incoming, target = self._folder / _INCOMING, self._folder / str(release)
        try:
            with self._installing:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._remove_incoming()
                try:
                    self._require_room(files)
                    _write(incoming, files)
                    try_out(incoming)
                    shutil.rmtree(target, ignore_errors=True)  # a damaged one
                    incoming.rename(target)
                finally:
                    self._remove_incoming()
                flush_folder(self._folder)
                flush_folder(self._folder.parent)
                self._remove_all_but(release)
        except OSError as error:
            raise StateError(
                f"an update cannot be stored ({error.strerror})", where=self._folder, remedy=REMEDY
            ) from error

    def _remove_all_but(self, release: int) -> None:
        """Removes all releases but this one and the previous one of the same model."""
        name = self._manifest(self._folder / str(release)).name
        previous = next((number for number in self._releases_of(name) if number < release), None)
        for number in self._numbers():
            if number not in {release, previous}:
                shutil.rmtree(self._folder / str(number), ignore_errors=True)

    def _releases_of(self, name: str, on_skipped: OnSkipped = log_skipped) -> Iterator[int]:
        """Yields the numbers of the releases of a model with a trusted signature, newest first."""
        for number in self._numbers():
            try:
                manifest = self._manifest(self._folder / str(number))
            except BundleError as error:
                on_skipped(error)
                continue
            if manifest.name == name:
                yield number

    def _numbers(self) -> list[int]:
        """Returns the numbers of all installed releases, newest first."""
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        return sorted((int(name) for name in names if name.isascii() and name.isdecimal()), reverse=True)

    def _require_room(self, files: Mapping[str, bytes]) -> None:
        """Checks that enough disk space is left for undelivered events."""
        needed = 2 * sum(map(len, files.values()))
        if (free := shutil.disk_usage(self._folder).free) < needed:
            raise StateError(f"an update needs {needed} bytes of disk space, only {free} are free",
                             where=self._folder, remedy="Free some disk space")  # fmt: skip

    def _remove_incoming(self) -> None:
        shutil.rmtree(self._folder / _INCOMING, ignore_errors=True)

    def _manifest(self, path: Path) -> Manifest:
        try:
            manifest, signature = ((path / name).read_bytes() for name in (MANIFEST_FILE, SIGNATURE_FILE))
        except OSError:
            manifest = signature = b""  # which fails the verification
        verify_signature(manifest, signature, self._public_keys, where=path)
        return parse_manifest(manifest, path / MANIFEST_FILE)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    flush_folder(folder)
