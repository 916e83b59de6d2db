"""Loads and validates the configuration; reports all of its errors at once, each with its location."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edge.config.environment import apply_environment
from edge.config.errors import Origin, config_error
from edge.config.sections import Config
from edge.errors import ConfigError, ConfigErrors

_MAX_REPORTED = 20
"""Maximum number of errors reported at once: finding the line of each takes time."""


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Reads and validates the configuration.

    Args:
        path: The TOML file.
        environ: The environment variables, which override the file; see `edge.config.environment`.

    Raises:
        ConfigError: The file cannot be read, or it or the environment is invalid.
    """
    text = _read(path)
    document = _parse(text, path)
    variables = apply_environment(document, environ)
    try:
        config = Config.model_validate(document, context={"folder": path.absolute().parent})
    except ValidationError as error:
        origin = Origin(path, text, variables)
        found = [details for details in error.errors() if not _is_consequence(details)]
        reported = sorted(found[:_MAX_REPORTED], key=lambda details: origin.line(details["loc"]) or 0)
        errors = [config_error(details, origin) for details in reported]
        raise ConfigErrors(errors, omitted=len(found) - len(reported)) from error
    config.mqtt.password()  # report an empty password file now, not at the first connection
    return config


def _is_consequence(details: ErrorDetails) -> bool:
    """Whether an error only follows from another: a default from an invalid key, or a list of invalid tables."""
    emptied = details["type"] == "too_short" and bool(details["input"])
    return emptied or details["type"] == "default_factory_not_called"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # editors on Windows may write a byte order mark
    except FileNotFoundError as error:
        raise ConfigError(
            "no such file", where=path, remedy="Pass another file with --config, or start from deploy/config.toml"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot be read ({error.strerror})", where=path,
            remedy="Check its permissions; `sudo -u emotion-edge` can read what the service reads",
        ) from error  # fmt: skip
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text ({error.reason} at byte {error.start})", where=path) from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, place = str(error).partition(" (at ")
        number = re.search(r"line (\d+)", place)  # otherwise the message says: at end of document
        line = int(number[1]) if number else text.count("\n") + 1
        raise ConfigError(f"not valid TOML: {what}", where=f"{path}:{line}") from error
    except RecursionError as error:
        raise ConfigError("is nested too deeply", where=path) from error
    except ValueError as error:  # from int(), for a number of thousands of digits
        raise ConfigError("contains a number with too many digits", where=path) from error
