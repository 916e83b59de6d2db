"""The health report as a Prometheus server would fetch it, over HTTP."""

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
    """A report of a device with one camera."""
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
    """Every sample by its name and the values of its labels."""
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name.removeprefix("emotion_edge_"), *sample.labels.values()): sample.value for sample in samples}


def test_a_scrape_tells_the_health_report() -> None:
    """Device, delivery and each camera are there, in Prometheus's units."""
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
    """Prometheus's own tools complain of any other, in both of its formats."""
    port = free_port()
    with serve_metrics(health, host="127.0.0.1", port=port):
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/metrics", headers={"Accept": accept})
        with connection.getresponse() as answer:
            assert answer.headers["Content-Type"].startswith(accept)
            text = answer.read().decode()
    families = list((openmetrics_families if "openmetrics" in accept else text_string_to_metric_families)(text))
    kinds = {family.type for family in families for sample in family.samples if "quantile" in sample.labels}
    assert kinds == {"summary"}


def test_what_the_machine_does_not_tell_is_left_out() -> None:
    """A temperature that cannot be read is no metric, rather than 0 °C; each scrape asks anew."""
    reports = iter((health(), health(temperature_c=None, throttling=None, adaptation=None)))
    port = free_port()
    with serve_metrics(lambda: next(reports), host="127.0.0.1", port=port):
        assert ("temperature_celsius",) in scrape(port)
        assert not {("temperature_celsius",), ("throttled",), ("adaptation_level",)} & scrape(port).keys()


def test_a_port_that_is_taken_is_an_error_and_a_closed_one_is_free() -> None:
    """The error names key, address and remedy; after the end, nobody listens and the port can be used again."""
    port = free_port()
    with (
        serve_metrics(health, host="127.0.0.1", port=port),
        pytest.raises(
            ConfigError, match=rf"metrics\.port: .*127\.0\.0\.1:{port} \(Address already in use\)\. Name a free"
        ),
        serve_metrics(health, host="127.0.0.1", port=port),
    ):
        pass
    with pytest.raises(URLError):
        scrape(port)
    with serve_metrics(health, host="127.0.0.1", port=port):
        assert scrape(port)


def test_who_connects_and_says_nothing_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service may have only so many threads, and each connection has one. Whoever asks is answered meanwhile."""
    monkeypatch.setattr(metrics, "_PATIENCE_S", 0.5)
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


def test_there_is_no_thread_for_more_than_a_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes while all turns are taken is hung up on at once, and comes again."""
    monkeypatch.setattr(metrics, "_PATIENCE_S", 2 * PATIENCE_S)
    port = free_port()
    with serve_metrics(health, host="127.0.0.1", port=port), ExitStack() as silent:
        before = threading.active_count()
        for number in range(1, metrics._MOST_AT_ONCE + 1):
            silent.enter_context(socket.create_connection(("127.0.0.1", port)))
            # Each has a thread, and an alarm clock that is another.
            wait_until(lambda number=number: threading.active_count() >= before + 2 * number)  # type: ignore[misc]
        one_more = silent.enter_context(socket.create_connection(("127.0.0.1", port)))
        one_more.settimeout(PATIENCE_S)
        assert one_more.recv(1) == b""


def test_a_turn_is_given_back_by_whoever_could_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the service has no thread left for the alarm clock, say; the next scrape is answered."""

    def no_thread(_timer: threading.Timer) -> None:
        raise RuntimeError("can't start new thread")

    port = free_port()
    with serve_metrics(health, host="127.0.0.1", port=port):
        with monkeypatch.context() as full:
            full.setattr(threading.Timer, "start", no_thread)
            for _ in range(metrics._MOST_AT_ONCE + 1):
                with socket.create_connection(("127.0.0.1", port)) as refused:
                    refused.settimeout(PATIENCE_S)
                    assert refused.recv(1) == b""
        assert scrape(port)


def takes(connection: socket.socket, more: bytes) -> bool:
    """Whether the other side still wants to hear."""
    try:
        connection.sendall(more)
    except OSError:
        return False
    return True


def test_who_never_comes_to_an_end_is_hung_up_on_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Headers that drip in keep a thread and its memory no longer."""
    monkeypatch.setattr(metrics, "_PATIENCE_S", 1.0)
    port = free_port()
    with serve_metrics(health, host="127.0.0.1", port=port), ExitStack() as slow:
        before = threading.active_count()
        dripping = slow.enter_context(socket.create_connection(("127.0.0.1", port)))
        dripping.sendall(b"GET /metrics HTTP/1.0\r\n")
        wait_until(lambda: not takes(dripping, b"x: y\r\n"))
        wait_until(lambda: threading.active_count() <= before)
        assert scrape(port)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_ours_is_told_and_waited_for(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """It may be a typo, or DHCP has not answered yet: the agent does its work meanwhile."""
    with serve_metrics(health, host=host, port=1):
        pass
    (told,) = caplog.messages
    assert told.startswith(f"metrics.host: metrics cannot be served on {host}:1 (")
    assert told.endswith("Name an address of this device. Trying again until it is there")


def test_a_port_that_is_taken_when_the_address_comes_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and it is tried again: whoever has the port may end."""
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


def test_a_host_that_no_network_can_have_is_an_error() -> None:
    """What will never work ends the start."""
    with pytest.raises(ConfigError, match=r"metrics\.port"), serve_metrics(health, host="x" * 70, port=1):
        pass


LATE = """
import logging, subprocess
from edge import metrics
from tests.edge.test_metrics import health, scrape
from tests.mosquitto import wait_until

def answered():
    try:
        return scrape(9464, host="192.0.2.1")
    except OSError:
        return None

metrics._RETRY_S = 0.05
logging.basicConfig(level=logging.INFO, format="%(message)s")
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with metrics.serve_metrics(health, host="192.0.2.1", port=9464):
    subprocess.run(["ip", "address", "add", "192.0.2.1", "dev", "lo"], check=True)
    wait_until(answered)
"""


def test_metrics_begin_when_the_address_comes() -> None:
    """A device that starts before its network does needs no second start."""
    alone = ["unshare", "--net", "--map-root-user"]  # with a network of its own
    if shutil.which("ip") is None or subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make networks, or iproute2 is not installed")
    done = subprocess.run([*alone, sys.executable, "-c", LATE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Cannot assign requested address" in done.stderr
    assert "metrics are on http://192.0.2.1:9464/metrics" in done.stderr
