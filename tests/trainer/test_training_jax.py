"""Training with JAX, on the processor: slow, but the very programs that a GPU runs."""

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
    """What a program prints that runs with Keras on JAX; this process has Keras on TensorFlow.

    What the compiler makes is kept in `compiled`, because the same network is compiled for each run; it takes several
    times as long as the runs, and so it is not to optimize much.
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
    """Where all tests keep what the compiler made."""
    return tmp_path_factory.mktemp("compiled")


def test_a_run_learns_from_a_live_teacher_and_goes_on_after_a_stop(tmp_path: Path, compiled: Path) -> None:
    """A stopped and an unbroken run end alike, and TensorFlow, which exports, gives the answers that JAX gave.

    Where the last checkpoint is cut off, it goes on from the one before; without any, it is a clear error.
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
student = replace(teacher, stages=((16, 2),), mirror=True, muon_lr=0.02, mixup=0.3,
                  bfloat16=True, teachers=(str(folder / "teacher"),), live_teachers=True)
fit(dataset, folder / "whole", student)
try:
    fit(dataset, folder / "broken", student, listener=StopAfterFirst())
except KeyboardInterrupt:
    fit(dataset, folder / "broken", student, resume=True)

def damage(checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])

damage(folder / "broken/checkpoint/state.npz")
fit(dataset, folder / "broken", student, resume=True)
for checkpoint in (folder / "broken/checkpoint").iterdir():
    damage(checkpoint)
try:
    fit(dataset, folder / "broken", student, resume=True)
except CheckpointError as error:
    print(error)
images = dataset.split("test").images
np.savez(folder / "answers.npz", **{name: predict(load_network(folder / name), images)
                                    for name in ("teacher", "whole", "broken")})
"""
    told = in_jax(program, str(tmp_path), compiled=compiled)
    assert f"{tmp_path}/broken/checkpoint: holds no readable checkpoint" in told
    history = [json.loads(line) for line in (tmp_path / "teacher" / "history.jsonl").read_text().splitlines()]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    history = [json.loads(line) for line in (tmp_path / "broken" / "history.jsonl").read_text().splitlines()]
    assert [epoch["epoch"] for epoch in history] == [1, 2]
    images = stripe_dataset().split("test").images
    with np.load(tmp_path / "answers.npz") as answers:
        np.testing.assert_allclose(answers["whole"], answers["broken"], atol=1e-3)
        for name in answers:
            np.testing.assert_allclose(predict(load_network(tmp_path / name), images), answers[name], atol=1e-3)


def test_the_command_takes_a_backend_and_keeps_to_it(
    tmp_path: Path, compiled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--backend jax` trains, the run says so, and another backend refuses to go on with it."""
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
    told = in_jax("import sys; from trainer.cli import main; sys.exit(main(sys.argv[1:]))", *start, compiled=compiled)
    assert "epoch   1/1" in told
    assert "jax" in json.loads((tmp_path / "run" / "config.json").read_text())["libraries"]
    assert main(["fit", "--resume", *data]) == 11
    assert "was started with another --backend" in capsys.readouterr().err


def test_a_backend_that_is_not_installed_is_a_clear_error(tmp_path: Path) -> None:
    """The error says how to install it, before any data are read."""
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
