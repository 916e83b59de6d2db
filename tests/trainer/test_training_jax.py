"""Training with JAX, on the CPU: slow, but with the same programs as on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.conftest import Example, write_table, write_votes
from tests.trainer.stripes import stripe_dataset, stripes
from trainer.cli import main
from trainer.weights import load_network, predict

ROOT = Path(__file__).parents[2]


def in_jax(program: str, *arguments: str, compiled: Path) -> str:
    """Runs a program with Keras on JAX and returns its output; this process has Keras on TensorFlow.

    Compiling takes several times as long as the runs. The same network is compiled for each run, so the compilation is
    cached in `compiled`, with little optimization.
    """
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=1 --xla_llvm_disable_expensive_passes=true",
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **cache, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compilation cache, shared by all tests."""
    return tmp_path_factory.mktemp("compiled")


def test_a_run_with_a_live_teacher_can_be_resumed(tmp_path: Path, compiled: Path) -> None:
    """Resumed and uninterrupted runs end with equal weights, and their logits in TensorFlow equal those in JAX.

    If the last checkpoint is truncated, the previous one is used; if both are, there is a clear error.
    """
    program = """
import sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from tests.trainer.stripes import stripe_dataset
from trainer.config import FitConfig
from trainer.errors import CheckpointError
from trainer.fit import Listener, fit
from trainer.weights import load_network, predict

class StopAfterFirst(Listener):
    def on_epoch(self, result):
        raise KeyboardInterrupt

folder, dataset = Path(sys.argv[1]), stripe_dataset()
teacher = FitConfig(stages=((16, 6),), batch_size=16, peak_lr=0.05, warmup_epochs=1, ema_decay=0.8, votes_weight=0.2,
                    width=0.25, blocks=(0, 0, 0))
fit(dataset, folder / "teacher", teacher)
student = replace(teacher, stages=((16, 2),), blocks=(0, 0, 1), mirror=True, muon_lr=0.02, mixup=0.3,
                  bfloat16=True, teachers=(str(folder / "teacher"),), live_teachers=True)
fit(dataset, folder / "uninterrupted", student)
try:
    fit(dataset, folder / "resumed", student, listener=StopAfterFirst())
except KeyboardInterrupt:
    fit(dataset, folder / "resumed", student, resume=True)

def damage(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])

damage(folder / "resumed/checkpoint/state.npz")
fit(dataset, folder / "resumed", student, resume=True)
for checkpoint in (folder / "resumed/checkpoint").iterdir():
    damage(checkpoint)
try:
    fit(dataset, folder / "resumed", student, resume=True)
except CheckpointError as error:
    print(error)
images = dataset.split("test").images
np.savez(folder / "logits.npz", **{name: predict(load_network(folder / name), images)
                                    for name in ("teacher", "uninterrupted", "resumed")})
"""
    output = in_jax(program, str(tmp_path), compiled=compiled)
    assert f"{tmp_path}/resumed/checkpoint: holds no readable checkpoint" in output
    history = [json.loads(line) for line in (tmp_path / "teacher" / "history.jsonl").read_text().splitlines()]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    history = [json.loads(line) for line in (tmp_path / "resumed" / "history.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    images = stripe_dataset().split("test").images
    with np.load(tmp_path / "logits.npz") as logits:
        np.testing.assert_allclose(logits["uninterrupted"], logits["resumed"], atol=1e-3)
        for name in logits:
            np.testing.assert_allclose(predict(load_network(tmp_path / name), images), logits[name], atol=1e-3)


def test_a_run_is_resumed_with_its_backend_only(
    tmp_path: Path, compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--backend jax` is recorded in the run, and the run is not resumed with another backend."""
    faces = {usage: stripes(count, seed) for usage, count, seed in (("Training", 28, 1), ("PublicTest", 14, 2))}
    rows = [
        Example(usage, int(label), image)
        for usage, of in faces.items()
        for image, label in zip(of.images, of.labels, strict=True)
    ]
    write_table(tmp_path / "fer2013.csv", rows)
    write_votes(tmp_path / "votes.csv", [row.usage for row in rows])
    (tmp_path / "config.json").write_text(
        json.dumps({"stages": [[16, 1]], "batch_size": 14, "width": 0.25, "blocks": [0, 0, 0]})
    )
    data = [
        "--data",
        str(tmp_path / "fer2013.csv"),
        "--votes",
        str(tmp_path / "votes.csv"),
        "-o",
        str(tmp_path / "run"),
    ]
    start = ["fit", "--backend", "jax", "--config", str(tmp_path / "config.json"), *data]
    output = in_jax("import sys; from trainer.cli import main; sys.exit(main(sys.argv[1:]))", *start, compiled=compiled)
    assert "epoch   1/1" in output
    assert "jax" in json.loads((tmp_path / "run" / "config.json").read_text())["libraries"]
    assert main(["fit", "--resume", *data]) == 11
    assert "was started with another --backend" in capsys.readouterr().err


def test_a_backend_that_is_not_installed_is_a_clear_error(tmp_path: Path) -> None:
    """The error says how to install it, before any data is read."""
    program = """
import importlib.util, sys
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "jax" else found(name)
from trainer.cli import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "fit", "--backend", "jax", "--data", "nowhere", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "--backend jax: this library is not installed" in done.stderr
    assert "pip install 'jax[cuda13]'" in done.stderr
