"""An HTTP (MJPEG) camera with faults that a test can switch on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.mosquitto import wait_until

Scene = Callable[[int], NDArray[np.uint8]]
"""Returns the image for a frame number, as uint8 (H, W, 3) BGR."""


class HttpCamera(ThreadingHTTPServer):
    """Sends fifty JPEGs per second as multipart/x-mixed-replace while the context is open.

    Args:
        scene: The images to send; by default gray images of `size`, each brighter than the one before.
        port: The port to listen on; 0 for a free one.

    Attributes:
        behavior: `send`; `stall` sends nothing more; `close` ends the stream; `truncate` sends the first half of each
            image, `headers` a part too short to be an image, and `garbage` data that is not an image.
        size: Height and width of the gray images.
    """

    daemon_threads = True

    def __init__(self, *, scene: Scene | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Stream)
        self.behavior = "send"
        self.size = (240, 320)
        self.scene = scene or self._gray
        self.stopping = threading.Event()
        self._streams: set[threading.Event] = set()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        wait_until(lambda: not self._streams)

    @property
    def url(self) -> str:
        """The URL, including user name and password."""
        return f"http://viewer:hunter2@127.0.0.1:{self.server_port}/video"

    def hang(self) -> None:
        """Stalls the open streams; new ones work."""
        for hung in tuple(self._streams):  # a stream may end meanwhile
            hung.set()

    def image(self, number: int) -> bytes:
        """Returns the data sent as an image, which depends on `behavior`."""
        jpeg: bytes = cv2.imencode(".jpg", self.scene(number))[1].tobytes()
        faulty = {"truncate": jpeg[: len(jpeg) // 2], "headers": jpeg[:40], "garbage": b"\xff\xd8" + b"garbage" * 400}
        return faulty.get(self.behavior, jpeg)

    def stream(self, send: Callable[[bytes], object]) -> None:
        """Sends images to one client until it disconnects or the stream ends."""
        number, hung = 0, threading.Event()
        self._streams.add(hung)
        try:
            while not self.stopping.wait(0.02) and self.behavior != "close":
                if self.behavior == "stall" or hung.is_set():
                    continue
                jpeg = self.image(number)
                send(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(jpeg), jpeg))
                number += 1
        except ConnectionError:  # the client disconnected
            return
        finally:
            self._streams.discard(hung)

    def _gray(self, number: int) -> NDArray[np.uint8]:
        image = np.full((*self.size, 3), number % 250, np.uint8)
        image[:, ::2] += 5
        return image


class _Stream(BaseHTTPRequestHandler):
    server: HttpCamera

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        self.server.stream(self.wfile.write)

    def log_message(self, *args: object) -> None: ...
