"""The generated pages against the program that they describe."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import PAGES

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_say_what_the_program_does(page: Path) -> None:
    """Nobody reads about an option or a key that is not there, or misses one that is."""
    assert words(page.read_text(encoding="utf-8")) == words(PAGES[page]()), "run: make docs"


def words(page: str) -> list[str]:
    """What every Python says: 3.13 has `-o, --output OUT` for `-o OUT, --output OUT`, and breaks lines otherwise."""
    return re.sub(r"(-\w) [^\s,]+(?=, --)", r"\1", page).split()


@pytest.mark.parametrize("package", ["edge", "trainer"])
def test_the_architecture_names_every_room(package: str) -> None:
    """Who looks for the room of a module finds it in the table."""
    lines = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()
    table = "".join(line for line in lines if line.startswith("|") and f"`{package}/" in line)
    rooms = [f"{path.name}`" for path in (PROJECT / package).glob("[a-z]*.py")]
    rooms += [f"{package}/{path.parent.name}/`" for path in (PROJECT / package).glob("*/__init__.py")]
    assert [room for room in rooms if room not in table] == []
