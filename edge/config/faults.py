"""What pydantic finds wrong, in words for the person who wrote the file: place, key, fault, and what is allowed."""

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
"""The way to a value: `("camera", 0, "source")`."""

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
    "string_type": "a text in quotes",
    "path_type": "a path in quotes",
}
"""What a value must be, where pydantic's own words are for programmers."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the values came from.

    Attributes:
        path: The file.
        text: Its content, which is valid TOML.
        variables: The keys that environment variables gave.
    """

    path: Path
    text: str
    variables: Mapping[Key, str]

    def where(self, key: Key) -> str:
        """File and line, or variable, and the full key. What the file does not have came with a variable beneath it."""
        in_file = _has(tomllib.loads(self.text), key)
        for given, variable in self.variables.items():
            if key[: len(given)] == given or (not in_file and given[: len(key)] == key):
                return f"environment variable {variable}: {_written(key)}"
        line = self.line(key)
        return f"{self.path}:{line}: {_written(key)}" if line else f"{self.path}: {_written(key)}"

    def line(self, key: Key) -> int | None:
        """The line on which the statement begins that gives `key`, or the table that it is missing from.

        It is found by parsing beginnings of the text, which leaves all knowledge of TOML to the parser: the statement
        begins right after the last beginning that is whole and does not have the key yet. That one is found by
        bisection.

        Returns:
            Counted from 1; None if not even the key's table is there.
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
            count, beginning = _whole(lines, middle, limit)
            if beginning is None or _has(beginning, key):
                limit = middle
            else:
                without = count
        return without + 1


def fault(details: ErrorDetails, origin: Origin) -> ConfigError:
    """One of pydantic's findings as the agent's own error."""
    key = details["loc"]
    what, remedy = _explain(details, key)
    return ConfigError(what, where=origin.where(key), remedy=remedy)


def _explain(details: ErrorDetails, key: Key) -> tuple[str, str | None]:
    match details["type"]:
        case "extra_forbidden":
            return "unknown key", _suggestion(key)
        case "missing" | "too_short" if key == ("camera",):
            return "there is no camera", "Add a [[camera]] table with name and source"
        case "tuple_type" if key == ("camera",):
            expected = "a list of tables, each under its own [[camera]]"
            return f"must be {expected}, not {_shown(details['input'])}", None
        case "missing":
            return "is missing", None
        case "string_too_short":
            return "must not be empty", None
        case "value_error":
            return str(details["ctx"]["error"]), None
        case kind:
            expected = _EXPECTED.get(kind) or details["msg"].removeprefix("Input should be ")
            return f"must be {expected}, not {_shown(details['input'])}", None


def _suggestion(key: Key) -> str:
    *table, name = key
    names = _names_in(tuple(table))
    prefix = _written(tuple(table)) + "." if table else ""
    if near := difflib.get_close_matches(str(name), names, n=1):
        return f"Perhaps you meant {prefix}{near[0]}"
    if elsewhere := [section for section, model in tables().items() if name in model.model_fields]:
        return f"Perhaps you meant {elsewhere[0]}.{name}"
    return f"Known here: {', '.join(names)}"


def _names_in(table: Key) -> list[str]:
    model = tables().get(str(table[0])) if table else None
    return list(model.model_fields) if model is not None else list(tables())


def _written(key: Key) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key)
    return text.removeprefix(".")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)


def _whole(lines: list[str], least: int, limit: int) -> tuple[int, dict[str, Any] | None]:
    """The shortest beginning of at least `least` lines and less than `limit` that is valid TOML, and its content."""
    for count in range(least, limit):
        try:
            return count, tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:  # a statement goes on in the next line
            continue
    return limit, None


def _has(node: Any, key: Key) -> bool:
    for part in key:
        try:
            node = node[part]
        except (LookupError, TypeError):
            return False
    return True
