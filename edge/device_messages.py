"""Messages about the device itself: its info, Home Assistant discovery, and the model update status."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib import metadata

from edge import homeassistant, runtime
from edge.config import Config
from edge.contract import Manifest
from edge.domain import Instant, Message
from edge.message import clearing_message, expiry_s, info_message, state_expiry_s, update_message
from edge.payloads import AgentInfo, CameraInfo, Info, ModelInfo, Release, Sender, Update, timestamp
from edge.source_name import masked
from edge.state import DeviceState
from edge.system import device_tree
from edge.topics import Topics
from edge.update import UpdateStatus

_AGENT_VERSION = metadata.version("edge-emotion")


class DeviceMessages:
    """Builds the messages that describe a device.

    Args:
        config: The configuration.
        state: Remembers the topics retained under earlier configurations.
        topics: The topics of the device.
        sender: The device and session named in the payloads.
        model: The model bundle in use.
        manifest: The manifest of that bundle.
        now: Returns the current time on both clocks.
    """

    def __init__(
        self,
        *,
        config: Config,
        state: DeviceState,
        topics: Topics,
        sender: Sender,
        model: ModelInfo,
        manifest: Manifest,
        now: Callable[[], Instant],
    ) -> None:
        self._config = config
        self._state = state
        self._topics = topics
        self._sender = sender
        self._model = model
        self._manifest = manifest
        self._now = now
        self._cameras = [camera.name for camera in config.camera]

    def at_startup(self) -> list[Message]:
        """Returns the messages to publish at startup; they also clear retained messages of earlier configurations."""
        discovery = self._discovery()
        topics = self._topics.retained(self._cameras, updates=self._config.update.url is not None)
        retained = {topic: dict[str, str]() for topic in topics}
        obsolete = self._state.retain({**discovery.announced, **retained})
        return [
            info_message(self._topics, self._info()),
            *map(clearing_message, obsolete),
            *discovery.messages,
        ]

    def update(self, status: UpdateStatus) -> Message:
        """Returns the update status, to be published after each check for a newer model."""
        update = Update(
            **self._sender.envelope(self._now()),
            installed=_release(self._manifest),
            latest=_release(status.latest) if status.latest is not None else None,
            checked=timestamp(status.checked_s) if status.checked_s is not None else None,
            installing=status.installing,
            error=status.error,
        )
        return update_message(self._topics, update)

    def _discovery(self) -> homeassistant.Announcement:
        mqtt, publish = self._config.mqtt, self._config.publish
        if not mqtt.homeassistant:
            return homeassistant.Announcement((), {})
        return homeassistant.announce(
            topics=self._topics,
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

    def _info(self) -> Info:
        return Info(
            **self._sender.envelope(self._now()),
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


def _release(manifest: Manifest) -> Release:
    return Release(name=manifest.name, version=manifest.version, release=manifest.release)
