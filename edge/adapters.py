"""From the configuration to each part that it asks for: for the agent, and for whoever needs one part alone."""

from __future__ import annotations

import logging
from pathlib import Path

from edge.classify import BundleClassifier
from edge.client_id import new_client_id
from edge.config import CameraConfig, Config
from edge.contract import BundleIncompatible, UserError, load_bundle
from edge.contract.manifest import read_manifest
from edge.detect import BlazeFaceDetector, HaarDetector, create_detector
from edge.disk import require_room
from edge.mqtt import BrokerSettings, Tls
from edge.pace import Pace
from edge.ports import Source
from edge.releases import OnSkipped, Releases, log_skipped
from edge.source import open_source
from edge.update import UpdateServer

log = logging.getLogger(__name__)


def newest_classifier(config: Config, *, on_skipped: OnSkipped = log_skipped) -> BundleClassifier:
    """The model that the configuration names, or a newer release of it that came by update and works here.

    Releases count for as long as their keys are trusted, also while no server is asked for more.

    Args:
        config: Names the model, the state folder and the keys.
        on_skipped: Called with the error of each newer release that does not work here.

    Raises:
        BundleError: The model that the configuration names cannot be used.
        RuntimeMissing: No runtime is installed.
    """
    if config.update.public_keys:
        for path in releases(config).newer_than(read_manifest(config.model.path), on_skipped):
            try:
                return _classifier(config, path)
            except UserError as error:
                on_skipped(error)
            except Exception as error:
                # Of a runtime that has changed since, say: what came from afar keeps no agent from starting.
                log.info("nobody foresaw this:", exc_info=error)
                on_skipped(BundleIncompatible(f"does not run on this device ({error})", where=path,
                                                  remedy="Publish a release that does"))  # fmt: skip
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


def releases(config: Config) -> Releases:
    """The models that came by update."""
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
