"""The revision of the trainer in a run's provenance."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.trainer.stripes import stripe_dataset
from trainer import provenance as module
from trainer.config import FitConfig
from trainer.provenance import provenance


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretends that the trainer is installed in `folder`."""
    (folder / "trainer").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(folder / "trainer" / "provenance.py"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit."""
    top = tmp_path / "project"
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", "-C", str(top)]
    subprocess.run(["git", "init", "--quiet", str(top)], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "first"], check=True)
    return top


def revision() -> str:
    """The revision that a run would record."""
    return provenance(stripe_dataset(), FitConfig()).git_revision


def test_the_revision_is_that_of_the_trainer_s_checkout(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout without changes, it is the abbreviated hash of the commit."""
    install(repository, monkeypatch)
    assert re.fullmatch(r"[0-9a-f]{12}", revision())


def test_a_project_that_has_the_trainer_installed_is_not_its_checkout(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its revision is not a commit of the trainer's history."""
    install(repository / "venv" / "site-packages", monkeypatch)
    assert revision() == "unknown"


def test_a_repository_that_the_environment_names_is_not_the_checkout(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a git hook, for which git sets GIT_DIR."""
    install(tmp_path / "elsewhere", monkeypatch)
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert revision() == "unknown"
