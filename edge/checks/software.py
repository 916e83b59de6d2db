"""Checks of what is installed: Python, the TFLite runtime, the model bundle and the face detector."""

from __future__ import annotations

import platform
import struct
from functools import partial

import cv2
import numpy as np

from edge.adapters import face_detector
from edge.checks.finding import Chain, Check, Doubt
from edge.classify import BundleClassifier
from edge.config import Config
from edge.detect.blazeface import INSTALL_COMMAND
from edge.runtime import runtime_name


def python() -> Chain:
    """Whether this is a Python that the libraries are published for."""
    return (Check("python", _python),)


def runtime(config: Config) -> Chain:
    """Whether there is a runtime, and whether it goes with the installed numpy."""
    return (Check("runtime", partial(_runtime, config)),)


def model(config: Config) -> Chain:
    """Whether every file of the bundle has its checksum, the labels their order, and the self-test its result."""
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
    classifier = BundleClassifier(config.model.path, runtime=config.model.runtime, threads=config.model.threads)
    manifest = classifier.bundle.manifest
    name = runtime_name(config.model.runtime)
    return f"{manifest.name} {manifest.version} passed its self-test on {name} ({config.model.path})"


def _detector(config: Config) -> str:
    found = face_detector(config).name
    if config.detector.name == "auto" and found == "haar":
        raise Doubt("BlazeFace is not installed, the weaker haar is used instead", remedy=f"Run `{INSTALL_COMMAND}`")
    return found
