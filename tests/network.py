"""A network between a client and a broker that can be cut, and that can play an old broker or one that refuses."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import threading
from collections.abc import Callable, Sequence
from typing import Self

from tests.mosquitto import free_port

NO_MQTT5 = b"\x20\x02\x00\x01"
"""What a broker of the old kind says to a client that speaks MQTT 5: unacceptable version of the protocol."""


class Relay:
    """Passes bytes on to a port of this machine, from a port of its own, while it is open.

    Args:
        port: Where to.
        last_word_to_mqtt5: What a client that speaks MQTT 5 hears before it is hung up on, as `NO_MQTT5`; None to let
            it through. Others may change it.
        answer: What to answer to a packet of the client in the broker's place; None to pass the packet on.
        forbidden: Under which prefixes of topics and filters a packet is answered by hanging up. Others may change it.
    """

    def __init__(
        self,
        port: int,
        *,
        last_word_to_mqtt5: bytes | None = None,
        answer: Callable[[bytes], bytes | None] = lambda _packet: None,
        forbidden: Sequence[str] = (),
    ) -> None:
        self._answer = answer
        self.forbidden = forbidden
        self.hung_up: list[str] = []
        """The topics and filters over which it did."""
        self.port = free_port()
        self.last_word_to_mqtt5 = last_word_to_mqtt5
        self.silent_to_mqtt5 = False
        """Whether such a client hears nothing instead."""
        self.mqtt5_tried = 0
        """How many such clients have come."""
        self._links: list[socket.socket] = []
        self._link = self._handler(port)

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

    def _answer_or_hang_up(self, packet: bytes) -> bytes | None:
        topic = _topic(packet)
        if topic.startswith(tuple(self.forbidden)):
            self.hung_up.append(topic)
            raise ConnectionAbortedError
        return self._answer(packet)

    def _handler(self, port: int) -> type[socketserver.BaseRequestHandler]:
        relay, links = self, self._links

        class Link(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                client: socket.socket = self.request
                first = client.recv(4096)
                if first[8:9] == b"\x05":  # after type, length and the name "MQTT"
                    relay.mqtt5_tried += 1
                    if relay.silent_to_mqtt5:
                        client.recv(4096)  # until it hangs up
                        return
                    if relay.last_word_to_mqtt5 is not None:
                        client.sendall(relay.last_word_to_mqtt5)
                        return
                with socket.create_connection(("127.0.0.1", port)) as broker, contextlib.suppress(OSError):
                    links.extend((client, broker))
                    broker.sendall(first)
                    _pump(client, broker, relay._answer_or_hang_up)

        return Link


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


def _pump(client: socket.socket, broker: socket.socket, answer: Callable[[bytes], bytes | None]) -> None:
    from_client = b""
    while True:
        for source in select.select([client, broker], [], [])[0]:
            data = source.recv(65_536)
            if not data:
                return
            if source is broker:
                client.sendall(data)
                continue
            from_client += data
            while packet := _first_packet(from_client):
                from_client = from_client[len(packet) :]
                answered = answer(packet)
                (broker if answered is None else client).sendall(answered or packet)


def _first_packet(data: bytes) -> bytes | None:
    """The MQTT packet that the bytes begin with, None if it is not whole yet."""
    length = 0
    for place, byte in enumerate(data[1:5]):
        length |= (byte & 127) << 7 * place
        if byte < 128:
            end = 2 + place + length
            return data[:end] if len(data) >= end else None
    return None


_PUBLISH, _SUBSCRIBE = 3, 8
"""Kinds of packet."""


def _topic(packet: bytes) -> str:
    """The topic of a PUBLISH, or the first filter of a SUBSCRIBE; nothing of any other packet."""
    kind = packet[0] >> 4
    if kind not in (_PUBLISH, _SUBSCRIBE):
        return ""
    begin = _content(packet) + (2 if kind == _SUBSCRIBE else 0)  # after its number
    return packet[begin + 2 : begin + 2 + int.from_bytes(packet[begin : begin + 2])].decode()


def _content(packet: bytes) -> int:
    """Where a packet's length ends."""
    return next(place for place in range(1, 5) if packet[place] < 128) + 1


def refuse_subscription(packet: bytes, topic_filter: str, *, reason: int) -> bytes | None:
    """The SUBACK (MQTT 5) for a client that wants to listen to this and may not, for a reason."""
    if packet[0] >> 4 != _SUBSCRIBE or topic_filter.encode() not in packet:
        return None
    number = _content(packet)
    return b"\x90\x04" + packet[number : number + 2] + bytes([0, reason])


def acknowledge(packet: bytes, topic_end: str = "/event", *, reason: int) -> bytes | None:
    """The PUBACK (MQTT 5) for a message of the client on a topic with this end, with a reason, 0 for success."""
    topic = _topic(packet)
    if packet[0] >> 4 != _PUBLISH or not topic.endswith(topic_end):
        return None
    number = _content(packet) + 2 + len(topic.encode())
    return b"\x40\x04" + packet[number : number + 2] + bytes([reason, 0])
