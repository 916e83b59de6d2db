"""The generated pages and the table of modules are up to date."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import PAGES

PROJECT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_pages_are_up_to_date(page: Path) -> None:
    """The pages document exactly the options and keys that exist."""
    assert words(page.read_text(encoding="utf-8")) == words(PAGES[page]()), "run: make docs"


def words(page: str) -> list[str]:
    """Returns the words of a page in the form that all versions of Python share.

    3.13 has `-o, --output OUT` for `-o OUT, --output OUT`, and other line breaks.
    """
    return re.sub(r"(-\w) [^\s,]+(?=, --)", r"\1", page).split()


@pytest.mark.parametrize("package", ["edge", "trainer"])
def test_the_architecture_lists_every_module(package: str) -> None:
    """The table of modules in ARCHITECTURE.md contains each module and package."""
    lines = (PROJECT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()
    table = "".join(line for line in lines if line.startswith("|") and f"`{package}/" in line)
    modules = [f"{path.name}`" for path in (PROJECT / package).glob("[a-z]*.py")]
    modules += [f"{package}/{path.parent.name}/`" for path in (PROJECT / package).glob("*/__init__.py")]
    assert [module for module in modules if module not in table] == []
