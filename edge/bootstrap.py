"""The one place that knows which adapter stands behind which port: from a configuration to an agent ready to run."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path

from edge import homeassistant, runtime
from edge.agent import Agent
from edge.camera import CameraWorker
from edge.classify import BundleClassifier
from edge.compose import Composer
from edge.config import CameraConfig, Config
from edge.contract import Manifest, UserError, load_bundle
from edge.contract.manifest import read_manifest
from edge.controls import Controls
from edge.detect import BlazeFaceDetector, HaarDetector, create_detector
from edge.disk import require_room
from edge.domain import Message
from edge.governor import Governor
from edge.health import HealthReporter
from edge.message import (
    camera_status_message,
    clearing_message,
    expiry_s,
    info_message,
    state_expiry_s,
    update_message,
)
from edge.mqtt import BrokerSettings, Tls
from edge.outbox import Outbox
from edge.pace import Pace
from edge.payloads import AgentInfo, CameraInfo, Info, ModelInfo, Release, Sender, Status, Update, timestamp
from edge.pipeline import Pipeline
from edge.ports import Publisher, Source
from edge.publish import MqttPublisher
from edge.releases import Releases
from edge.smooth import Smoother, SmoothingRules
from edge.source import open_source
from edge.source_name import masked
from edge.state import DeviceState, new_client_id
from edge.system import Clock, device_tree
from edge.topics import Topics
from edge.track import Tracker
from edge.trial import try_out
from edge.update import Outlook, Updater, UpdateServer

log = logging.getLogger(__name__)

_AGENT_VERSION = metadata.version("edge-emotion")


@contextmanager
def open_agent(config: Config) -> Iterator[Agent]:
    """Opens everything that the agent needs but the cameras, and closes it after.

    Raises:
        BundleError: The model bundle cannot be used.
        RuntimeMissing: A part is not installed.
        StateError: The state folder cannot be used.
        ConfigError: A file that the configuration names cannot be used, or its port for metrics.
    """
    classifier = newest_classifier(config)
    with ExitStack() as stack:
        state = stack.enter_context(DeviceState(config.device.state_dir))
        _releases(config).tidy()  # now that no other agent is at work there
        outbox = stack.enter_context(Outbox(folder=config.device.state_dir, capacity=config.publish.outbox_limit))
        assembly = _Assembly(config, classifier, state)
        workers: dict[str, CameraWorker] = {}
        controls = Controls(workers=workers, state=state, now=assembly.clock.now, snapshots=config.publish.snapshots)
        publisher = assembly.publisher(outbox, controls)
        for message in assembly.introduction():
            publisher.publish(message)
        workers.update((camera.name, assembly.worker(camera, publisher)) for camera in config.camera)
        agent = assembly.agent(workers, publisher)
        controls.on_report, controls.on_restart = agent.report, agent.stop
        if config.metrics.port is not None:
            from edge.metrics import serve_metrics  # costs time and memory, and few ask for it

            stack.enter_context(serve_metrics(agent.health, host=config.metrics.host, port=config.metrics.port))
        if config.update.url is not None:
            controls.on_update = stack.enter_context(assembly.updater(publisher, agent)).install
        stack.enter_context(publisher)  # the last: commands may have been waiting for the connection
        yield agent


def newest_classifier(config: Config) -> BundleClassifier:
    """The model that the configuration names, or a newer release of it that came by update and works here.

    Releases count for as long as their keys are trusted, also while no server is asked for more.

    Raises:
        BundleError: The model that the configuration names cannot be used.
        RuntimeMissing: No runtime is installed.
    """
    if config.update.public_keys:
        for path in _releases(config).newer_than(read_manifest(config.model.path)):
            try:
                return _classifier(config, path)
            except UserError as error:
                log.warning("passed over: %s", error)
            except Exception:
                # Of a runtime that has changed since, say: what came from afar keeps no agent from starting.
                log.exception("passed over: %s", path)
    return _classifier(config, config.model.path)


def require_usable(config: Config) -> None:
    """Tries what an agent with this configuration needs to be opened, as far as files go.

    Raises:
        BundleError: The model that it names cannot be used.
        ConfigError: A file that it names cannot.
        StateError: The disk under the state folder takes nothing.
    """
    load_bundle(config.model.path)
    broker_settings(config, new_client_id()).check_files()
    require_room(config.device.state_dir)


def update_server(config: Config, url: str) -> UpdateServer:
    """The server that newer models come from."""
    return UpdateServer(url, config.update.public_keys, ca_file=config.update.ca_file)


def _releases(config: Config) -> Releases:
    return Releases(config.device.state_dir / "models", config.update.public_keys)


def _classifier(config: Config, path: Path) -> BundleClassifier:
    return BundleClassifier(path, runtime=config.model.runtime, threads=config.model.threads)


def broker_settings(config: Config, client_id: str) -> BrokerSettings:
    """How to reach the broker that the configuration names."""
    mqtt = config.mqtt
    return BrokerSettings(
        host=mqtt.host,
        port=mqtt.port,
        client_id=client_id,
        username=mqtt.username,
        password=mqtt.password(),
        tls=Tls(ca_file=mqtt.ca_file, cert_file=mqtt.cert_file, key_file=mqtt.key_file) if mqtt.tls else None,
        allow_plaintext_password=mqtt.allow_plaintext_password,
    )


def face_detector(config: Config) -> BlazeFaceDetector | HaarDetector:
    """A detector as the configuration wants it."""
    detector, model = config.detector, config.model
    return create_detector(
        detector.name,
        min_score=detector.min_score,
        min_face_px=detector.min_face_px,
        runtime=model.runtime,
        threads=model.threads,
    )


def camera_source(camera: CameraConfig, pace: Pace | None = None) -> Source:
    """The source of a camera, not yet open. `pace` says how often it will be read."""
    return open_source(
        camera.source,
        pace=pace,
        realtime=camera.realtime,
        loop=camera.loop,
        width=camera.width_px,
        height=camera.height_px,
        fps=camera.fps,
    )


class _Assembly:
    """What the parts of one agent have in common."""

    def __init__(self, config: Config, classifier: BundleClassifier, state: DeviceState) -> None:
        manifest = classifier.bundle.manifest
        self._config = config
        self._classifier = classifier
        self._state = state
        self._sender = Sender(config.device.name, state.session)
        self._model = ModelInfo(name=manifest.name, version=manifest.version, sha256=classifier.bundle.model_sha256)
        self._cameras = [camera.name for camera in config.camera]
        self.clock = Clock()
        self.topics = Topics(config.mqtt.prefix, config.device.name)

    def publisher(self, outbox: Outbox, controls: Controls) -> MqttPublisher:
        mqtt = self._config.mqtt
        return MqttPublisher(
            settings=broker_settings(self._config, self._state.client_id),
            topics=self.topics,
            session=self._state.session,
            outbox=outbox,
            commands=controls.handlers,
            groups=self._config.device.groups,
            home_assistant_status=homeassistant.status_topic(mqtt.homeassistant_prefix) if mqtt.homeassistant else None,
            on_delivered=self._state.delivered,
        )

    def introduction(self) -> list[Message]:
        """What the device says of itself first: to everybody, and to Home Assistant in its own words.

        What an earlier configuration left behind on other topics is cleared.
        """
        announcement = self._announcement()
        topics = self.topics.retained(self._cameras, updates=self._config.update.url is not None)
        retained = {topic: dict[str, str]() for topic in topics}
        left_behind = self._state.retain({**announcement.announced, **retained})
        return [
            info_message(self.topics, self._info()),
            *map(clearing_message, left_behind),
            *announcement.messages,
        ]

    def _announcement(self) -> homeassistant.Announcement:
        mqtt, publish = self._config.mqtt, self._config.publish
        if not mqtt.homeassistant:
            return homeassistant.Announcement((), {})
        return homeassistant.announce(
            topics=self.topics,
            cameras=self._cameras,
            agent_version=_AGENT_VERSION,
            state_expiry_s=state_expiry_s(publish.heartbeat_s),
            health_expiry_s=expiry_s(publish.health_interval_s),
            announced=self._state.retained,
            updates=self._config.update.url is not None,
            discovery_prefix=mqtt.homeassistant_prefix,
            hardware=device_tree("model"),
            serial_number=device_tree("serial-number"),
        )

    def worker(self, camera: CameraConfig, publisher: Publisher) -> CameraWorker:
        def publish_status(name: str, status: Status) -> None:
            publisher.publish(camera_status_message(self.topics, name, status, session=self._state.session))

        pace = Pace(self._state.rates.get(camera.name))
        return CameraWorker(
            name=camera.name,
            source=camera_source(camera, pace),
            pipeline=self._pipeline(camera, publisher),
            on_status=publish_status,
            paused=camera.name in self._state.paused,
            pace=pace,
        )

    def _pipeline(self, camera: CameraConfig, publisher: Publisher) -> Pipeline:
        config, manifest = self._config, self._classifier.bundle.manifest
        detector, smoothing = config.detector, config.smoothing
        unknown_below = smoothing.unknown_below
        return Pipeline(
            # One for each camera: a detector keeps its buffers between frames.
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
                topics=self.topics,
                camera=camera.name,
                sender=self._sender,
                model=self._model,
                heartbeat_s=config.publish.heartbeat_s,
                min_interval_s=config.publish.min_interval_s,
            ),
            publisher=publisher,
            detection_interval_s=detector.interval_s,
            now=self.clock.now,
        )

    def updater(self, publisher: Publisher, agent: Agent) -> Updater:
        update, running = self._config.update, self._classifier.bundle.manifest

        def publish(outlook: Outlook) -> None:
            publisher.publish(update_message(self.topics, self._update(outlook)))

        return Updater(
            server=update_server(self._config, str(update.url)),
            releases=_releases(self._config),
            running=running,
            try_out=partial(try_out, runtime=self._config.model.runtime, threads=self._config.model.threads),
            require_restart=partial(require_usable, self._config),
            on_outlook=publish,
            on_installed=agent.renew,
            interval_s=update.interval_h * 3600,
            automatic=update.automatic,
        )

    def _update(self, outlook: Outlook) -> Update:
        return Update(
            **self._sender.envelope(self.clock.now()),
            installed=_release(self._classifier.bundle.manifest),
            latest=_release(outlook.latest) if outlook.latest is not None else None,
            checked=timestamp(outlook.checked_s) if outlook.checked_s is not None else None,
            installing=outlook.installing,
            error=outlook.error,
        )

    def _info(self) -> Info:
        return Info(
            **self._sender.envelope(self.clock.now()),
            agent=AgentInfo(name="edge-emotion", version=_AGENT_VERSION, python=platform.python_version()),
            model=self._model,
            runtime=runtime.runtime_name(self._config.model.runtime),
            platform=f"{platform.system()} {platform.release()} {platform.machine()}",
            cameras=tuple(
                CameraInfo(
                    name=camera.name,
                    source=masked(camera.source),
                    width=camera.width_px,
                    height=camera.height_px,
                )
                for camera in self._config.camera
            ),
            groups=self._config.device.groups,
        )

    def agent(self, workers: dict[str, CameraWorker], publisher: MqttPublisher) -> Agent:
        return Agent(
            topics=self.topics,
            workers=workers,
            publisher=publisher,
            reporter=HealthReporter(sender=self._sender, model=self._model, now=self.clock.now),
            health_interval_s=self._config.publish.health_interval_s,
            governor=self._governor(workers),
        )

    def _governor(self, workers: dict[str, CameraWorker]) -> Governor | None:
        adaptation = self._config.adaptation
        if not adaptation.enabled:
            return None
        return Governor(workers=workers, hot_c=adaptation.hot_c, cool_c=adaptation.cool_c)


def _release(manifest: Manifest) -> Release:
    return Release(name=manifest.name, version=manifest.version, release=manifest.release)
