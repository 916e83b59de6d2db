"""A simple update server, and the publishing of signed releases on it."""

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
        folder: Folder to serve.
        tls: TLS context with the server's certificate, to serve https as localhost.

    Attributes:
        open: While cleared, requests for anything but manifest and signature block.
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
    """Publishes a release of a bundle in a folder, as created by `trainer export --release` and `trainer sign`.

    Args:
        web: The folder; its content is replaced.
        bundle: The bundle to copy.
        release: Release number; the version is then `release`.0.0.
        signing_key: Private key to sign with.
        edit: Changes the manifest before it is signed.
    """
    shutil.rmtree(web, ignore_errors=True)
    shutil.copytree(bundle, web)
    manifest = json.loads((web / MANIFEST_FILE).read_bytes())
    manifest |= {"release": release, "version": f"{release}.0.0"}
    edit(manifest)
    (web / MANIFEST_FILE).write_text(json.dumps(manifest))
    (web / SIGNATURE_FILE).write_text(sign((web / MANIFEST_FILE).read_bytes(), signing_key))
