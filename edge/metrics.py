"""The health report as Prometheus metrics on a local port, for those who asked for it. Only then is this imported."""

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
_PATIENCE_S = 10.0
_MOST_AT_ONCE = 24


_TURNS: Final = threading.BoundedSemaphore(_MOST_AT_ONCE)


class AddressAbsent(UserError):
    """This device does not have the address, and may get it yet: before DHCP has answered, it has hardly any."""


@contextmanager
def serve_metrics(report: Callable[[], Health], *, host: str, port: int) -> Iterator[None]:
    """Answers scrapes on `http://host:port/metrics` for as long as the context is open.

    An address that the device does not have yet is waited for, on a thread of its own.

    Args:
        report: The health of this moment; called for each scrape, on the server's thread.
        host: Address to listen on.
        port: Port to listen on.

    Raises:
        ConfigError: Nobody can listen there.
    """
    registry = CollectorRegistry()
    registry.register(HealthCollector(report))
    with ExitStack() as stack:
        try:
            stack.enter_context(_serve(registry, host, port))
        except AddressAbsent as error:
            log.warning("%s Trying again until it is there", error)
            stack.enter_context(_serve_when_possible(registry, host, port))
        yield


def try_to_serve(*, host: str, port: int) -> None:
    """Serves nothing there, for a moment.

    Raises:
        ConfigError: Nobody can listen there.
        AddressAbsent: Nobody can for the time being.
    """
    with _serve(CollectorRegistry(), host, port):
        pass


@contextmanager
def _serve_when_possible(registry: CollectorRegistry, host: str, port: int) -> Iterator[None]:
    stopping = threading.Event()

    def serve() -> None:
        told = ""
        while not stopping.wait(_RETRY_S):
            try:
                with _serve(registry, host, port):
                    stopping.wait()
            except UserError as error:
                if not isinstance(error, AddressAbsent) and str(error) != told:
                    told = str(error)
                    log.warning("%s Trying again", told)

    thread = threading.Thread(target=serve, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(_STOP_TIMEOUT_S)  # a host's name that is just being looked up is not waited for


@contextmanager
def _serve(registry: CollectorRegistry, host: str, port: int) -> Iterator[None]:
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except (OSError, UnicodeError) as error:
        raise _fault(error, host, port) from error
    server.RequestHandlerClass = _Scrape
    log.info("metrics are on http://%s:%d/metrics", host, port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Scrape(WSGIRequestHandler):
    """Hangs up on those who take their time, and on all beyond a few at once.

    Each has a thread, of which the service may have only so many, and may send 6 MB of headers.
    """

    def handle(self) -> None:
        """Answers one request."""
        if not _TURNS.acquire(blocking=False):
            return
        hang_up = threading.Timer(_PATIENCE_S, self._hang_up)
        try:
            hang_up.start()
            with suppress(OSError):  # the peer has gone, or was hung up on
                super().handle()
        finally:
            hang_up.cancel()
            _TURNS.release()

    def _hang_up(self) -> None:
        with suppress(OSError):  # it may have ended by itself
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Nobody wants a line for each scrape."""


def _fault(error: OSError | UnicodeError, host: str, port: int) -> UserError:
    """What keeps a port from being listened on, as an error of the configuration or of the moment."""
    what = f"metrics cannot be served on {host}:{port} ({getattr(error, 'strerror', None) or error})"
    if isinstance(error, socket.gaierror) or getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
        return AddressAbsent(what, where="metrics.host", remedy="Name an address of this device")
    remedy = "Name a free port above 1023 and an address of this device, or leave metrics.port out"
    return ConfigError(what, where="metrics.port", remedy=remedy)


class HealthCollector(Collector):
    """Tells a health report in Prometheus's words; it keeps no figures of its own.

    Args:
        report: The health of this moment.
    """

    def __init__(self, report: Callable[[], Health]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Every metric."""
        health = self._report()
        yield from _of_device(health)
        yield from _of_delivery(health.mqtt)
        yield from _of_cameras(health.cameras)


def _of_device(health: Health) -> Iterator[Metric]:
    about = {"device": health.device, "model": health.model.name, "model_version": health.model.version}
    yield InfoMetricFamily(_PREFIX, "The device and its model.", value=about)
    yield _gauge("uptime_seconds", "Since the agent's start.", health.uptime_s)
    yield _gauge("resident_memory_bytes", "Resident memory.", health.rss_bytes)
    yield _gauge("time_synced", "Whether the wall clock can be trusted.", health.time_synced)
    if health.temperature_c is not None:
        yield _gauge("temperature_celsius", "Of the processor.", health.temperature_c)
    if health.throttling is not None:
        yield _gauge("throttled", "Whether the firmware slows the processor down.", bool(health.throttling))
    if health.adaptation is not None:
        yield _gauge("adaptation_level", "0 as configured; more to spare the device.", health.adaptation.level)


def _of_delivery(mqtt: MqttHealth) -> Iterator[Metric]:
    yield _gauge("mqtt_connected", "Whether the broker has let the agent in.", mqtt.connected)
    yield _gauge("queue_depth", "Events that the broker has not acknowledged.", mqtt.queue_depth)
    yield _count("events_dropped", "Events lost because the outbox was full or its file damaged.", mqtt.dropped)
    yield _count("events_lost", "Events given up because the broker would refuse them at any time.", mqtt.lost)
    yield _count("messages_rejected", "Refusals by the broker.", mqtt.rejected)
    yield _count("reconnects", "Connections to the broker after the first.", mqtt.reconnects)


def _of_cameras(cameras: dict[str, CameraHealth]) -> Iterator[Metric]:
    status = GaugeMetricFamily(f"{_PREFIX}_camera_status", "1 for the one that holds.", labels=("camera", "status"))
    fps = GaugeMetricFamily(f"{_PREFIX}_camera_fps", "Frames analysed a second.", labels=("camera",))
    dropped = CounterMetricFamily(
        f"{_PREFIX}_camera_frames_dropped", "Passed over since the source was opened.", labels=("camera",)
    )
    faults = CounterMetricFamily(f"{_PREFIX}_camera_faults", "How often it had to be opened again.", labels=("camera",))
    # Only a summary may have quantiles, and the library's own has none.
    latency = Metric(f"{_PREFIX}_stage_latency_seconds", "Of each stage, over its newest 500 times.", "summary")
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
