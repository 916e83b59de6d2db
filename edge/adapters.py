"""Builds single parts, such as a detector or a source, from the configuration; used by the agent and the checks."""

from __future__ import annotations

import logging
from pathlib import Path

from edge.classify import BundleClassifier
from edge.client_id import new_client_id
from edge.config import CameraConfig, Config
from edge.contract import BundleIncompatible, UserError, load_bundle
from edge.contract.manifest import read_manifest
from edge.detect import BlazeFaceDetector, HaarDetector, create_detector
from edge.disk import require_writable
from edge.mqtt import BrokerSettings, Tls
from edge.ports import Source
from edge.rate_limit import RateLimiter
from edge.releases import OnSkipped, Releases, log_skipped
from edge.source import open_source
from edge.update import UpdateServer

log = logging.getLogger(__name__)


def newest_classifier(config: Config, *, on_skipped: OnSkipped = log_skipped) -> BundleClassifier:
    """Loads the newest usable model: the configured one, or a newer release installed by an update.

    Releases are used as long as their keys are trusted, even if no update server is configured.

    Args:
        config: Names the model, the state folder and the trusted keys.
        on_skipped: Called with the error of each newer release that does not work here.

    Raises:
        BundleError: The configured model cannot be used.
        RuntimeMissing: No runtime is installed.
    """
    if config.update.public_keys:
        for path in releases(config).newer_than(read_manifest(config.model.path), on_skipped):
            try:
                return _classifier(config, path)
            except UserError as error:
                on_skipped(error)
            except Exception as error:
                # For example after a change of the runtime: a downloaded release must not keep the agent from starting.
                log.info("unexpected error while loading a release:", exc_info=error)
                on_skipped(BundleIncompatible(f"does not run on this device ({error})", where=path,
                                                  remedy="Publish a release that does"))  # fmt: skip
    return _classifier(config, config.model.path)


def require_usable(config: Config) -> None:
    """Checks the files that an agent with this configuration needs.

    Raises:
        BundleError: The configured model cannot be used.
        ConfigError: A file named in the configuration cannot be used.
        StateError: The state folder is not writable.
    """
    load_bundle(config.model.path)
    broker_settings(config, new_client_id()).check_files()
    require_writable(config.device.state_dir)


def update_server(config: Config, url: str) -> UpdateServer:
    """Returns the client of the update server."""
    return UpdateServer(url, config.update.public_keys, ca_file=config.update.ca_file)


def releases(config: Config) -> Releases:
    """Returns the releases installed by updates."""
    return Releases(config.device.state_dir / "models", config.update.public_keys)


def _classifier(config: Config, path: Path) -> BundleClassifier:
    return BundleClassifier(path, runtime=config.model.runtime, threads=config.model.threads)


def broker_settings(config: Config, client_id: str) -> BrokerSettings:
    """Returns the connection settings of the configured broker."""
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
    """Returns the configured face detector."""
    detector, model = config.detector, config.model
    return create_detector(
        detector.name,
        min_score=detector.min_score,
        min_face_px=detector.min_face_px,
        runtime=model.runtime,
        threads=model.threads,
    )


def camera_source(camera: CameraConfig, limiter: RateLimiter | None = None) -> Source:
    """Returns the source of a camera, not open yet. `limiter` tells it how often it will be read."""
    return open_source(
        camera.source,
        limiter=limiter,
        realtime=camera.realtime,
        loop=camera.loop,
        width=camera.width_px,
        height=camera.height_px,
        fps=camera.fps,
    )
