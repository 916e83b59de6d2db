"""How the device fares, gathered from the cameras, the publisher and the machine into one payload."""

from __future__ import annotations

import time
from collections.abc import Mapping

from edge import system
from edge.camera import CameraWorker
from edge.mqtt import PublisherStats
from edge.payloads import AdaptationHealth, CameraHealth, Health, ModelInfo, MqttHealth, Percentiles, timestamp


class HealthReporter:
    """Writes health reports of one agent.

    Args:
        device: The device's name.
        session: Number of the agent's start.
        model: The bundle in use.
        clock: Knows whether the wall clock can be trusted.
    """

    def __init__(self, *, device: str, session: int, model: ModelInfo, clock: system.ClockState) -> None:
        self._device = device
        self._session = session
        self._model = model
        self.model_name = f"{model.name} {model.version}"
        self._clock = clock
        self._started_s = time.monotonic()

    def report(
        self, workers: Mapping[str, CameraWorker], delivery: PublisherStats, adaptation: AdaptationHealth | None = None
    ) -> Health:
        """The health of this moment."""
        now_s = time.monotonic()
        return Health(
            device=self._device,
            session=self._session,
            ts=timestamp(time.time()),
            mono_ms=round(now_s * 1000),
            time_synced=self._clock.synced(),
            uptime_s=round(now_s - self._started_s, 1),
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
