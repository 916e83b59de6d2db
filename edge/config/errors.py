"""Converts pydantic's validation errors to messages for users: location, key, what is wrong and what is allowed."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import ErrorDetails

from edge.config.sections import tables
from edge.errors import ConfigError

Key = tuple[str | int, ...]
"""Path to a value, such as `("camera", 0, "source")`."""

_EXPECTED = {
    "model_type": "a table",
    "tuple_type": "a list",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string in quotes",
    "path_type": "a path in quotes",
}
"""What a value must be, by pydantic's error type; replaces messages that are written for programmers."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the values come from.

    Attributes:
        path: The file.
        text: Its content, which is valid TOML.
        variables: The keys set by environment variables, each with the variable.
    """

    path: Path
    text: str
    variables: Mapping[Key, str]

    def where(self, key: Key) -> str:
        """Returns file and line, or the environment variable, with the full key.

        A table that is not in the file was created by a variable for one of its keys.
        """
        in_file = _has(tomllib.loads(self.text), key)
        for set_key, variable in self.variables.items():
            if key[: len(set_key)] == set_key or (not in_file and set_key[: len(key)] == key):
                return f"environment variable {variable}: {_dotted(key)}"
        line = self.line(key)
        return f"{self.path}:{line}: {_dotted(key)}" if line else f"{self.path}: {_dotted(key)}"

    def line(self, key: Key) -> int | None:
        """Returns the line on which the statement that sets `key` starts, or the table that it is missing from.

        The line is found by parsing prefixes of the text, so that only the parser needs to know TOML: the statement
        starts right after the longest prefix that is valid and does not contain the key. Bisection finds that prefix.

        Returns:
            The line number, from 1; None if the file does not even have the key's table.
        """
        document = tomllib.loads(self.text)
        while key and not _has(document, key):
            key = key[:-1]
        if not key:
            return None
        lines = self.text.split("\n")
        without, limit = 0, len(lines)
        while without + 1 < limit:
            middle = (without + limit) // 2
            count, prefix = _valid_prefix(lines, middle, limit)
            if prefix is None or _has(prefix, key):
                limit = middle
            else:
                without = count
        return without + 1


def config_error(details: ErrorDetails, origin: Origin) -> ConfigError:
    """Converts one of pydantic's errors to the agent's own."""
    key = details["loc"]
    what, remedy = _explain(details, key)
    return ConfigError(what, where=origin.where(key), remedy=remedy)


def _explain(details: ErrorDetails, key: Key) -> tuple[str, str | None]:
    match details["type"]:
        case "extra_forbidden":
            return "unknown key", _suggestion(key)
        case "missing" | "too_short" if key == ("camera",):
            return "no camera is configured", "Add a [[camera]] table with name and source"
        case "tuple_type" if key == ("camera",):
            expected = "a list of tables, each with the header [[camera]]"
            return f"must be {expected}, not {_display(details['input'])}", None
        case "missing":
            return "is missing", None
        case "string_too_short":
            return "must not be empty", None
        case "value_error":
            return str(details["ctx"]["error"]), None
        case kind:
            expected = _EXPECTED.get(kind) or details["msg"].removeprefix("Input should be ")
            return f"must be {expected}, not {_display(details['input'])}", None


def _suggestion(key: Key) -> str:
    *table, name = key
    names = _names_in(tuple(table))
    prefix = _dotted(tuple(table)) + "." if table else ""
    if near := difflib.get_close_matches(str(name), names, n=1):
        return f"Perhaps you meant {prefix}{near[0]}"
    if elsewhere := [section for section, model in tables().items() if name in model.model_fields]:
        return f"Perhaps you meant {elsewhere[0]}.{name}"
    return f"Valid keys: {', '.join(names)}"


def _names_in(table: Key) -> list[str]:
    model = tables().get(str(table[0])) if table else None
    return list(model.model_fields) if model is not None else list(tables())


def _dotted(key: Key) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def _display(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _valid_prefix(lines: list[str], minimum: int, limit: int) -> tuple[int, dict[str, Any] | None]:
    """Returns the length and content of the shortest prefix of `minimum` to `limit` - 1 lines that is valid TOML."""
    for count in range(minimum, limit):
        try:
            return count, tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:  # a statement continues on the next line
            continue
    return limit, None


def _has(node: Any, key: Key) -> bool:
    for part in key:
        try:
            node = node[part]
        except (LookupError, TypeError):
            return False
    return True
