"""Formats the agent's messages as human-readable lines of text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from rich.text import Text

from edge.printable import printable

COLORS: Final = {
    "angry": "red",
    "disgust": "dark_olive_green3",
    "fear": "medium_purple",
    "happy": "gold1",
    "sad": "dodger_blue1",
    "surprise": "orange1",
    "neutral": "grey70",
    "unknown": "grey50",
}
_STATUS_COLORS: Final = {"online": "green", "offline": "red", "paused": "yellow"}
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_MAX_DIGITS: Final = 20


def fields_of(payload: bytes) -> dict[str, Any]:
    """Parses a JSON payload into its fields; returns an empty dict if it is not a JSON object."""
    try:
        fields = json.loads(payload, parse_int=_integer)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:  # would overflow a float
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def clock() -> str:
    """Returns the local time, for the start of a line."""
    return datetime.now().astimezone().strftime("%H:%M:%S")


def bar(share: float, width: int) -> str:
    """Returns a bar of `width` characters, filled to `share`, 0 to 1."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[part] if part else "")).ljust(width)


def emotion(name: object, confidence: object) -> Text:
    """Formats an emotion in its color, with its confidence in percent if that is a number."""
    percent = f" {confidence:.0%}" if isinstance(confidence, int | float) else ""
    word = printable(name)
    return Text(f"{word}{percent}", COLORS.get(word, ""))


def status(payload: bytes) -> Text:
    """Formats the payload of a `status` topic."""
    word = printable(payload.decode(errors="replace"))
    return Text(word, _STATUS_COLORS.get(word, ""))


def format_message(topic: str, payload: bytes) -> Text:
    """Formats a message in one line."""
    kind = topic.rsplit("/", 1)[-1]
    if kind == "status":
        return status(payload)
    fields = fields_of(payload)
    formatter = _FORMATTERS.get(kind)
    try:
        return formatter(fields) if formatter and fields else _raw(payload)
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError):  # not a message of an agent
        return _raw(payload)


def _raw(payload: bytes) -> Text:
    text = printable(payload.decode(errors="replace"))
    return Text(text if len(text) <= 100 else f"{text[:99]}…", "dim")


def _format_state(fields: Mapping[str, Any]) -> Text:
    count = fields["face_count"]
    if not count:
        return Text("no face", "dim")
    line = Text.assemble(emotion(fields["emotion"], fields["confidence"]), f"  {count} face{'s' if count > 1 else ''}")
    for name, share in sorted(fields["faces"][0]["probs"].items(), key=lambda item: -item[1]):
        line.append_text(Text.assemble("  ", (f"{printable(name)} {share:.2f}", COLORS.get(name, ""))))
    return line


def _format_event(fields: Mapping[str, Any]) -> Text:
    what = Text(f"{printable(fields['event'])} of ")
    if fields["event"] == "change":
        what = Text.assemble("change from ", emotion(fields["previous"], None), " to ")
    late = "  (delivered late)" if fields["historical"] else ""
    number = printable(fields["track_id"])
    return Text.assemble(what, emotion(fields["emotion"], fields["confidence"]), f"  face {number}{late}")


def _format_info(fields: Mapping[str, Any]) -> Text:
    agent, model = fields["agent"], fields["model"]
    parts = (f"{agent['name']} {agent['version']}", f"model {model['name']} {model['version']}", fields["runtime"])
    return Text(printable(", ".join(parts)), "dim")


def _format_health(fields: Mapping[str, Any]) -> Text:
    cameras = [f"{name} {camera['fps']:.0f} fps" for name, camera in fields["cameras"].items()]
    memory = f"{fields['rss_bytes'] / 1e6:.0f} MB"
    waiting = f"{fields['mqtt']['queue_depth']} events queued"
    return Text(printable(", ".join([*cameras, memory, waiting])), "dim")


def _format_update(fields: Mapping[str, Any]) -> Text:
    installed, latest, error = fields["installed"], fields["latest"], fields["error"]
    line = Text(printable(f"model {installed['name']} {installed['version']}"), "dim")
    if latest is not None and latest["release"] > installed["release"]:
        state = "is being installed" if fields["installing"] else "is available"
        line.append(printable(f", {latest['version']} {state}"))
    if error is not None:
        line.append(printable(f", update failed: {error}"), "red")
    return line


_FORMATTERS: Final = {
    "emotion": _format_state,
    "event": _format_event,
    "info": _format_info,
    "health": _format_health,
    "update": _format_update,
}
