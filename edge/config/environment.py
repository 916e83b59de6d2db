"""What the environment adds to the file: overrides, and the places that systemd names for state and secrets.

`EDGE_MQTT__HOST` overrides `host` in `[mqtt]`, `EDGE_CAMERA__0__SOURCE` overrides `source` in the first `[[camera]]`:
two underscores stand between table and key. `STATE_DIRECTORY` says where the state is, and `CREDENTIALS_DIRECTORY`
where secrets are that the file does not name.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from edge.config.faults import Key
from edge.config.sections import tables
from edge.errors import ConfigError

_PREFIX: Final = "EDGE_"
_CREDENTIALS: Final = {"mqtt_password": "password_file", "mqtt_key": "key_file"}
"""Names of systemd credentials, and the keys of `[mqtt]` that they stand in for."""


def apply_environment(document: dict[str, Any], environ: Mapping[str, str]) -> dict[Key, str]:
    """Lays the environment over the file's content.

    Args:
        document: The file's content; it is changed.
        environ: The environment.

    Returns:
        For each key that was given this way, the variable that gave it.

    Raises:
        ConfigError: A variable is meant for the agent, but names no key.
    """
    given: dict[Key, str] = {}
    for name in sorted(environ):
        key = _key(name)
        if key is not None:
            _put(document, key, environ[name], name)
            given[key] = name
    if state_dir := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        given["device", "state_dir"] = "STATE_DIRECTORY"
        _put(document, ("device", "state_dir"), state_dir, "STATE_DIRECTORY")
    return given | _apply_credentials(document, environ)


def _apply_credentials(document: dict[str, Any], environ: Mapping[str, str]) -> dict[Key, str]:
    folder, section = environ.get("CREDENTIALS_DIRECTORY"), document.get("mqtt", {})
    if not folder or not isinstance(section, dict):
        return {}
    given: dict[Key, str] = {}
    for credential, key in _CREDENTIALS.items():
        file = Path(folder) / credential
        if key not in section and file.exists():
            _put(document, ("mqtt", key), str(file), "CREDENTIALS_DIRECTORY")
            given["mqtt", key] = f"CREDENTIALS_DIRECTORY ({credential})"
    return given


def _key(variable: str) -> Key | None:
    """The key that a variable overrides; None if it is not meant for the agent."""
    if not variable.startswith(_PREFIX):
        return None
    parts = variable.removeprefix(_PREFIX).lower().split("__")
    if len(parts) > 1:
        return tuple(int(part) if part.isdecimal() and len(part) < 4 else part for part in parts)
    if parts[0].split("_")[0] in tables():
        raise ConfigError("names no key", where=f"environment variable {variable}",
                          remedy="Write two underscores between table and key, as in EDGE_MQTT__HOST")  # fmt: skip
    return None


def _put(document: dict[str, Any], key: Key, value: str, variable: str) -> None:
    """Sets a value in nested tables and lists, and makes those that are not there."""
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
    """Sets one part of a table or a list, which may grow by one at its end."""
    if isinstance(node, dict) and isinstance(part, str):
        node[part] = value
    elif isinstance(node, list) and isinstance(part, int) and part <= len(node):
        node[part : part + 1] = [value]
    else:
        raise ConfigError("does not fit what the file holds", where=f"environment variable {variable}",
                          remedy="Count cameras from 0, without a gap, as in EDGE_CAMERA__0__SOURCE")  # fmt: skip
