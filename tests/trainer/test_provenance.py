"""What a run says of where it comes from."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.trainer.stripes import stripe_dataset
from trainer import provenance as module
from trainer.config import FitConfig
from trainer.provenance import provenance


def install(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the trainer lie in `place`."""
    (place / "trainer").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(place / "trainer" / "provenance.py"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One with a commit."""
    top = tmp_path / "project"
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-C", str(top)]
    subprocess.run(["git", "init", "--quiet", str(top)], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "first"], check=True)
    return top


def revision() -> str:
    """What a run would name."""
    return provenance(stripe_dataset(), FitConfig()).git_revision


def test_the_revision_is_that_of_the_trainer_s_checkout(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what was changed since."""
    install(repository, monkeypatch)
    assert re.fullmatch(r"[0-9a-f]{12}", revision())


def test_a_project_that_has_the_trainer_installed_is_not_its_checkout(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its revision would name a commit that nobody finds in the trainer's history."""
    install(repository / "venv" / "site-packages", monkeypatch)
    assert revision() == "unknown"


def test_a_repository_that_the_environment_names_is_not_the_checkout(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a hook of git, which sets GIT_DIR."""
    install(tmp_path / "elsewhere", monkeypatch)
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert revision() == "unknown"
