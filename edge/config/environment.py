"""Configuration from the environment: overrides, and systemd's directories for state and credentials.

`EDGE_MQTT__HOST` overrides `host` in `[mqtt]`, `EDGE_CAMERA__0__SOURCE` overrides `source` in the first `[[camera]]`:
two underscores separate table and key. `STATE_DIRECTORY` is the state folder, and `CREDENTIALS_DIRECTORY` contains the
secrets for which the file sets no path.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from edge.config.errors import Key
from edge.config.sections import tables
from edge.errors import ConfigError

_PREFIX: Final = "EDGE_"
_CREDENTIALS: Final = {"mqtt_password": "password_file", "mqtt_key": "key_file"}
"""Names of systemd credentials, and the keys of `[mqtt]` that they set."""


def apply_environment(document: dict[str, Any], environ: Mapping[str, str]) -> dict[Key, str]:
    """Applies the environment to the file's content.

    Args:
        document: The file's content; modified in place.
        environ: The environment variables.

    Returns:
        The keys set this way, each with the variable that set it.

    Raises:
        ConfigError: A variable is meant for the agent, but does not name a key.
    """
    origins: dict[Key, str] = {}
    for name in sorted(environ):
        key = _key(name)
        if key is not None:
            _put(document, key, environ[name], name)
            origins[key] = name
    if state_dir := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        origins["device", "state_dir"] = "STATE_DIRECTORY"
        _put(document, ("device", "state_dir"), state_dir, "STATE_DIRECTORY")
    return origins | _apply_credentials(document, environ)


def _apply_credentials(document: dict[str, Any], environ: Mapping[str, str]) -> dict[Key, str]:
    folder, section = environ.get("CREDENTIALS_DIRECTORY"), document.get("mqtt", {})
    if not folder or not isinstance(section, dict):
        return {}
    origins: dict[Key, str] = {}
    for credential, key in _CREDENTIALS.items():
        file = Path(folder) / credential
        if key not in section and file.exists():
            _put(document, ("mqtt", key), str(file), "CREDENTIALS_DIRECTORY")
            origins["mqtt", key] = f"CREDENTIALS_DIRECTORY ({credential})"
    return origins


def _key(variable: str) -> Key | None:
    """Returns the key that a variable overrides, or None if it is not meant for the agent."""
    if not variable.startswith(_PREFIX):
        return None
    parts = variable.removeprefix(_PREFIX).lower().split("__")
    if len(parts) > 1:
        return tuple(int(part) if part.isdecimal() and len(part) < 4 else part for part in parts)
    if parts[0].split("_")[0] in tables():
        raise ConfigError("does not name a key", where=f"environment variable {variable}",
                          remedy="Separate table and key with two underscores, as in EDGE_MQTT__HOST")  # fmt: skip
    return None


def _put(document: dict[str, Any], key: Key, value: str, variable: str) -> None:
    """Sets a value in nested tables and lists, creating those that are missing."""
    node: Any = document
    for part, following in pairwise(key):
        try:
            node = node[part]
        except (LookupError, TypeError):
            child: Any = [] if isinstance(following, int) else {}
            _set(node, part, child, variable)
            node = child
    _set(node, key[-1], value, variable)


def _set(node: Any, part: str | int, value: Any, variable: str) -> None:
    """Sets an item of a table or a list; a list may grow by one item."""
    if isinstance(node, dict) and isinstance(part, str):
        node[part] = value
    elif isinstance(node, list) and isinstance(part, int) and part <= len(node):
        node[part : part + 1] = [value]
    else:
        raise ConfigError("does not match the structure of the file", where=f"environment variable {variable}",
                          remedy="Number cameras from 0 without gaps, as in EDGE_CAMERA__0__SOURCE")  # fmt: skip
