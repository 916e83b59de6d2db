"""Selects an installed TFLite runtime and loads models into it."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge.contract.errors import BundleError, BundleMissing
from edge.contract.inference import Interpreter
from edge.errors import RuntimeMissing

RuntimeChoice = Literal["auto", "litert", "tflite-runtime"]
"""`auto` selects LiteRT if it is installed, and tflite-runtime otherwise."""

_FILE_IDENTIFIER = b"TFL3"
_INSTALL = "Install one with `pip install ai-edge-litert`, or on 32-bit ARM `pip install tflite-runtime`"
_DOWNGRADE = "Run `pip install 'numpy<2'`, or use LiteRT (`pip install ai-edge-litert`)"


def load_interpreter(model: bytes | Path, *, runtime: RuntimeChoice = "auto", threads: int = 1) -> Interpreter:
    """Loads a TFLite model and allocates its tensors.

    tflite-runtime does not verify the file, and a truncated one can crash the process: check its size or checksum
    first.

    Args:
        model: Path or content of the .tflite file.
        runtime: The runtime to use.
        threads: Threads for one inference, 1 or more. With tflite-runtime, more than one is slower on a busy device.

    Raises:
        RuntimeMissing: The runtime is not installed, or is incompatible with the installed numpy.
        BundleMissing: The file cannot be read.
        BundleError: The file is not a TFLite model, or needs a newer runtime.
    """
    name, make = _interpreter_class(runtime)
    content, where = (_read(model), model) if isinstance(model, Path) else (model, None)
    if content[4:8] != _FILE_IDENTIFIER:
        raise BundleError("is not a TFLite model", where=where, remedy="Copy or export the file again")
    try:
        made = make(model_content=content, num_threads=threads)
        made.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise BundleError(
            f"{name} cannot load the model ({_last_line(error)})",
            where=where,
            remedy="Copy the file again if it is damaged; otherwise update the runtime or export the model again",
        ) from error
    interpreter: Interpreter = made
    return interpreter


def runtime_name(runtime: RuntimeChoice = "auto") -> str:
    """Returns name and version of the runtime that `load_interpreter` uses, for example `litert 2.3.0`.

    Raises:
        RuntimeMissing: No runtime is installed.
    """
    name, _ = _interpreter_class(runtime)
    distribution = "ai-edge-litert" if name == "litert" else "tflite-runtime"
    return f"{name} {metadata.version(distribution)}"


def _interpreter_class(runtime: RuntimeChoice) -> tuple[str, Callable[..., Any]]:
    if runtime == "litert":
        return "litert", _import("LiteRT", "ai_edge_litert.interpreter")
    if runtime == "tflite-runtime":
        return "tflite-runtime", _import_tflite_runtime()
    if _installed("ai-edge-litert"):
        return _interpreter_class("litert")
    if _installed("tflite-runtime"):
        return _interpreter_class("tflite-runtime")
    raise RuntimeMissing("no TFLite runtime is installed", remedy=_INSTALL)


def _import_tflite_runtime() -> Callable[..., Any]:
    # Version 2.14 can be imported with numpy 2, with only a warning on stderr, but fails when it loads a model.
    if _installed("tflite-runtime") and int(np.__version__.split(".")[0]) >= 2:
        raise RuntimeMissing(
            f"tflite-runtime was built for numpy 1 and does not work with the installed numpy {np.__version__}",
            remedy=_DOWNGRADE,
        )
    return _import("tflite-runtime", "tflite_runtime.interpreter")


def _import(name: str, module: str) -> Callable[..., Any]:
    try:
        interpreter: Callable[..., Any] = import_module(module).Interpreter
    except ImportError as error:
        raise RuntimeMissing(f"{name} cannot be imported ({_last_line(error)})", remedy=_INSTALL) from error
    return interpreter


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleMissing(
            f"cannot be read ({error.strerror})", where=path, remedy="Check the path and the permissions of the file"
        ) from error


def _last_line(error: Exception) -> str:
    """Returns the last line of a message: the runtimes put lines of C++ context before the reason."""
    lines = str(error).strip().splitlines()
    return lines[-1].rstrip(".") if lines else type(error).__name__
