"""Checks of the installed software: Python, the TFLite runtime, the model bundle and the face detector."""

from __future__ import annotations

import platform
import struct
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from edge.adapters import face_detector, newest_classifier
from edge.checks.check import Chain, Check, CheckWarning
from edge.config import Config
from edge.contract import BundleError, UserError, load_bundle
from edge.detect.blazeface import INSTALL_COMMAND
from edge.runtime import runtime_name


def python() -> Chain:
    """Checks that the libraries are published for this Python."""
    return (Check("python", _python),)


def runtime(config: Config) -> Chain:
    """Checks that a runtime is installed and compatible with the installed numpy."""
    return (Check("runtime", partial(_runtime, config)),)


def model(config: Config) -> Chain:
    """Checks the files of the bundle against their checksums, its labels, and its self-test.

    The bundle is the one that the agent loads: the newest release installed by an update, or the configured one.
    """
    return (Check("model", partial(_model, config)),)


def detector(config: Config) -> Chain:
    """Checks that the detector's model loads."""
    return (Check("detector", partial(_detector, config)),)


def _python() -> str:
    bits = 8 * struct.calcsize("P")
    found = f"Python {platform.python_version()}, {bits}-bit, on {platform.machine()}"
    if bits < 64:
        raise CheckWarning(
            f"{found}: OpenCV and LiteRT publish no packages for it", remedy="Install a 64-bit operating system"
        )
    return found


def _runtime(config: Config) -> str:
    return f"{runtime_name(config.model.runtime)} with numpy {np.__version__} and OpenCV {cv2.__version__}"


def _model(config: Config) -> str:
    skipped: list[UserError] = []
    bundle = newest_classifier(config, on_skipped=skipped.append).bundle
    release = f"{bundle.manifest.name} {bundle.manifest.version} (release {bundle.manifest.release})"
    found = f"{release} passed its self-test on {runtime_name(config.model.runtime)} ({bundle.path})"
    if skipped:
        reasons = "; ".join(f"{error.where}: {error.what}" for error in skipped)
        raise CheckWarning(f"{found}; skipped: {reasons}", remedy=skipped[0].remedy)
    if bundle.path != config.model.path:
        _require_fallback(config.model.path, found)
    return found


def _require_fallback(path: Path, found: str) -> None:
    try:
        load_bundle(path)
    except BundleError as error:
        raise CheckWarning(f"{found}; the fallback, model.path, cannot be used: {error.where}: {error.what}",
                           remedy=error.remedy) from error  # fmt: skip


def _detector(config: Config) -> str:
    found = face_detector(config).name
    if config.detector.name == "auto" and found == "haar":
        raise CheckWarning(
            "BlazeFace is not installed; the less accurate haar detector is used instead",
            remedy=f"Run `{INSTALL_COMMAND}`",
        )
    return found
