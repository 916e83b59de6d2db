"""A TCP relay between client and broker that can drop connections and emulate an old or a restrictive broker."""

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
"""The CONNACK of a broker without MQTT 5: unacceptable protocol version (MQTT 3.1.1)."""


class Relay:
    """Forwards connections from a free port to the broker's port while the context is open.

    Args:
        port: The broker's port.
        mqtt5_reply: Sent to MQTT 5 clients, such as `NO_MQTT5`, before their connection is closed; None to forward
            their connections. May be changed at any time.
        intercept: Called with each packet from the client after CONNECT. Returns what to send to the client instead of
            forwarding the packet, or None to forward it. May raise `ConnectionAbortedError` to drop the connection.
        forbidden: Prefixes of topics and topic filters. The connection of a client that publishes on or subscribes to
            one of them is dropped. May be changed at any time.
    """

    def __init__(
        self,
        port: int,
        *,
        mqtt5_reply: bytes | None = None,
        intercept: Callable[[bytes], bytes | None] = lambda _packet: None,
        forbidden: Sequence[str] = (),
    ) -> None:
        self._intercept = intercept
        self.forbidden = forbidden
        self.dropped_over: list[str] = []
        """The forbidden topics and topic filters for which a connection was dropped, in order."""
        self.port = free_port()
        self.mqtt5_reply = mqtt5_reply
        self.ignores_mqtt5 = False
        """Whether to send nothing at all to MQTT 5 clients."""
        self.mqtt5_attempts = 0
        """Number of MQTT 5 connections so far."""
        self._links: list[socket.socket] = []
        self._link = self._handler(port)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def open(self) -> None:
        """Accepts connections."""
        self._server = _Server(("127.0.0.1", self.port), self._link)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}).start()

    def close(self) -> None:
        """Drops all connections and stops accepting new ones, until it is opened again."""
        self._server.shutdown()
        self.drop_connections()
        self._server.server_close()

    def drop_connections(self) -> None:
        """Drops all connections."""
        while self._links:
            with contextlib.suppress(OSError):  # already closed
                self._links.pop().shutdown(socket.SHUT_RDWR)

    def _intercept_or_drop(self, packet: bytes) -> bytes | None:
        topic = _topic(packet)
        if topic.startswith(tuple(self.forbidden)):
            self.dropped_over.append(topic)
            raise ConnectionAbortedError
        return self._intercept(packet)

    def _handler(self, port: int) -> type[socketserver.BaseRequestHandler]:
        relay, links = self, self._links

        class Link(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                client: socket.socket = self.request
                first = client.recv(4096)
                if first[8:9] == b"\x05":  # the protocol level, after packet type, length and "MQTT"
                    relay.mqtt5_attempts += 1
                    if relay.ignores_mqtt5:
                        client.recv(4096)  # until the client disconnects
                        return
                    if relay.mqtt5_reply is not None:
                        client.sendall(relay.mqtt5_reply)
                        return
                with socket.create_connection(("127.0.0.1", port)) as broker, contextlib.suppress(OSError):
                    links.extend((client, broker))
                    broker.sendall(first)
                    _pump(client, broker, relay._intercept_or_drop)

        return Link


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


def _pump(client: socket.socket, broker: socket.socket, intercept: Callable[[bytes], bytes | None]) -> None:
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
                reply = intercept(packet)
                (broker if reply is None else client).sendall(reply or packet)


def _first_packet(data: bytes) -> bytes | None:
    """Returns the first MQTT packet in the data, or None if it is incomplete."""
    length = 0
    for position, byte in enumerate(data[1:5]):
        length |= (byte & 127) << 7 * position
        if byte < 128:
            end = 2 + position + length
            return data[:end] if len(data) >= end else None
    return None


_PUBLISH, _SUBSCRIBE = 3, 8
"""MQTT control packet types."""


def _topic(packet: bytes) -> str:
    """Returns the topic of a PUBLISH, the first topic filter of a SUBSCRIBE, or an empty string for any other packet.

    A SUBSCRIBE is assumed to use MQTT 3.1.1, without properties.
    """
    kind = packet[0] >> 4
    if kind not in (_PUBLISH, _SUBSCRIBE):
        return ""
    begin = _header_end(packet) + (2 if kind == _SUBSCRIBE else 0)  # after the packet identifier
    return packet[begin + 2 : begin + 2 + int.from_bytes(packet[begin : begin + 2])].decode()


def _header_end(packet: bytes) -> int:
    """Returns the offset at which the fixed header of a packet ends."""
    return next(position for position in range(1, 5) if packet[position] < 128) + 1


def suback(packet: bytes, topic_filter: str, *, reason: int) -> bytes | None:
    """Returns an MQTT 5 SUBACK with the reason code if the packet subscribes to the filter, otherwise None."""
    if packet[0] >> 4 != _SUBSCRIBE or topic_filter.encode() not in packet:
        return None
    begin = _header_end(packet)
    return b"\x90\x04" + packet[begin : begin + 2] + bytes([0, reason])


def puback(packet: bytes, topic_suffix: str = "/event", *, reason: int) -> bytes | None:
    """Returns an MQTT 5 PUBACK with the reason code if the packet publishes on a topic with the suffix, else None."""
    topic = _topic(packet)
    if packet[0] >> 4 != _PUBLISH or not topic.endswith(topic_suffix):
        return None
    begin = _header_end(packet) + 2 + len(topic.encode())
    return b"\x40\x04" + packet[begin : begin + 2] + bytes([reason, 0])
