"""Builds the health report from the cameras, the publisher and the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge import system
from edge.camera import CameraWorker
from edge.domain import Instant
from edge.mqtt import PublisherStats
from edge.payloads import AdaptationHealth, CameraHealth, Health, ModelInfo, MqttHealth, Percentiles, Sender


class HealthReporter:
    """Builds the health reports of one agent.

    Args:
        sender: The device and session named in the payload.
        model: The model bundle in use.
        now: Returns the current time on both clocks.
    """

    def __init__(self, *, sender: Sender, model: ModelInfo, now: Callable[[], Instant]) -> None:
        self._sender = sender
        self._model = model
        self.model_name = f"{model.name} {model.version}"
        self._now = now
        self._started_s = now().mono_s

    def report(
        self, workers: Mapping[str, CameraWorker], delivery: PublisherStats, adaptation: AdaptationHealth | None = None
    ) -> Health:
        """Returns the current health."""
        now = self._now()
        return Health(
            **self._sender.envelope(now),
            uptime_s=round(now.mono_s - self._started_s, 1),
            cameras={name: _camera(worker) for name, worker in workers.items()},
            mqtt=MqttHealth(
                connected=delivery.connected,
                queue_depth=delivery.queue_depth,
                dropped=delivery.dropped,
                rejected=delivery.rejected,
                lost=delivery.lost,
                reconnects=delivery.reconnects,
            ),
            model=self._model,
            temperature_c=system.temperature_c(),
            throttling=system.throttling(),
            rss_bytes=system.resident_bytes(),
            adaptation=adaptation,
        )


def _camera(worker: CameraWorker) -> CameraHealth:
    return CameraHealth(
        status=worker.status,
        fps=round(worker.fps, 1),
        dropped_frames=worker.dropped,
        faults=worker.faults,
        latency_ms={
            stage: Percentiles(p50=round(p50, 2), p95=round(p95, 2))
            for stage, (p50, p95) in worker.pipeline.times.percentiles_ms().items()
        },
        max_fps=worker.max_fps,
    )
