"""Serves the health report as Prometheus metrics over HTTP. Imported only if metrics are enabled."""

from __future__ import annotations

import errno
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final
from wsgiref.simple_server import WSGIRequestHandler

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from edge.contract.errors import UserError
from edge.errors import ConfigError
from edge.payloads import CameraHealth, Health, MqttHealth

log = logging.getLogger(__name__)

_PREFIX = "emotion_edge"
_RETRY_S = 5.0
_STOP_TIMEOUT_S = 1.0
_REQUEST_TIMEOUT_S = 10.0
_MAX_CONNECTIONS = 24
_CONNECTION_SLOTS: Final = threading.BoundedSemaphore(_MAX_CONNECTIONS)


class AddressUnavailable(UserError):
    """The device does not have the address, or not yet, for example before DHCP has completed."""


@contextmanager
def serve_metrics(report: Callable[[], Health], *, host: str, port: int) -> Iterator[None]:
    """Serves metrics on `http://host:port/metrics` while the context is open.

    If the device does not have the address yet, a background thread keeps trying.

    Args:
        report: Returns the current health; called for each scrape, on a thread of the server.
        host: Address to listen on.
        port: Port to listen on.

    Raises:
        ConfigError: The server cannot listen there.
    """
    registry = CollectorRegistry()
    registry.register(HealthCollector(report))
    with ExitStack() as stack:
        try:
            stack.enter_context(_serve(registry, host, port))
        except AddressUnavailable as error:
            log.warning("%s Retrying until it is available", error)
            stack.enter_context(_serve_when_possible(registry, host, port))
        yield


def check_listening(*, host: str, port: int) -> None:
    """Checks that a metrics server can listen on an address, by starting one for a moment.

    Raises:
        ConfigError: It cannot.
        AddressUnavailable: It cannot at present.
    """
    with _serve(CollectorRegistry(), host, port):
        pass


@contextmanager
def _serve_when_possible(registry: CollectorRegistry, host: str, port: int) -> Iterator[None]:
    stopping = threading.Event()

    def serve() -> None:
        logged = ""
        while not stopping.wait(_RETRY_S):
            try:
                with _serve(registry, host, port):
                    stopping.wait()
            except UserError as error:
                if not isinstance(error, AddressUnavailable) and str(error) != logged:
                    logged = str(error)
                    log.warning("%s Retrying", logged)

    thread = threading.Thread(target=serve, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(_STOP_TIMEOUT_S)  # does not wait for a pending DNS lookup


@contextmanager
def _serve(registry: CollectorRegistry, host: str, port: int) -> Iterator[None]:
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except (OSError, UnicodeError) as error:
        raise _bind_error(error, host, port) from error
    server.RequestHandlerClass = _RequestHandler
    log.info("serving metrics on http://%s:%d/metrics", host, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _RequestHandler(WSGIRequestHandler):
    """Closes connections that take too long, and those that exceed the maximum number.

    Each connection occupies a thread, of which the service has a limited number, and may send 6 MB of headers.
    """

    def handle(self) -> None:
        """Handles one request."""
        if not _CONNECTION_SLOTS.acquire(blocking=False):
            return
        timeout = threading.Timer(_REQUEST_TIMEOUT_S, self._drop_connection)
        try:
            timeout.start()
            with suppress(OSError):  # the peer disconnected, or the request timed out
                super().handle()
        finally:
            timeout.cancel()
            _CONNECTION_SLOTS.release()

    def _drop_connection(self) -> None:
        with suppress(OSError):  # it may be closed already
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Does nothing: scrapes are not logged."""


def _bind_error(error: OSError | UnicodeError, host: str, port: int) -> UserError:
    """Converts the reason why a port cannot be used into a permanent or a temporary error."""
    what = f"metrics cannot be served on {host}:{port} ({getattr(error, 'strerror', None) or error})"
    if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return AddressUnavailable(what, where="metrics.host", remedy="Name an address of this device")
    remedy = "Choose a free port above 1023 and an address of this device, or remove metrics.port"
    return ConfigError(what, where="metrics.port", remedy=remedy)


class HealthCollector(Collector):
    """Converts health reports to Prometheus metrics. It has no state of its own.

    Args:
        report: Returns the current health.
    """

    def __init__(self, report: Callable[[], Health]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Yields all metrics of the current health report."""
        health = self._report()
        yield from _device_metrics(health)
        yield from _delivery_metrics(health.mqtt)
        yield from _camera_metrics(health.cameras)


def _device_metrics(health: Health) -> Iterator[Metric]:
    about = {"device": health.device, "model": health.model.name, "model_version": health.model.version}
    yield InfoMetricFamily(_PREFIX, "The device and its model.", value=about)
    yield _gauge("uptime_seconds", "Time since the start of the agent.", health.uptime_s)
    yield _gauge("resident_memory_bytes", "Resident memory of the agent.", health.rss_bytes)
    yield _gauge("time_synced", "Whether the wall clock is synchronized.", health.time_synced)
    if health.temperature_c is not None:
        yield _gauge("temperature_celsius", "Temperature of the processor.", health.temperature_c)
    if health.throttling is not None:
        yield _gauge("throttled", "Whether the firmware throttles the processor.", bool(health.throttling))
    if health.adaptation is not None:
        yield _gauge(
            "adaptation_level",
            "Adaptation level: 0 as configured; each higher level reduces the load further.",
            health.adaptation.level,
        )


def _delivery_metrics(mqtt: MqttHealth) -> Iterator[Metric]:
    yield _gauge("mqtt_connected", "Whether the agent is connected to the broker.", mqtt.connected)
    yield _gauge("queue_depth", "Events not acknowledged by the broker yet.", mqtt.queue_depth)
    yield _count("events_dropped", "Events lost because the outbox was full or its file damaged.", mqtt.dropped)
    yield _count("events_lost", "Events given up because the broker would always reject them.", mqtt.lost)
    yield _count("messages_rejected", "Messages rejected by the broker.", mqtt.rejected)
    yield _count("reconnects", "Reconnections to the broker.", mqtt.reconnects)


def _camera_metrics(cameras: dict[str, CameraHealth]) -> Iterator[Metric]:
    status = GaugeMetricFamily(f"{_PREFIX}_camera_status", "1 for the current status.", labels=("camera", "status"))
    fps = GaugeMetricFamily(f"{_PREFIX}_camera_fps", "Frames processed per second.", labels=("camera",))
    dropped = CounterMetricFamily(
        f"{_PREFIX}_camera_frames_dropped", "Frames dropped since the source was opened.", labels=("camera",)
    )
    faults = CounterMetricFamily(
        f"{_PREFIX}_camera_faults", "Failures after which the camera had to be reopened.", labels=("camera",)
    )
    # Only summaries may have quantiles, and SummaryMetricFamily does not support them.
    latency = Metric(f"{_PREFIX}_stage_latency_seconds", "Latency of each stage, over its last 500 runs.", "summary")
    for name, camera in cameras.items():
        status.add_metric((name, camera.status), 1)
        fps.add_metric((name,), camera.fps)
        dropped.add_metric((name,), camera.dropped_frames)
        faults.add_metric((name,), camera.faults)
        for stage, times in camera.latency_ms.items():
            for quantile, time_ms in (("0.5", times.p50), ("0.95", times.p95)):
                labels = {"camera": name, "stage": stage, "quantile": quantile}
                latency.add_sample(latency.name, labels, time_ms / 1000)
    return iter((status, fps, dropped, faults, latency))


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_{name}", meaning, value=value)


def _count(name: str, meaning: str, value: float) -> Metric:
    return CounterMetricFamily(f"{_PREFIX}_{name}", meaning, value=value)
