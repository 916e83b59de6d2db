"""The metrics endpoint, scraped over HTTP like by a Prometheus server."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import ExitStack
from http.client import HTTPConnection
from urllib.error import URLError

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from edge import metrics
from edge.errors import ConfigError
from edge.metrics import serve_metrics
from edge.payloads import AdaptationHealth, CameraHealth, Health, ModelInfo, MqttHealth, Percentiles, Status
from tests.mosquitto import PATIENCE_S, free_port, wait_until


def health(**changes: object) -> Health:
    """A health report of a device with one camera."""
    fields: dict[str, object] = {
        "device": "hall",
        "session": 3,
        "ts": "2026-01-31T23:59:59.123Z",
        "mono_ms": 1,
        "time_synced": True,
        "uptime_s": 12.5,
        "cameras": {
            "door": CameraHealth(
                status=Status.ONLINE,
                fps=9.5,
                dropped_frames=7,
                faults=1,
                latency_ms={"total": Percentiles(p50=10, p95=20)},
            )
        },
        "mqtt": MqttHealth(connected=True, queue_depth=4, dropped=1, rejected=0, lost=2, reconnects=2),
        "model": ModelInfo(name="m", version="1.0.0", sha256="0" * 64),
        "temperature_c": 61.5,
        "throttling": (),
        "rss_bytes": 1000,
        "adaptation": AdaptationHealth(level=2, reasons=("hot",), detection_factor=4, max_fps=None),
    }
    return Health.model_validate(fields | changes)


def scrape(port: int, *, host: str = "127.0.0.1") -> dict[tuple[str, ...], float]:
    """Returns all samples by name and label values."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name.removeprefix("emotion_edge_"), *sample.labels.values()): sample.value for sample in samples}


def test_a_scrape_contains_the_health_report() -> None:
    """Device, delivery and each camera are included, in Prometheus base units."""
    port = free_port()
    with serve_metrics(health, host="127.0.0.1", port=port):
        samples = scrape(port)
    assert samples["info", "hall", "m", "1.0.0"] == 1
    assert samples["uptime_seconds",] == 12.5
    assert samples["temperature_celsius",] == 61.5
    assert samples["adaptation_level",] == 2
    assert samples["throttled",] == 0
    assert samples["mqtt_connected",] == 1
    assert samples["queue_depth",] == 4
    assert samples["events_dropped_total",] == 1
    assert samples["events_lost_total",] == 2
    assert samples["camera_status", "door", "online"] == 1
    assert samples["camera_fps", "door"] == 9.5
    assert samples["camera_frames_dropped_total", "door"] == 7
    assert samples["stage_latency_seconds", "door", "0.95", "total"] == 0.02


@pytest.mark.parametrize("accept", ["text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0"])
def test_only_a_summary_has_quantiles(accept: str) -> None:
    """Prometheus's tools reject quantiles in other types, in both exposition formats."""
    port = free_port()
    with serve_metrics(health, host="127.0.0.1", port=port):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/metrics", headers={"Accept": accept})
        with connection.getresponse() as response:
            assert response.headers["Content-Type"].startswith(accept)
            text = response.read().decode()
    families = list((openmetrics_families if "openmetrics" in accept else text_string_to_metric_families)(text))
    types = {family.type for family in families for sample in family.samples if "quantile" in sample.labels}
    assert types == {"summary"}


def test_unavailable_values_are_omitted() -> None:
    """A temperature that cannot be read is omitted rather than 0 °C, and each scrape gets a new report."""
    reports = iter((health(), health(temperature_c=None, throttling=None, adaptation=None)))
    port = free_port()
    with serve_metrics(lambda: next(reports), host="127.0.0.1", port=port):
        assert ("temperature_celsius",) in scrape(port)
        assert not {("temperature_celsius",), ("throttled",), ("adaptation_level",)} & scrape(port).keys()


def test_a_port_in_use_is_an_error_and_free_again_after_closing() -> None:
    """The error names key, address and remedy; after closing, the port can be used again."""
    port = free_port()
    with (
        serve_metrics(health, host="127.0.0.1", port=port),
        pytest.raises(
            ConfigError, match=rf"metrics\.port: .*127\.0\.0\.1:{port} \(Address already in use\)\. Choose a free"
        ),
        serve_metrics(health, host="127.0.0.1", port=port),
    ):
        pass
    with pytest.raises(URLError):
        scrape(port)
    with serve_metrics(health, host="127.0.0.1", port=port):
        assert scrape(port)


def test_a_silent_connection_is_dropped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An idle connection occupies one of a limited number of threads; other scrapes are served meanwhile."""
    monkeypatch.setattr(metrics, "_REQUEST_TIMEOUT_S", 0.5)
    port = free_port()
    with serve_metrics(health, host="127.0.0.1", port=port):
        before = threading.active_count()
        with ExitStack() as silent:
            connections = [silent.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(20)]
            assert scrape(port)
            for connection in connections:
                connection.settimeout(PATIENCE_S)
                assert connection.recv(1) == b""
            wait_until(lambda: threading.active_count() <= before)
    assert capsys.readouterr().err == ""


def test_connections_beyond_the_maximum_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that finds all slots in use is dropped at once, and can be retried."""
    monkeypatch.setattr(metrics, "_REQUEST_TIMEOUT_S", 2 * PATIENCE_S)
    port = free_port()
    with serve_metrics(health, host="127.0.0.1", port=port), ExitStack() as silent:
        before = threading.active_count()
        for number in range(1, metrics._MAX_CONNECTIONS + 1):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
            # Each has a thread and a timer, which is another thread.
            wait_until(lambda number=number: threading.active_count() >= before + 2 * number)  # type: ignore[misc]
        excess = silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        excess.settimeout(PATIENCE_S)
        assert excess.recv(1) == b""


def test_a_slot_is_released_if_the_request_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there is no thread left for the timer, for example, the next scrape is still served."""

    def no_thread(_timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    port = free_port()
    with serve_metrics(health, host="127.0.0.1", port=port):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Timer, "start", no_thread)
            for _ in range(metrics._MAX_CONNECTIONS + 1):
                with socket.create_connection(("127.0.0.1", port)) as rejected:
                    rejected.settimeout(PATIENCE_S)
                    assert rejected.recv(1) == b""
        assert scrape(port)


def accepts(connection: socket.socket, more: bytes) -> bool:
    """Returns whether the connection is still open, by sending more data."""
    try:
        connection.sendall(more)
    except OSError:
        return False
    return True


def test_a_request_that_never_ends_is_dropped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Headers that arrive slowly do not occupy a thread and its memory beyond the timeout."""
    monkeypatch.setattr(metrics, "_REQUEST_TIMEOUT_S", 1.0)
    port = free_port()
    with serve_metrics(health, host="127.0.0.1", port=port), ExitStack() as slow:
        before = threading.active_count()
        slow_connection = slow.enter_context(socket.create_connection(("127.0.0.1", port)))
        slow_connection.sendall(b"GET /metrics HTTP/1.0\r\n")
        wait_until(lambda: not accepts(slow_connection, b"x: y\r\n"))
        wait_until(lambda: threading.active_count() <= before)
        assert scrape(port)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_unavailable_address_is_logged_and_retried(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """It may be a typo, or DHCP has not completed yet, so the agent keeps running."""
    with serve_metrics(health, host=host, port=1):
        pass
    (message,) = caplog.messages
    assert message.startswith(f"metrics.host: metrics cannot be served on {host}:1 (")
    assert message.endswith("Name an address of this device. Retrying until it is available")


def test_a_port_in_use_when_the_address_becomes_available_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Serving is retried, because the port may become free later."""
    faults = iter([errno.EADDRNOTAVAIL, *[errno.EADDRINUSE] * 3])
    tried = threading.Event()

    def start(*_: object, **__: object) -> None:
        if (number := next(faults, None)) is None:
            tried.set()
        raise OSError(number or errno.EADDRINUSE, os.strerror(number or errno.EADDRINUSE))

    monkeypatch.setattr(metrics, "start_http_server", start)
    monkeypatch.setattr(metrics, "_RETRY_S", 0.01)
    with serve_metrics(health, host="192.0.2.1", port=1):
        assert tried.wait(PATIENCE_S)
    assert [message for message in caplog.messages if "Address already in use" in message] == [caplog.messages[1]]


def test_an_invalid_host_is_an_error() -> None:
    """An address that can never work keeps the agent from starting."""
    with pytest.raises(ConfigError, match=r"metrics\.port"), serve_metrics(health, host="x" * 70, port=1):
        pass


LATE_ADDRESS_SCRIPT = """
import logging, subprocess
from edge import metrics
from tests.edge.test_metrics import health, scrape
from tests.mosquitto import wait_until

def scraped():
    try:
        return scrape(9464, host="192.0.2.1")
    except OSError:
        return None

metrics._RETRY_S = 0.05
logging.basicConfig(level=logging.INFO, format="%(message)s")
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with metrics.serve_metrics(health, host="192.0.2.1", port=9464):
    subprocess.run(["ip", "address", "add", "192.0.2.1", "dev", "lo"], check=True)
    wait_until(scraped)
"""


def test_metrics_are_served_once_the_address_is_available() -> None:
    """A device that starts before its network is up needs no restart."""
    isolated = ["unshare", "--net", "--map-root-user"]  # in a network namespace of its own
    if shutil.which("ip") is None or subprocess.run([*isolated, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not create network namespaces, or iproute2 is not installed")
    result = subprocess.run(
        [*isolated, sys.executable, "-c", LATE_ADDRESS_SCRIPT], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Cannot assign requested address" in result.stderr
    assert "serving metrics on http://192.0.2.1:9464/metrics" in result.stderr
