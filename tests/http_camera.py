"""An HTTP camera that misbehaves when told to."""

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
"""The picture with that number, as uint8 (H, W, 3) BGR."""


class HttpCamera(ThreadingHTTPServer):
    """Sends fifty JPEGs a second as multipart/x-mixed-replace while the context is open.

    Args:
        scene: What it films; if not given, it is a gray that grows lighter with each picture, in `size`.
        port: A free one if not given.

    Attributes:
        behaviour: `send`; `stall` says nothing more; `close` ends the stream; `truncate` sends the first half of each
            picture and `headers` a part too short to be a picture; `rubbish` sends what is none.
        size: Height and width of the gray.
    """

    daemon_threads = True

    def __init__(self, *, scene: Scene | None = None, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Stream)
        self.behaviour = "send"
        self.size = (240, 320)
        self.scene = scene or self._gray
        self.ending = threading.Event()
        self._streams: set[threading.Event] = set()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.ending.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        wait_until(lambda: not self._streams)

    @property
    def url(self) -> str:
        """Its address, with a password."""
        return f"http://viewer:hunter2@127.0.0.1:{self.server_port}/video"

    def hang(self) -> None:
        """Makes the open streams say nothing more; a new one works."""
        for hung in tuple(self._streams):  # a stream may end meanwhile
            hung.set()

    def picture(self, number: int) -> bytes:
        """What it sends as a picture."""
        jpeg: bytes = cv2.imencode(".jpg", self.scene(number))[1].tobytes()
        cut = {"truncate": jpeg[: len(jpeg) // 2], "headers": jpeg[:40], "rubbish": b"\xff\xd8" + b"rubbish" * 400}
        return cut.get(self.behaviour, jpeg)

    def stream(self, send: Callable[[bytes], object]) -> None:
        """Sends pictures to one client until it hangs up or the camera has enough."""
        number, hung = 0, threading.Event()
        self._streams.add(hung)
        try:
            while not self.ending.wait(0.02) and self.behaviour != "close":
                if self.behaviour == "stall" or hung.is_set():
                    continue
                jpeg = self.picture(number)
                send(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%b\r\n" % (len(jpeg), jpeg))
                number += 1
        except ConnectionError:  # the agent has hung up
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
