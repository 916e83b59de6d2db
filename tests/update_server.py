"""A web server as a newcomer would set one up, and signed releases to put on it."""

from __future__ import annotations

import json
import shutil
import ssl
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from edge.contract.manifest import MANIFEST_FILE
from edge.contract.signature import SIGNATURE_FILE, sign


class UpdateWeb(ThreadingHTTPServer):
    """Serves a folder over HTTP while the context is open.

    Args:
        folder: What it serves.
        tls: The server's certificate, for https; its name is then localhost.

    Attributes:
        open: Cleared, it makes who asks for anything but manifest and signature wait.
    """

    daemon_threads = True

    def __init__(self, folder: Path, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Requests, directory=str(folder)))
        self.open = threading.Event()
        self.open.set()
        self.url = f"http://127.0.0.1:{self.server_port}/"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
            self.url = f"https://localhost:{self.server_port}/"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.open.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Requests(SimpleHTTPRequestHandler):
    server: UpdateWeb

    def do_GET(self) -> None:
        if not self.path.endswith((MANIFEST_FILE, SIGNATURE_FILE)):
            self.server.open.wait()
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


def publish(
    web: Path,
    bundle: Path,
    release: int,
    signing_key: str,
    *,
    edit: Callable[[dict[str, Any]], object] = lambda _manifest: None,
) -> None:
    """Puts a release of a bundle into a folder, as `trainer export --release` and `trainer sign` make it.

    Args:
        web: The folder; what was there is replaced.
        bundle: What to copy.
        release: Its number; its version is then `release`.0.0.
        signing_key: Who signs.
        edit: Changes the manifest before it is signed.
    """
    shutil.rmtree(web, ignore_errors=True)
    shutil.copytree(bundle, web)
    manifest = json.loads((web / MANIFEST_FILE).read_bytes())
    manifest |= {"release": release, "version": f"{release}.0.0"}
    edit(manifest)
    (web / MANIFEST_FILE).write_text(json.dumps(manifest))
    (web / SIGNATURE_FILE).write_text(sign((web / MANIFEST_FILE).read_bytes(), signing_key))
