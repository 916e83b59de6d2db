"""The generated pages against the program that they describe."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_say_what_the_program_does(page: Path) -> None:
    """Nobody reads about an option or a key that is not there, or misses one that is."""
    # Words only: argparse breaks its lines differently from one Python to the next.
    assert page.read_text(encoding="utf-8").split() == PAGES[page]().split(), "run: make docs"
