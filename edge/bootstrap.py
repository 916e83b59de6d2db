"""The composition root: builds an agent, with its concrete adapters, from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from edge import homeassistant
from edge.adapters import (
    broker_settings,
    camera_source,
    face_detector,
    newest_classifier,
    releases,
    require_usable,
    update_server,
)
from edge.agent import Agent
from edge.camera import CameraWorker
from edge.classify import BundleClassifier
from edge.compose import Composer
from edge.config import CameraConfig, Config
from edge.controls import Controls
from edge.device_messages import DeviceMessages
from edge.governor import Governor
from edge.health import HealthReporter
from edge.message import camera_status_message
from edge.outbox import Outbox
from edge.payloads import ModelInfo, Sender, Status
from edge.pipeline import Pipeline
from edge.ports import Publisher
from edge.publish import MqttPublisher
from edge.rate_limit import RateLimiter
from edge.smooth import Smoother, SmoothingRules
from edge.state import DeviceState
from edge.system import Clock
from edge.topics import Topics
from edge.track import Tracker
from edge.trial import try_out
from edge.update import Updater, UpdateStatus


@contextmanager
def open_agent(config: Config) -> Iterator[Agent]:
    """Opens an agent, except for its cameras, and closes it on exit.

    Raises:
        BundleError: The model bundle cannot be used.
        RuntimeMissing: A required package is not installed.
        StateError: The state folder cannot be used.
        ConfigError: A file named in the configuration, or the metrics port, cannot be used.
    """
    classifier = newest_classifier(config)
    with ExitStack() as stack:
        state = stack.enter_context(DeviceState(config.device.state_dir))
        releases(config).remove_incomplete()  # safe now that the state folder is locked
        outbox = stack.enter_context(Outbox(folder=config.device.state_dir, capacity=config.publish.outbox_limit))
        assembly = _Assembly(config, classifier, state)
        publisher = assembly.publisher(outbox)
        for message in assembly.device_messages.at_startup():
            publisher.publish(message)
        workers = {camera.name: assembly.worker(camera, publisher) for camera in config.camera}
        agent = assembly.agent(workers, publisher)
        if config.metrics.port is not None:
            from edge.metrics import serve_metrics  # slow to import and rarely enabled

            stack.enter_context(serve_metrics(agent.health, host=config.metrics.host, port=config.metrics.port))
        install = None
        if config.update.url is not None:
            install = stack.enter_context(assembly.updater(publisher, agent)).install
        publisher.set_command_handlers(assembly.controls(workers, agent, install).handlers)
        stack.enter_context(publisher)  # last, as commands may arrive with the connection
        yield agent


class _Assembly:
    """Builds the parts of one agent from what they share."""

    def __init__(self, config: Config, classifier: BundleClassifier, state: DeviceState) -> None:
        bundle = classifier.bundle
        self._config = config
        self._classifier = classifier
        self._state = state
        self._sender = Sender(config.device.name, state.session)
        self._model = ModelInfo(name=bundle.manifest.name, version=bundle.manifest.version, sha256=bundle.model_sha256)
        self._now = Clock().now
        self._topics = Topics(config.mqtt.prefix, config.device.name)
        self.device_messages = DeviceMessages(
            config=config,
            state=state,
            topics=self._topics,
            sender=self._sender,
            model=self._model,
            manifest=bundle.manifest,
            now=self._now,
        )

    def publisher(self, outbox: Outbox) -> MqttPublisher:
        """Builds the publisher; its context starts to connect."""
        mqtt = self._config.mqtt
        return MqttPublisher(
            settings=broker_settings(self._config, self._state.client_id),
            topics=self._topics,
            session=self._state.session,
            outbox=outbox,
            groups=self._config.device.groups,
            home_assistant_status=homeassistant.status_topic(mqtt.homeassistant_prefix) if mqtt.homeassistant else None,
            on_delivered=self._state.delivered,
        )

    def worker(self, camera: CameraConfig, publisher: Publisher) -> CameraWorker:
        """Builds the thread of one camera, with a pipeline of its own."""

        def publish_status(name: str, status: Status) -> None:
            publisher.publish(camera_status_message(self._topics, name, status, session=self._state.session))

        limiter = RateLimiter(self._state.rates.get(camera.name))
        return CameraWorker(
            name=camera.name,
            source=camera_source(camera, limiter),
            pipeline=self._pipeline(camera, publisher),
            on_status=publish_status,
            paused=camera.name in self._state.paused,
            limiter=limiter,
        )

    def _pipeline(self, camera: CameraConfig, publisher: Publisher) -> Pipeline:
        config, manifest = self._config, self._classifier.bundle.manifest
        detector, smoothing = config.detector, config.smoothing
        unknown_below = smoothing.unknown_below
        return Pipeline(
            # One per camera, because a detector has buffers.
            detector=face_detector(config),
            classifier=self._classifier,
            framing=manifest.preprocessing.framing,
            crop_px=manifest.input.width_px,
            tracker=Tracker(max_gap_s=config.tracking.max_gap_s, min_iou=config.tracking.min_iou),
            smoother=Smoother(
                SmoothingRules(
                    time_constant_s=smoothing.time_constant_s,
                    min_dwell_s=smoothing.min_dwell_s,
                    margin=smoothing.margin,
                    unknown_below=manifest.calibration.unknown_below if unknown_below is None else unknown_below,
                )
            ),
            composer=Composer(
                topics=self._topics,
                camera=camera.name,
                sender=self._sender,
                model=self._model,
                heartbeat_s=config.publish.heartbeat_s,
                min_interval_s=config.publish.min_interval_s,
            ),
            publisher=publisher,
            detection_interval_s=detector.interval_s,
            now=self._now,
        )

    def updater(self, publisher: Publisher, agent: Agent) -> Updater:
        """Builds the updater, for a configuration with an update server."""
        update, running = self._config.update, self._classifier.bundle.manifest

        def publish(status: UpdateStatus) -> None:
            publisher.publish(self.device_messages.update(status))

        return Updater(
            server=update_server(self._config, str(update.url)),
            releases=releases(self._config),
            running=running,
            try_out=partial(try_out, runtime=self._config.model.runtime, threads=self._config.model.threads),
            require_reopenable=partial(require_usable, self._config),
            on_status=publish,
            on_installed=agent.reopen,
            interval_s=update.interval_h * 3600,
            automatic=update.automatic,
        )

    def agent(self, workers: dict[str, CameraWorker], publisher: MqttPublisher) -> Agent:
        """Builds the supervisor of the cameras."""
        return Agent(
            topics=self._topics,
            workers=workers,
            publisher=publisher,
            reporter=HealthReporter(sender=self._sender, model=self._model, now=self._now),
            health_interval_s=self._config.publish.health_interval_s,
            governor=self._governor(workers),
        )

    def controls(self, workers: dict[str, CameraWorker], agent: Agent, install: Callable[[], None] | None) -> Controls:
        """Builds the command handlers; `install` is None without an update server."""
        return Controls(
            workers=workers,
            state=self._state,
            now=self._now,
            snapshots=self._config.publish.snapshots,
            on_report=agent.report,
            on_restart=agent.stop,
            on_update=install,
        )

    def _governor(self, workers: dict[str, CameraWorker]) -> Governor | None:
        adaptation = self._config.adaptation
        if not adaptation.enabled:
            return None
        return Governor(workers=workers, hot_c=adaptation.hot_c, cool_c=adaptation.cool_c)
