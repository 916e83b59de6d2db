"""Newer releases of the model: looks for them on a web server, and puts in place what is signed and works here."""

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

from edge.contract.bundle import require_agent, require_as_promised
from edge.contract.errors import BundleError, BundleIncompatible, UserError
from edge.contract.manifest import MANIFEST_FILE, Manifest, parse_manifest
from edge.contract.signature import SIGNATURE_FILE, require_signature
from edge.download import download
from edge.errors import UpdateError
from edge.releases import Releases

log = logging.getLogger(__name__)

_FIRST_WITHIN_S: Final = 300.0
"""Devices that get power at one moment look at different ones."""

_RETRY_S: Final = 1800.0
"""After a failure it looks again no later than this."""

_STOP_WITHIN_S: Final = 1.0
_LARGEST_MANIFEST: Final = 1_000_000
_LARGEST_SIGNATURE: Final = 1_000
_LARGEST_BUNDLE: Final = 16_000_000
"""Bytes; what is fetched is in memory for a moment, beside the model in use."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A release that a server has, and that is signed.

    Attributes:
        manifest: What it is.
        signed: The very bytes of the manifest.
        signature: Of these bytes.
    """

    manifest: Manifest
    signed: bytes
    signature: bytes


class UpdateServer:
    """A folder on a web server that holds the newest bundle, as `trainer sign` left it.

    Args:
        url: Of the folder; http or https.
        public_keys: Of those who may sign.
        ca_file: PEM file of the authority that signed an https server's certificate; those of the system if None.
    """

    def __init__(self, url: str, public_keys: Sequence[str], *, ca_file: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._public_keys = public_keys
        self._fetch = partial(download, ca_file=ca_file)

    def offer(self) -> Offer:
        """What the server has now.

        Raises:
            UpdateError: It cannot be reached, or shows a page to people.
            BundleError: What it has cannot be used.
        """
        where, beside = f"{self._url}/{MANIFEST_FILE}", f"{self._url}/{SIGNATURE_FILE}"
        signed = self._fetch(where, at_most=_LARGEST_MANIFEST)
        _refuse_page(signed, where=where, wanted="manifest")
        signature = self._fetch(beside, at_most=_LARGEST_SIGNATURE)
        _refuse_page(signature, where=beside, wanted="signature")
        require_signature(signed, signature, self._public_keys, where=where)
        return Offer(parse_manifest(signed, where), signed, signature)

    def newer(self, offer: Offer, running: Manifest) -> bool:
        """Whether an offer could take the place of the bundle in use.

        Raises:
            BundleIncompatible: It is another model, or needs a newer agent.
        """
        found = offer.manifest
        if found.name != running.name:
            raise BundleIncompatible(f"is the model {found.name}, this device runs {running.name}", where=self._url,
                                     remedy="Publish each model in a folder of its own")  # fmt: skip
        if found.release <= running.release:
            return False
        require_agent(found, metadata.version("edge-emotion"), where=self._url)
        return True

    def files(self, offer: Offer) -> dict[str, bytes]:
        """All files of an offer, as its manifest promises them.

        Raises:
            UpdateError: One cannot be fetched, or they are together too large to be a bundle.
            BundleCorrupt: One is another than was signed.
        """
        if sum(entry.size for entry in offer.manifest.files.values()) > _LARGEST_BUNDLE:
            raise UpdateError(f"has more than {_LARGEST_BUNDLE} bytes", where=self._url,
                              remedy="Publish a smaller model")  # fmt: skip
        files = {}
        for name, entry in offer.manifest.files.items():
            address = f"{self._url}/{name}"
            files[name] = self._fetch(address, at_most=entry.size)
            require_as_promised(files[name], entry, where=address)
        return {**files, MANIFEST_FILE: offer.signed, SIGNATURE_FILE: offer.signature}


def _refuse_page(content: bytes, *, where: str, wanted: str) -> None:
    """A web server may answer every address with a page, and so does one that wants a guest to log in first."""
    if content.lstrip().startswith(b"<"):
        raise UpdateError(f"is a web page, and no {wanted}", where=where,
                          remedy="See that the address is that of the bundle's folder")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known of releases.

    Attributes:
        latest: The newest one that the server had, or None before it was asked.
        checked_s: When it answered last, UTC seconds since 1970, or None.
        installing: Whether it is being fetched and tried out now.
        error: Why looking or installing failed last, or None.
    """

    latest: Manifest | None = None
    checked_s: float | None = None
    installing: bool = False
    error: str | None = None


class Updater:
    """Looks for a newer release in a thread of its own, for as long as its context is open.

    Args:
        server: Where to look.
        releases: Where to put what is found.
        running: The manifest of the bundle in use. Only another release of the same model takes its place.
        try_out: Loads a bundle as the agent would, and raises what is wrong with it.
        require_restart: Raises what would keep the agent from being opened again.
        on_outlook: Told what is known, whenever that changes.
        on_installed: Called when a newer release is in place; the agent is to load it then.
        interval_s: Between two looks.
        automatic: Whether what is found is installed at once; if not, only when somebody asks with `install`.
    """

    def __init__(
        self,
        *,
        server: UpdateServer,
        releases: Releases,
        running: Manifest,
        try_out: Callable[[Path], object],
        require_restart: Callable[[], object],
        on_outlook: Callable[[Outlook], None],
        on_installed: Callable[[], None],
        interval_s: float,
        automatic: bool,
    ) -> None:
        self._server = server
        self._releases = releases
        self._running = running
        self._try_out = try_out
        self._require_restart = require_restart
        self._on_outlook = on_outlook
        self._on_installed = on_installed
        self._interval_s = interval_s
        self._automatic = automatic
        self._outlook = Outlook()
        self._logged: str | None = None
        self._faults: dict[bytes, str] = {}  # of what was signed and does not work here, however often it is fetched
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="update", daemon=True)

    def __enter__(self) -> Self:
        self._on_outlook(self._outlook)
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopping.set()
        self._wake.set()
        self._thread.join(_STOP_WITHIN_S)  # a server that is silent for longer is left behind

    def install(self) -> None:
        """Looks now, and installs what is newer. Returns at once."""
        self._wake.set()

    def _run(self) -> None:
        pause_s = random.uniform(0, min(_FIRST_WITHIN_S, self._interval_s))  # noqa: S311 - spreads, guards nothing
        while True:
            asked = self._wake.wait(pause_s)
            if asked:
                self._wake.clear()
            if self._stopping.is_set():
                return
            pause_s = min(self._interval_s, _RETRY_S)
            try:
                if self._look(asked=asked):
                    self._on_installed()
                    return
                pause_s = self._interval_s
            except UserError as error:
                self._fail(str(error))
            except Exception:
                log.exception("looking for a newer model failed")
                self._fail("the agent failed to look; its log says more")

    def _look(self, *, asked: bool) -> bool:
        """Whether a newer release was installed."""
        offer = self._server.offer()
        newer = self._server.newer(offer, self._running)
        if (found := offer.manifest.release) < (running := self._running.release):
            log.info("the server has release %d, which is older than %d, in use here, and is never installed; publish "
                     "it with a higher number to go back to it", found, running)  # fmt: skip
        latest = offer.manifest if newer else self._running
        error = self._faults.get(offer.signed)
        install = newer and (asked or (self._automatic and error is None))
        self._tell(Outlook(latest, checked_s=time.time(), installing=install, error=error))
        if install:
            self._install(offer)
        self._logged = error
        return install and not self._stopping.is_set()

    def _install(self, offer: Offer) -> None:
        self._require_restart()
        files = self._server.files(offer)
        if self._stopping.is_set():
            return
        found = offer.manifest
        try:
            self._releases.keep(found.release, files, self._try_out)
        except BundleError as error:
            self._faults = {offer.signed: str(error)}
            raise
        log.info("%s %s (release %d) is in place of release %d", found.name, found.version, found.release,
                 self._running.release)  # fmt: skip

    def _fail(self, error: str) -> None:
        if self._stopping.is_set():
            return
        if error != self._logged:
            log.warning("the model is not updated: %s", error)
        self._logged = error
        self._tell(replace(self._outlook, installing=False, error=error))

    def _tell(self, outlook: Outlook) -> None:
        self._outlook = outlook
        self._on_outlook(outlook)
