"""The checks behind `edge check` and `edge doctor`. Each tests one part and reports its status."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge.checks import broker, camera, machine, metrics, permissions, software, update
from edge.checks.check import Chain, CheckResult, Outcome, failures, run_checks
from edge.config import CameraConfig, Config

__all__ = ["Chain", "CheckResult", "Outcome", "all_checks", "failures", "run_checks", "start_checks"]


def start_checks(config: Config) -> Iterator[Chain]:
    """The checks of what the agent needs to start and to work."""
    yield permissions.state_folder(config)
    yield software.model(config)
    yield software.detector(config)
    yield from camera.cameras(config)
    yield from metrics.metrics(config)
    yield broker.login(config)


def all_checks(config: Config | None, config_file: Path) -> Iterator[Chain]:
    """All checks that can be run on this device.

    Args:
        config: None without a usable configuration; then only the checks that need none are run.
        config_file: The file it was read from.
    """
    # Without a configuration, the defaults say which model and detector to check.
    basis = config or Config(camera=(CameraConfig(name="demo", source="demo"),))
    yield software.python()
    yield (*software.runtime(basis), *software.model(basis))
    yield software.detector(basis)
    yield from permissions.devices(config)
    if config is not None:
        yield permissions.secrets(config, config_file)
        yield (*permissions.state_folder(config), *permissions.agent(config))
        yield from camera.cameras(config)
        yield from metrics.metrics(config)
        yield from update.update(config)
        yield broker.step_by_step(config)
    yield from machine.machine(basis)
