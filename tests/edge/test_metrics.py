"""The health report as a Prometheus server would fetch it, over HTTP."""

from __future__ import annotations

import urllib.request
from urllib.error import URLError

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge.errors import ConfigError
from edge.metrics import serve_metrics
from edge.payloads import AdaptationHealth, CameraHealth, Health, ModelInfo, MqttHealth, Percentiles, Status
from tests.mosquitto import free_port


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
        "mqtt": MqttHealth(queue_depth=4, dropped=1, rejected=0, reconnects=2),
        "model": ModelInfo(name="m", version="1.0.0", sha256="0" * 64),
        "temperature_c": 61.5,
        "throttling": (),
        "rss_bytes": 1000,
        "adaptation": AdaptationHealth(level=2, reasons=("hot",), detection_factor=4, max_fps=None),
    }
    return Health.model_validate(fields | changes)


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
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
    assert samples["queue_depth",] == 4
    assert samples["events_dropped_total",] == 1
    assert samples["camera_status", "door", "online"] == 1
    assert samples["camera_fps", "door"] == 9.5
    assert samples["camera_frames_dropped_total", "door"] == 7
    assert samples["stage_latency_seconds", "door", "0.95", "total"] == 0.02


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


def test_an_address_that_is_not_ours_is_an_error() -> None:
    """A typo in the host is told as such."""
    with pytest.raises(ConfigError, match=r"metrics\.port"), serve_metrics(health, host="192.0.2.1", port=free_port()):
        pass
