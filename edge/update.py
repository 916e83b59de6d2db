"""Model updates: checks a web server for newer releases, and installs those that are signed and work on this device."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Final, Self

from edge.contract.bundle import require_agent_version, verify_file
from edge.contract.errors import BundleError, BundleIncompatible, UserError
from edge.contract.manifest import MANIFEST_FILE, Manifest, parse_manifest
from edge.contract.signature import SIGNATURE_FILE, verify_signature
from edge.download import download
from edge.errors import UpdateError
from edge.releases import Releases

log = logging.getLogger(__name__)

_FIRST_WITHIN_S: Final = 300.0
"""The first check is at a random time, so that devices powered on together do not check together."""

_RETRY_S: Final = 1800.0
"""Maximum time until the next check after a failure."""

_STOP_WITHIN_S: Final = 1.0
_MAX_MANIFEST_BYTES: Final = 1_000_000
_MAX_SIGNATURE_BYTES: Final = 1_000
_MAX_BUNDLE_BYTES: Final = 16_000_000
"""A downloaded bundle is held in memory, in addition to the model in use."""


@dataclass(frozen=True, slots=True)
class SignedRelease:
    """A release on the server whose signature has been verified.

    Attributes:
        manifest: Its manifest.
        signed: The exact bytes of the manifest.
        signature: The signature of these bytes.
    """

    manifest: Manifest
    signed: bytes
    signature: bytes


class UpdateServer:
    """A folder on a web server with the latest bundle, as signed by `trainer sign`.

    Args:
        url: URL of the folder, http or https.
        public_keys: Keys of the trusted signers.
        ca_file: PEM file of the CA that signed an https server's certificate; the system's CAs if None.
    """

    def __init__(self, url: str, public_keys: Sequence[str], *, ca_file: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._public_keys = public_keys
        self._fetch = partial(download, ca_file=ca_file)

    def latest(self) -> SignedRelease:
        """Fetches the manifest of the release on the server, and verifies its signature.

        Raises:
            UpdateError: The server cannot be reached, or returns a web page.
            BundleError: The release is not signed with a trusted key, or its manifest is invalid.
        """
        manifest_url, signature_url = f"{self._url}/{MANIFEST_FILE}", f"{self._url}/{SIGNATURE_FILE}"
        signed = self._fetch(manifest_url, max_bytes=_MAX_MANIFEST_BYTES)
        _reject_web_page(signed, url=manifest_url, expected="manifest")
        signature = self._fetch(signature_url, max_bytes=_MAX_SIGNATURE_BYTES)
        _reject_web_page(signature, url=signature_url, expected="signature")
        verify_signature(signed, signature, self._public_keys, where=manifest_url)
        return SignedRelease(parse_manifest(signed, manifest_url), signed, signature)

    def is_newer(self, release: SignedRelease, running: Manifest) -> bool:
        """Whether a release is newer than the bundle in use.

        Raises:
            BundleIncompatible: It is a different model, or requires a newer agent.
        """
        found = release.manifest
        if found.name != running.name:
            raise BundleIncompatible(f"is the model {found.name}, but this device runs {running.name}", where=self._url,
                                     remedy="Publish each model in its own folder")  # fmt: skip
        if found.release <= running.release:
            return False
        require_agent_version(found, metadata.version("edge-emotion"), where=self._url)
        return True

    def download(self, release: SignedRelease) -> dict[str, bytes]:
        """Downloads all files of a release and verifies them against its manifest.

        Raises:
            UpdateError: A file cannot be downloaded, or the files together are too large.
            BundleCorrupt: A file differs from the signed one.
        """
        if sum(entry.size for entry in release.manifest.files.values()) > _MAX_BUNDLE_BYTES:
            raise UpdateError(f"is larger than {_MAX_BUNDLE_BYTES} bytes", where=self._url,
                              remedy="Publish a smaller model")  # fmt: skip
        files = {}
        for name, entry in release.manifest.files.items():
            url = f"{self._url}/{name}"
            files[name] = self._fetch(url, max_bytes=entry.size)
            verify_file(files[name], entry, where=url)
        return {**files, MANIFEST_FILE: release.signed, SIGNATURE_FILE: release.signature}


def _reject_web_page(content: bytes, *, url: str, expected: str) -> None:
    """Rejects a web page, such as a catch-all page of the server or the login page of a captive portal."""
    if content.lstrip().startswith(b"<"):
        raise UpdateError(f"is a web page, not a {expected}", where=url,
                          remedy="Check that update.url is the URL of the bundle's folder")  # fmt: skip


@dataclass(frozen=True, slots=True)
class UpdateStatus:
    """The status of model updates.

    Attributes:
        latest: The newest known release, or None before the first check.
        checked_s: Time of the last successful check, UTC seconds since 1970, or None.
        installing: Whether it is being downloaded and tested now.
        error: Why the last check or installation failed, or None.
    """

    latest: Manifest | None = None
    checked_s: float | None = None
    installing: bool = False
    error: str | None = None


class Updater:
    """Checks for newer releases in a background thread while its context is open.

    Args:
        server: The server to check.
        releases: Where releases are installed.
        running: Manifest of the bundle in use. Only a newer release of the same model replaces it.
        try_out: Loads a bundle as the agent would; raises if it cannot be used.
        require_reopenable: Raises if the agent could not be opened again.
        on_status: Called with the status whenever it changes.
        on_installed: Called when a newer release has been installed; the agent should then load it.
        interval_s: Time between two checks.
        automatic: Whether newer releases are installed as soon as they are found, or only by `install`.
    """

    def __init__(
        self,
        *,
        server: UpdateServer,
        releases: Releases,
        running: Manifest,
        try_out: Callable[[Path], object],
        require_reopenable: Callable[[], object],
        on_status: Callable[[UpdateStatus], None],
        on_installed: Callable[[], None],
        interval_s: float,
        automatic: bool,
    ) -> None:
        self._server = server
        self._releases = releases
        self._running = running
        self._try_out = try_out
        self._require_reopenable = require_reopenable
        self._on_status = on_status
        self._on_installed = on_installed
        self._interval_s = interval_s
        self._automatic = automatic
        self._status = UpdateStatus()
        self._logged: str | None = None
        self._unusable: dict[bytes, str] = {}  # manifest that does not work on this device -> error
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="update", daemon=True)

    def __enter__(self) -> Self:
        self._on_status(self._status)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._wake.set()
        self._thread.join(_STOP_WITHIN_S)  # do not wait longer for an unresponsive server

    def install(self) -> None:
        """Triggers a check and the installation of a newer release. Returns immediately."""
        self._wake.set()

    def _run(self) -> None:
        pause_s = random.uniform(0, min(_FIRST_WITHIN_S, self._interval_s))  # noqa: S311 - not for security
        while True:
            requested = self._wake.wait(pause_s)
            if requested:
                self._wake.clear()
            if self._stopping.is_set():
                return
            pause_s = min(self._interval_s, _RETRY_S)
            try:
                if self._check(requested=requested):
                    self._on_installed()
                    return
                pause_s = self._interval_s
            except UserError as error:
                self._fail(str(error))
            except Exception:
                log.exception("checking for a model update failed")
                self._fail("checking for updates failed; see the agent's log")

    def _check(self, *, requested: bool) -> bool:
        """Checks for a newer release and installs it if appropriate. Returns whether one was installed."""
        release = self._server.latest()
        newer = self._server.is_newer(release, self._running)
        if (found := release.manifest.release) < (running := self._running.release):
            log.info("the server has release %d, which is older than release %d in use here, and is not installed; to "
                     "go back to it, publish it with a higher release number", found, running)  # fmt: skip
        latest = release.manifest if newer else self._running
        error = self._unusable.get(release.signed)
        install = newer and (requested or (self._automatic and error is None))
        self._set_status(UpdateStatus(latest, checked_s=time.time(), installing=install, error=error))
        if install:
            self._install(release)
        self._logged = error
        return install and not self._stopping.is_set()

    def _install(self, release: SignedRelease) -> None:
        self._require_reopenable()
        files = self._server.download(release)
        if self._stopping.is_set():
            return
        found = release.manifest
        try:
            self._releases.install(found.release, files, self._try_out)
        except BundleError as error:
            self._unusable = {release.signed: str(error)}
            raise
        log.info("installed %s %s (release %d), replacing release %d", found.name, found.version, found.release,
                 self._running.release)  # fmt: skip

    def _fail(self, error: str) -> None:
        if self._stopping.is_set():
            return
        if error != self._logged:
            log.warning("model update failed: %s", error)
        self._logged = error
        self._set_status(replace(self._status, installing=False, error=error))

    def _set_status(self, status: UpdateStatus) -> None:
        self._status = status
        self._on_status(status)
