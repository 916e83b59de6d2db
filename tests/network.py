"""A network between a client and a broker that can be cut, and that can play an old broker."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import threading
from typing import Self

from tests.mosquitto import free_port


class Relay:
    """Passes bytes on to a port of this machine, from a port of its own, while it is open.

    Args:
        port: Where to.
        refuse_mqtt5: Whether to answer a client that speaks MQTT 5 as a broker of the old kind does.
    """

    def __init__(self, port: int, *, refuse_mqtt5: bool = False) -> None:
        self.port = free_port()
        self._links: list[socket.socket] = []
        self._link = self._handler(port, refuse_mqtt5=refuse_mqtt5)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shut()

    def open(self) -> None:
        """Lets connections through."""
        self._server = _Server(("127.0.0.1", self.port), self._link)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}).start()

    def shut(self) -> None:
        """Breaks all connections; until it is opened again, nothing listens on its port."""
        self._server.shutdown()
        self.cut()
        self._server.server_close()

    def cut(self) -> None:
        """Breaks all connections."""
        while self._links:
            with contextlib.suppress(OSError):  # it is closed already
                self._links.pop().shutdown(socket.SHUT_RDWR)

    def _handler(self, port: int, *, refuse_mqtt5: bool) -> type[socketserver.BaseRequestHandler]:
        links = self._links

        class Link(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                client: socket.socket = self.request
                first = client.recv(4096)
                if refuse_mqtt5 and first[8:9] == b"\x05":  # the level, after type, length and the name "MQTT"
                    client.sendall(b"\x20\x02\x00\x01")
                    return
                with socket.create_connection(("127.0.0.1", port)) as broker, contextlib.suppress(OSError):
                    links.extend((client, broker))
                    broker.sendall(first)
                    _pump(client, broker)

        return Link


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


def _pump(client: socket.socket, broker: socket.socket) -> None:
    other = {client: broker, broker: client}
    while True:
        for source in select.select([client, broker], [], [])[0]:
            data = source.recv(65_536)
            if not data:
                return
            other[source].sendall(data)
