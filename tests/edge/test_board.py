"""The display of `edge watch`."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console, RenderableType

from edge.commands.board import Board
from edge.commands.formatting import bar, format_message
from edge.errors import BrokerUnreachable

FACE = {"track_id": 3, "emotion": "happy", "confidence": 0.93, "probs": {"happy": 0.93, "neutral": 0.05}}
STATE: dict[str, Any] = {
    "ts": "2026-01-01T00:00:00.000Z", "time_synced": True, "emotion": "happy", "confidence": 0.93, "face_count": 1,
    "faces": [FACE],
}  # fmt: skip
NEW_YEAR_S = 1767225600.0


def text(renderable: RenderableType, *, width: int = 100, height: int = 100) -> str:
    """Returns the text rendered on a screen of the given size."""
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def board_after(*messages: tuple[str, str | dict[str, Any]], now_s: float = NEW_YEAR_S) -> Board:
    """Returns a board that has received these messages."""
    board = Board(address="localhost:1883", prefix="home/emotion")
    for topic, payload in messages:
        encoded = payload if isinstance(payload, str) else json.dumps(payload)
        board.update(f"home/emotion/{topic}", encoded.encode(), now_s=now_s)
    return board


def test_a_device_its_camera_and_its_face_are_in_one_row() -> None:
    """The row contains device, camera, face, emotion, confidence and age."""
    board = board_after(("pi/status", "online"), ("pi/door/status", "online"), ("pi/door/emotion", STATE))
    (line,) = [line for line in text(board.render(now_s=NEW_YEAR_S + 7)).splitlines() if "pi" in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "pi online",
        "door online",
        "3",
        "happy 93%",
        bar(0.93, 20).strip(),
        "7 s",
    ]


def test_every_face_has_a_row_and_so_has_a_camera_without_faces() -> None:
    """The row of a camera without faces contains `no face`."""
    two = {**STATE, "faces": [FACE, {**FACE, "track_id": 4, "emotion": "sad"}]}
    shown = text(board_after(("pi/a/emotion", two), ("pi/b/emotion", {**STATE, "faces": []})).render(now_s=NEW_YEAR_S))
    assert ("happy" in shown, "sad" in shown, "no face" in shown) == (True, True, True)


def test_the_age_of_an_unsynchronized_device_counts_from_the_arrival() -> None:
    """A device whose clock is at 1970 is not shown as fifty years old."""
    board = board_after(("pi/a/emotion", {**STATE, "time_synced": False}), now_s=NEW_YEAR_S + 90)
    assert "2 s" in text(board.render(now_s=NEW_YEAR_S + 92))


@pytest.mark.parametrize("kind", ["status", "emotion"])
def test_a_camera_whose_topics_are_cleared_is_removed(kind: str) -> None:
    """A renamed or removed camera disappears; its device and the other cameras remain."""
    online = ("pi/status", "pi/door/status", "pi/yard/status")
    board = board_after(*((topic, "online") for topic in online), (f"pi/door/{kind}", ""))
    shown = text(board.render(now_s=NEW_YEAR_S))
    assert ("door" in shown, "yard online" in shown, "pi online" in shown) == (False, True, True)


def test_a_device_whose_topics_are_cleared_is_removed() -> None:
    """Topics may be cleared in any order; clearing those of an unknown device does not add it."""
    cleared = ("pi/status", "pi/door/emotion", "pi/door/status", "pi/health", "pi/info")
    board = board_after(("pi/status", "online"), ("pi/door/emotion", STATE), *((topic, "") for topic in cleared))
    shown = text(board.render(now_s=NEW_YEAR_S))
    assert "pi" not in shown
    assert "Waiting for a device." in shown


def test_a_connection_error_is_shown_above_the_last_state() -> None:
    """While disconnected, the board shows the error, a note that it is retried, and the last state."""
    board = board_after(("pi/status", "online"))
    board.set_error(BrokerUnreachable("nothing listens on that port", where="localhost:1883"))
    shown = text(board.render(now_s=NEW_YEAR_S))
    assert shown.index("localhost:1883: nothing listens on that port. Trying again") < shown.index("pi")
    board.set_error(None)
    assert "Trying again" not in text(board.render(now_s=NEW_YEAR_S))


@pytest.mark.parametrize("width", [100, 40])
def test_a_small_screen_shows_the_number_of_omitted_rows(width: int) -> None:
    """With more devices than rows, the error stays visible, and the omitted rows are counted."""
    board = board_after(*((f"pi-{number:02}-in-the-hall/status", "online") for number in range(30)))
    board.set_error(BrokerUnreachable("nothing listens on that port", where="localhost:1883"))
    lines = text(board.render(now_s=NEW_YEAR_S), width=width, height=20).splitlines()
    shown = sum("pi-" in line for line in lines)
    assert lines[-1].strip() == f"... and {30 - shown} more (--plain shows all)"
    assert "Trying again" in " ".join(lines[:4])
    assert (len(lines) <= 20, shown > 2) == (True, True)


@pytest.mark.parametrize(("height", "omitted"), [(36, False), (35, True)])
def test_a_screen_is_used_to_its_last_line(height: int, omitted: bool) -> None:
    """Thirty rows need two lines for the heading and four for the frame; with one line less, rows are omitted."""
    board = board_after(*((f"pi{number:02}/status", "online") for number in range(30)))
    lines = text(board.render(now_s=NEW_YEAR_S), height=height).splitlines()
    assert lines[0].strip() == "localhost:1883  home/emotion/#"
    assert len(lines) == height
    assert (" more (" in lines[-1]) == omitted


def test_the_address_is_not_parsed_as_markup() -> None:
    """An IPv6 address in brackets is shown unchanged."""
    board = Board(address="[fd00::5]:1883", prefix="emotion")
    assert "[fd00::5]:1883  emotion/#" in text(board.render(now_s=NEW_YEAR_S))


def test_unexpected_payloads_neither_crash_the_board_nor_manipulate_the_terminal() -> None:
    """Arbitrary payloads neither crash the display nor send control characters to the terminal."""
    control_characters = "\x1b[2J\x07"
    number = "9" * 400
    payloads = (
        *("", "{", "[1]", "3", control_characters, "[" * 100_000),
        *(f'{{"faces": [{{"track_id": {"[" * depth}{"]" * depth}}}]}}' for depth in range(900, 1000, 5)),
        json.dumps({"faces": [3, {"emotion": control_characters, "confidence": "x"}]}),
        json.dumps({"face_count": 1, "emotion": "sad", "confidence": 0.5, "faces": []}),
        f'{{"face_count": 1, "confidence": {number}, "faces": [{{"track_id": {number}, "confidence": {number}}}]}}',
        f'{{"cameras": {{"door": {{"fps": {number}}}}}, "rss_bytes": {number}}}',
        '{"time_synced": true, "ts": "0001-01-01T00:00:00", "faces": [{}]}',
    )
    for payload in payloads:
        for kind in ("status", "a/status", "a/emotion", "a/event", "info", "health", "update"):
            shown = text(board_after((f"{control_characters}/{kind}", payload)).render(now_s=0))
            shown += text(format_message(f"home/emotion/{kind}", payload.encode()))
            assert not {"\x1b", "\x07"} & set(shown)


def test_messages_are_formatted_as_text() -> None:
    """Plain output describes messages without JSON."""
    event = {
        "event": "change",
        "emotion": "sad",
        "confidence": 0.5,
        "previous": "happy",
        "track_id": 3,
        "historical": True,
    }
    line = format_message("emotion/pi/door/event", json.dumps(event).encode()).plain
    assert line == "change from happy to sad 50%  face 3  (delivered late)"
    line = format_message("emotion/pi/door/emotion", json.dumps(STATE).encode()).plain
    assert line == "happy 93%  1 face  happy 0.93  neutral 0.05"
    assert format_message("emotion/pi/door/emotion", b'{"face_count": 0}').plain == "no face"


@pytest.mark.parametrize(
    ("latest", "installing", "error", "expected"),
    [
        (None, False, None, "model ferplus 1.0.0"),
        (1, False, None, "model ferplus 1.0.0"),
        (2, False, None, "model ferplus 1.0.0, 2.0.0 is available"),
        (2, True, None, "model ferplus 1.0.0, 2.0.0 is being installed"),
        (2, False, "is not signed", "model ferplus 1.0.0, 2.0.0 is available, update failed: is not signed"),
    ],
)
def test_update_messages_are_formatted_as_text(
    latest: int | None, installing: bool, error: str | None, expected: str
) -> None:
    """The text contains the installed model, the available one, and the last error."""
    one, newest = ({"name": "ferplus", "version": f"{number}.0.0", "release": number} for number in (1, latest))
    update = {"installed": one, "latest": newest if latest else None, "installing": installing, "error": error}
    assert format_message("emotion/pi/update", json.dumps(update).encode()).plain == expected


def test_the_length_of_a_bar_is_proportional_to_the_share() -> None:
    """A share of one half fills half of the bar; shares above 1 fill it completely."""
    assert (bar(0, 4), bar(0.5, 4), bar(1, 4), bar(7, 4)) == ("    ", "██  ", "████", "████")
    assert bar(1 / 32, 4) == "▏   "
