"""Checks of what is installed: Python, the TFLite runtime, the model bundle and the face detector."""

from __future__ import annotations

import platform
import struct
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from edge.adapters import face_detector, newest_classifier
from edge.checks.finding import Chain, Check, Doubt
from edge.config import Config
from edge.contract import BundleError, UserError, load_bundle
from edge.detect.blazeface import INSTALL_COMMAND
from edge.runtime import runtime_name


def python() -> Chain:
    """Whether this is a Python that the libraries are published for."""
    return (Check("python", _python),)


def runtime(config: Config) -> Chain:
    """Whether there is a runtime, and whether it goes with the installed numpy."""
    return (Check("runtime", partial(_runtime, config)),)


def model(config: Config) -> Chain:
    """Whether every file of the bundle has its checksum, the labels their order, and the self-test its result.

    The bundle is the one that the agent loads: the newest release that came by update, or the one that is configured.
    """
    return (Check("model", partial(_model, config)),)


def detector(config: Config) -> Chain:
    """Whether the detector's model loads."""
    return (Check("detector", partial(_detector, config)),)


def _python() -> str:
    bits = 8 * struct.calcsize("P")
    found = f"Python {platform.python_version()}, {bits}-bit, on {platform.machine()}"
    if bits < 64:
        raise Doubt(f"{found}: OpenCV and LiteRT publish nothing for it", remedy="Install a 64-bit system")
    return found


def _runtime(config: Config) -> str:
    return f"{runtime_name(config.model.runtime)} with numpy {np.__version__} and OpenCV {cv2.__version__}"


def _model(config: Config) -> str:
    passed_over: list[UserError] = []
    bundle = newest_classifier(config, on_passed_over=passed_over.append).bundle
    release = f"{bundle.manifest.name} {bundle.manifest.version} (release {bundle.manifest.release})"
    found = f"{release} passed its self-test on {runtime_name(config.model.runtime)} ({bundle.path})"
    if passed_over:
        told = "; ".join(f"{error.where}: {error.what}" for error in passed_over)
        raise Doubt(f"{found}; passed over: {told}", remedy=passed_over[0].remedy)
    if bundle.path != config.model.path:
        _require_fallback(config.model.path, found)
    return found


def _require_fallback(path: Path, found: str) -> None:
    try:
        load_bundle(path)
    except BundleError as error:
        raise Doubt(f"{found}; the one that the device was installed with cannot be used: {error.where}: {error.what}",
                    remedy=error.remedy) from error  # fmt: skip


def _detector(config: Config) -> str:
    found = face_detector(config).name
    if config.detector.name == "auto" and found == "haar":
        raise Doubt("BlazeFace is not installed, the weaker haar is used instead", remedy=f"Run `{INSTALL_COMMAND}`")
    return found
