"""From a file and the environment to a checked configuration, or to all its faults at once, each with its place."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edge.config.environment import apply_environment
from edge.config.faults import Origin, fault
from edge.config.sections import Config
from edge.errors import ConfigError, ConfigFaults

_MOST_TOLD = 20
"""Faults that are told at once. A file with more is no configuration, and finding each one's line takes its time."""


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Reads and checks the configuration.

    Args:
        path: The TOML file.
        environ: The environment, which counts more than the file: see `edge.config.environment`.

    Raises:
        ConfigError: The file cannot be read, or something in it or in the environment is wrong.
    """
    text = _read(path)
    document = _parse(text, path)
    variables = apply_environment(document, environ)
    try:
        config = Config.model_validate(document, context={"folder": path.absolute().parent})
    except ValidationError as error:
        origin = Origin(path, text, variables)
        findings = [details for details in error.errors() if not _is_echo(details)]
        told = sorted(findings[:_MOST_TOLD], key=lambda details: origin.line(details["loc"]) or 0)
        faults = [fault(details, origin) for details in told]
        raise ConfigFaults(faults, untold=len(findings) - len(told)) from error
    config.mqtt.password()  # an empty password file is a fault now, not at the first connection
    return config


def _is_echo(details: ErrorDetails) -> bool:
    """Whether this only follows from another fault: a default out of a wrong key, or a list whose tables are wrong."""
    emptied = details["type"] == "too_short" and bool(details["input"])
    return emptied or details["type"] == "default_factory_not_called"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # editors on Windows begin a file with a byte order mark
    except FileNotFoundError as error:
        raise ConfigError(
            "there is no such file", where=path, remedy="Name another with --config, or begin with deploy/config.toml"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror})", where=path,
            remedy="Check its permissions; what the service reads, `sudo -u emotion-edge` may read too",
        ) from error  # fmt: skip
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text ({error.reason} at byte {error.start})", where=path) from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).partition(" (at ")
        number = re.search(r"line (\d+)", place)  # otherwise it says: at end of document
        line = int(number[1]) if number else text.count("\n") + 1
        raise ConfigError(f"not valid TOML: {what}", where=f"{path}:{line}") from error
    except RecursionError as error:
        raise ConfigError("is nested too deeply", where=path) from error
    except ValueError as error:  # tomllib leaves it to Python to refuse a number of thousands of digits
        raise ConfigError("holds a number that is too long", where=path) from error
