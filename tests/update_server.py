"""An HTTP server for model updates, and a helper that publishes signed releases on it."""

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


class UpdateHTTPServer(ThreadingHTTPServer):
    """Serves a folder over HTTP while the context is open.

    Args:
        folder: Folder to serve.
        tls: TLS context with the server's certificate, to serve HTTPS as localhost.

    Attributes:
        unblocked: While cleared, requests for files other than manifest and signature block.
    """

    daemon_threads = True

    def __init__(self, folder: Path, *, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), partial(_RequestHandler, directory=str(folder)))
        self.unblocked = threading.Event()
        self.unblocked.set()
        self.url = f"http://127.0.0.1:{self.server_port}/"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
            self.url = f"https://localhost:{self.server_port}/"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.unblocked.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _RequestHandler(SimpleHTTPRequestHandler):
    server: UpdateHTTPServer

    def do_GET(self) -> None:
        if not self.path.endswith((MANIFEST_FILE, SIGNATURE_FILE)):
            self.server.unblocked.wait()
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


def publish(
    folder: Path,
    bundle: Path,
    release: int,
    signing_key: str,
    *,
    edit: Callable[[dict[str, Any]], object] = lambda _manifest: None,
) -> None:
    """Writes a signed release of a bundle to a folder, as `trainer export --release` and `trainer sign` create it.

    Args:
        folder: The folder that the server serves; its content is replaced.
        bundle: The bundle to copy.
        release: Release number; the version is then `release`.0.0.
        signing_key: Private key to sign with.
        edit: Modifies the manifest before it is signed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bundle, folder)
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())
    manifest |= {"release": release, "version": f"{release}.0.0"}
    edit(manifest)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    (folder / SIGNATURE_FILE).write_text(sign((folder / MANIFEST_FILE).read_bytes(), signing_key))
