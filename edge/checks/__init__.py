"""The checks behind `edge check` and `edge doctor`: each tries one thing, and says how it fares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge.checks import broker, camera, machine, metrics, rights, software, update
from edge.checks.finding import Chain, Finding, Outcome, examine, failures
from edge.config import CameraConfig, Config

__all__ = ["Chain", "Finding", "Outcome", "all_checks", "examine", "failures", "start_checks"]


def start_checks(config: Config) -> Iterator[Chain]:
    """What must work for the agent to start and do its work."""
    yield rights.state_folder(config)
    yield software.model(config)
    yield software.detector(config)
    yield from camera.cameras(config)
    yield from metrics.metrics(config)
    yield broker.login(config)


def all_checks(config: Config | None, config_file: Path) -> Iterator[Chain]:
    """Everything that can be found out about this device.

    Args:
        config: None if there is none that can be used: then only what needs none is checked.
        config_file: Where it was read from.
    """
    # Without a configuration, the defaults say which model and detector there should be.
    basis = config or Config(camera=(CameraConfig(name="demo", source="demo"),))
    yield software.python()
    yield (*software.runtime(basis), *software.model(basis))
    yield software.detector(basis)
    yield from rights.devices(config)
    if config is not None:
        yield rights.secrets(config, config_file)
        yield (*rights.state_folder(config), *rights.agent(config))
        yield from camera.cameras(config)
        yield from metrics.metrics(config)
        yield from update.update(config)
        yield broker.step_by_step(config)
    yield from machine.machine(basis)
