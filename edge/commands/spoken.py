"""The agent's messages as a person wants to read them: one line of text for each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from rich.text import Text

from edge.printable import printable

COLOURS: Final = {
    "angry": "red",
    "disgust": "dark_olive_green3",
    "fear": "medium_purple",
    "happy": "gold1",
    "sad": "dodger_blue1",
    "surprise": "orange1",
    "neutral": "grey70",
    "unknown": "grey50",
}
_STATUS_COLOURS: Final = {"online": "green", "offline": "red", "paused": "yellow"}
_BLOCKS: Final = " ▏▎▍▌▋▊▉█"
_MOST_DIGITS: Final = 20


def fields_of(payload: bytes) -> dict[str, Any]:
    """The fields of a JSON payload; none if it is not what an agent sends."""
    try:
        fields = json.loads(payload, parse_int=_whole_number)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _whole_number(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:  # JSON knows no limit, but a `float` does
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def clock() -> str:
    """The local time, for the margin of a line."""
    return datetime.now().astimezone().strftime("%H:%M:%S")


def bar(share: float, width: int) -> str:
    """A bar `width` characters long that is filled to `share`, 0 to 1."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    full, part = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[part] if part else "")).ljust(width)


def emotion(name: object, confidence: object) -> Text:
    """An emotion in its colour, with its confidence in percent where it has one."""
    percent = f" {confidence:.0%}" if isinstance(confidence, int | float) else ""
    word = printable(name)
    return Text(f"{word}{percent}", COLOURS.get(word, ""))


def status(payload: bytes) -> Text:
    """What is said on a `status` topic."""
    word = printable(payload.decode(errors="replace"))
    return Text(word, _STATUS_COLOURS.get(word, ""))


def spoken(topic: str, payload: bytes) -> Text:
    """What a message says, in one line."""
    kind = topic.rsplit("/", 1)[-1]
    if kind == "status":
        return status(payload)
    fields = fields_of(payload)
    tell = _TELL.get(kind)
    try:
        return tell(fields) if tell and fields else _raw(payload)
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError):  # its shape is not an agent's
        return _raw(payload)


def _raw(payload: bytes) -> Text:
    text = printable(payload.decode(errors="replace"))
    return Text(text if len(text) <= 100 else f"{text[:99]}…", "dim")


def _tell_state(fields: Mapping[str, Any]) -> Text:
    count = fields["face_count"]
    if not count:
        return Text("nobody", "dim")
    line = Text.assemble(emotion(fields["emotion"], fields["confidence"]), f"  {count} face{'s' if count > 1 else ''}")
    for name, share in sorted(fields["faces"][0]["probs"].items(), key=lambda item: -item[1]):
        line.append_text(Text.assemble("  ", (f"{printable(name)} {share:.2f}", COLOURS.get(name, ""))))
    return line


def _tell_event(fields: Mapping[str, Any]) -> Text:
    what = Text(f"{printable(fields['event'])} of ")
    if fields["event"] == "change":
        what = Text.assemble("change from ", emotion(fields["previous"], None), " to ")
    late = "  (delivered late)" if fields["historical"] else ""
    number = printable(fields["track_id"])
    return Text.assemble(what, emotion(fields["emotion"], fields["confidence"]), f"  face {number}{late}")


def _tell_info(fields: Mapping[str, Any]) -> Text:
    agent, model = fields["agent"], fields["model"]
    parts = (f"{agent['name']} {agent['version']}", f"model {model['name']} {model['version']}", fields["runtime"])
    return Text(printable(", ".join(parts)), "dim")


def _tell_health(fields: Mapping[str, Any]) -> Text:
    cameras = [f"{name} {camera['fps']:.0f} fps" for name, camera in fields["cameras"].items()]
    memory = f"{fields['rss_bytes'] / 1e6:.0f} MB"
    waiting = f"{fields['mqtt']['queue_depth']} events waiting"
    return Text(printable(", ".join([*cameras, memory, waiting])), "dim")


def _tell_update(fields: Mapping[str, Any]) -> Text:
    installed, latest, error = fields["installed"], fields["latest"], fields["error"]
    line = Text(printable(f"model {installed['name']} {installed['version']}"), "dim")
    if latest is not None and latest["release"] > installed["release"]:
        doing = "is being installed" if fields["installing"] else "is there"
        line.append(printable(f", {latest['version']} {doing}"))
    if error is not None:
        line.append(printable(f", not updated: {error}"), "red")
    return line


_TELL: Final = {
    "emotion": _tell_state,
    "event": _tell_event,
    "info": _tell_info,
    "health": _tell_health,
    "update": _tell_update,
}
