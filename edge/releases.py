"""The signed releases of the model that came by update, in the state folder."""

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
from edge.contract.signature import SIGNATURE_FILE, require_signature
from edge.disk import REMEDY, flush_folder
from edge.errors import StateError

log = logging.getLogger(__name__)

PassOver = Callable[[UserError], object]
"""Told of what cannot be used of what is there."""

_INCOMING: Final = "incoming"


def log_passed_over(error: UserError) -> None:
    """Warns of what cannot be used of what is there."""
    log.warning("passed over: %s", error)


class Releases:
    """Bundles in folders that are named after their release, each with its signature.

    The signature is checked at every start again: the folder is the agent's own to write in, and a key that is not
    trusted any more takes its releases with it.

    Args:
        folder: Where they lie; it is made when the first one comes.
        public_keys: Of those who may sign.
    """

    _keeping = threading.Lock()  # a thread that was left behind at a reload may be at it still

    def __init__(self, folder: Path, public_keys: Sequence[str]) -> None:
        self._folder = folder
        self._public_keys = public_keys

    def tidy(self) -> None:
        """Takes away what a power cut left half written. Not while another agent is at work here."""
        if self._keeping.acquire(blocking=False):  # otherwise what is half written is being written
            try:
                self._clear()
            finally:
                self._keeping.release()

    def newer_than(self, base: Manifest, on_passed_over: PassOver) -> Iterator[Path]:
        """The releases of the same model above the release of `base`, newest first.

        What is damaged or signed by nobody who is trusted is passed over, and all where the folder cannot be read. The
        files beside the manifest are not looked at: `load_bundle` does that.
        """
        try:
            for release in self._releases_of(base.name, on_passed_over):
                if release > base.release:
                    yield self._folder / str(release)
        except OSError as error:
            remedy = "See that it belongs to the agent's user, and run this as that user"
            on_passed_over(StateError(f"cannot be read ({error.strerror})", where=self._folder, remedy=remedy))

    def keep(self, release: int, files: Mapping[str, bytes], try_out: Callable[[Path], object]) -> None:
        """Puts a release in its place, if it works here, and takes away all others but the one before it.

        That one is kept should the new one turn out damaged. What is of another model or signed by nobody who is
        trusted goes, whatever its number.

        At any moment, also that of a power cut, its folder holds it as a whole or is not there.

        Args:
            release: Its number.
            files: Manifest and signature among them.
            try_out: Called with a folder that holds them; raises what is wrong with them.

        Raises:
            StateError: The folder cannot be written, or the disk has no room.
        """
        incoming, place = self._folder / _INCOMING, self._folder / str(release)
        try:
            with self._keeping:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._clear()
                try:
                    self._require_room(files)
                    _write(incoming, files)
                    try_out(incoming)
                    shutil.rmtree(place, ignore_errors=True)  # one that was damaged
                    incoming.rename(place)
                finally:
                    self._clear()
                flush_folder(self._folder)
                flush_folder(self._folder.parent)
                self._take_away_all_but(release)
        except OSError as error:
            raise StateError(
                f"an update cannot be kept ({error.strerror})", where=self._folder, remedy=REMEDY
            ) from error

    def _take_away_all_but(self, release: int) -> None:
        """And the one before it, of the same model."""
        name = self._manifest(self._folder / str(release)).name
        before = next((number for number in self._releases_of(name) if number < release), None)
        for number in self._numbers():
            if number not in {release, before}:
                shutil.rmtree(self._folder / str(number), ignore_errors=True)

    def _releases_of(self, name: str, on_passed_over: PassOver = log_passed_over) -> Iterator[int]:
        """Of that model, the newest first, with a signature that is trusted."""
        for number in self._numbers():
            try:
                manifest = self._manifest(self._folder / str(number))
            except BundleError as error:
                on_passed_over(error)
                continue
            if manifest.name == name:
                yield number

    def _numbers(self) -> list[int]:
        """Of the releases that are there, the newest first."""
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        return sorted((int(name) for name in names if name.isascii() and name.isdecimal()), reverse=True)

    def _require_room(self, files: Mapping[str, bytes]) -> None:
        """The events that wait must not find the disk full."""
        needed = 2 * sum(map(len, files.values()))
        if (free := shutil.disk_usage(self._folder).free) < needed:
            raise StateError(f"an update needs {needed} bytes, of which {free} are free", where=self._folder,
                             remedy="Make room on the disk")  # fmt: skip

    def _clear(self) -> None:
        shutil.rmtree(self._folder / _INCOMING, ignore_errors=True)

    def _manifest(self, path: Path) -> Manifest:
        try:
            manifest, signature = ((path / name).read_bytes() for name in (MANIFEST_FILE, SIGNATURE_FILE))
        except OSError:
            manifest = signature = b""  # which nobody has signed
        require_signature(manifest, signature, self._public_keys, where=path)
        return parse_manifest(manifest, path / MANIFEST_FILE)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir()
    for name, content in files.items():
        with (folder / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    flush_folder(folder)
