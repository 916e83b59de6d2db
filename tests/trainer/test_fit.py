"""Training runs: their files, how they resume, and what they reject."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from edge.contract import UserError
from tests.trainer.stripes import LEARNING, ONE_SIZE, SMALL, TINY, stripes
from trainer.config import FitConfig
from trainer.data import Dataset, FaceSet
from trainer.errors import CheckpointError, DataError
from trainer.fit import EpochResult, Listener, fit
from trainer.provenance import provenance
from trainer.run import read_config, write_config
from trainer.training_tensorflow import TensorFlowTraining
from trainer.weights import load_network, predict


class StopAfter(Listener):
    """Interrupts the run after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch(self, result: EpochResult) -> None:
        if result.epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "config",
    [TINY, replace(ONE_SIZE, muon_lr=0.02), replace(ONE_SIZE, blocks=(1, 2, 1), mixup=0.3)],
    ids=["sgd", "muon", "deeper"],
)
def test_a_resumed_run_is_equal_to_an_uninterrupted_one(config: FitConfig, tmp_path: Path, dataset: Dataset) -> None:
    """Stopped after an epoch and resumed, a run ends with the weights of an uninterrupted one."""
    fit(dataset, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, tmp_path / "broken", config, listener=StopAfter(1))
    fit(dataset, tmp_path / "broken", config, resume=True)
    images = dataset.split("test").images
    whole, broken = (predict(load_network(tmp_path / name), images) for name in ("whole", "broken"))
    np.testing.assert_allclose(whole, broken, atol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "broken" / "history.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["side_px"]) for line in lines] == [(n + 1, config.side_px(n)) for n in range(3)]


@pytest.mark.parametrize("unwritable", ["history.jsonl", "checkpoint"])
def test_an_epoch_that_was_not_wholly_written_is_trained_again(
    unwritable: str, tmp_path: Path, dataset: Dataset
) -> None:
    """Whichever file could not be written, the resumed run has each epoch once in its history and its curves."""
    run, aside = tmp_path / "run", tmp_path / "aside"

    class FailInSecond(Listener):
        def on_step(self, epoch: int, step: int, steps: int, loss: float) -> None:  # noqa: ARG002
            if (epoch, step) == (2, 1):
                (run / unwritable).rename(aside)
                (run / unwritable).symlink_to(tmp_path / "nowhere" / "on" / "disk")

    with pytest.raises(UserError, match=r"run: cannot be written .* --resume"):
        fit(dataset, run, ONE_SIZE, listener=FailInSecond())
    (run / unwritable).unlink()
    aside.rename(run / unwritable)
    fit(dataset, run, ONE_SIZE, resume=True)
    assert epochs_written(run) == [1, 2, 3]
    files = sorted((run / "tensorboard").iterdir())
    drawn = [event.step for file in files for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]
    assert drawn == [1, 1, 2, 2, 3, 3]  # of loss and accuracy


def test_curves_that_cannot_be_written_are_a_clear_error(tmp_path: Path, dataset: Dataset) -> None:
    """They are the first files that a run writes."""
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(UserError, match=rf"{tmp_path.name}: cannot be written \(.*tensorboard is not a directory\)"):
        fit(dataset, tmp_path, SMALL)


def test_a_damaged_checkpoint_costs_an_epoch_or_is_a_clear_error(tmp_path: Path, dataset: Dataset) -> None:
    """The previous one is used; without any, the error names the folder, and the run is left as it is."""
    run, hopeless = tmp_path / "run", tmp_path / "hopeless"
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, run, ONE_SIZE, listener=StopAfter(2))
    shutil.copytree(run, hopeless)
    damage(run / "checkpoint" / "ckpt-2.data-00000-of-00001")
    fit(dataset, run, ONE_SIZE, resume=True)
    assert epochs_written(run) == [1, 2, 3]

    for data in (hopeless / "checkpoint").glob("*.data-*"):
        damage(data)
    with pytest.raises(CheckpointError, match=r"hopeless/checkpoint: holds no readable checkpoint .*Start"):
        fit(dataset, hopeless, ONE_SIZE, resume=True)
    shutil.rmtree(hopeless / "checkpoint")
    with pytest.raises(CheckpointError, match=r"hopeless: has no checkpoint to resume from\. Start another run"):
        fit(dataset, hopeless, ONE_SIZE, resume=True)
    assert epochs_written(hopeless) == [1, 2]


def test_an_incomplete_checkpoint_is_ignored(tmp_path: Path, dataset: Dataset) -> None:
    """Killed while writing, a run resumes from the previous checkpoint, or starts over without one."""
    run, first = tmp_path / "run", tmp_path / "first"
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, run, ONE_SIZE, listener=StopAfter(1))
    shutil.copytree(run, first)
    (first / "checkpoint" / "ckpt-1.index").unlink()  # which TensorFlow writes last
    fit(dataset, first, ONE_SIZE, resume=True)
    assert epochs_written(first) == [1, 2, 3]
    shutil.copy(run / "checkpoint" / "ckpt-1.data-00000-of-00001", run / "checkpoint" / "ckpt-2.data-00000-of-00001")
    fit(dataset, run, ONE_SIZE, resume=True)
    assert epochs_written(run) == [1, 2, 3]
    assert {file.stem for file in (run / "checkpoint").iterdir()} == {"ckpt-2", "ckpt-3"}


HALF_A_CONFIGURATION = """
import resource, signal, sys
from pathlib import Path
from trainer.config import FitConfig
from trainer.provenance import Provenance
from trainer.run import write_config
signal.signal(signal.SIGXFSZ, signal.SIG_DFL if sys.argv[2] == "killed" else signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
write_config(Path(sys.argv[1]), FitConfig(), Provenance("data.csv", "0", "0", {}))
"""


@pytest.mark.parametrize("end", ["error", "killed"])
def test_a_partial_configuration_does_not_block_the_folder(end: str, tmp_path: Path, dataset: Dataset) -> None:
    """If the disk is full or the process is killed while writing, the folder can be used for another try."""
    command = [sys.executable, "-c", HALF_A_CONFIGURATION, str(tmp_path), end]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGXFSZ if end == "killed" else "File too large" in done.stderr
    write_config(tmp_path, TINY, provenance(dataset, TINY))
    assert read_config(tmp_path)[0] == TINY


def epochs_written(run: Path) -> list[int]:
    """The epochs in the history."""
    return [json.loads(line)["epoch"] for line in (run / "history.jsonl").read_text().splitlines()]


def damage(file: Path) -> None:
    """Truncates it to half, as a power cut may."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def test_private_test_is_not_needed(tmp_path: Path, dataset: Dataset) -> None:
    """A run without it completes, as nothing is selected on it."""
    fit(Dataset(dataset.path, {name: dataset.split(name) for name in ("train", "validation")}), tmp_path, ONE_SIZE)
    assert epochs_written(tmp_path) == [1, 2, 3]


def test_the_best_weights_are_chosen_on_public_test(tmp_path: Path, dataset: Dataset) -> None:
    """The accuracies of a run are those on PublicTest, and the best weights have the best of them."""
    best = fit(dataset, tmp_path, ONE_SIZE)
    validation = dataset.split("validation")
    right = predict(load_network(tmp_path), validation.images).argmax(axis=1) == validation.labels
    assert np.mean(right) == pytest.approx(best, abs=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert max(line["accuracy"] for line in lines) == best


def test_a_diverging_run_ends_and_keeps_the_epochs_before(tmp_path: Path, dataset: Dataset) -> None:
    """The error names the epoch and a remedy; best weights, history and checkpoint are those of the epoch before."""
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, run, ONE_SIZE, listener=StopAfter(1))
    good = (run / "best.weights.h5").read_bytes()
    origin = read_config(run)[1]
    (run / "config.json").unlink()
    write_config(run, replace(ONE_SIZE, peak_lr=1e6), origin)
    with pytest.raises(UserError, match=r"run: diverged in epoch 2: its loss is nan\. .* a lower peak_lr"):
        fit(dataset, run, ONE_SIZE, resume=True)
    assert (run / "best.weights.h5").read_bytes() == good
    assert epochs_written(run) == [1]
    assert not list((run / "checkpoint").glob("ckpt-2*"))


def test_a_network_with_logits_that_are_not_finite_has_diverged(tmp_path: Path, dataset: Dataset) -> None:
    """It is never the best, even if only the last step, which no loss shows, made it diverge; Muon has two rates."""
    wild = replace(SMALL, batch_size=224, peak_lr=1e6, weight_decay=1e6, warmup_epochs=0, ema_decay=0.0)
    for config, rates in ((wild, "peak_lr"), (replace(wild, muon_lr=1e6), "peak_lr or muon_lr")):
        run = tmp_path / rates
        with pytest.raises(UserError, match=rf"{rates}: diverged in epoch 1: its network.* a lower {rates} in "):
            fit(dataset, run, config)
        assert not (run / "best.weights.h5").exists()


def test_an_epoch_that_is_always_wrong_is_better_than_none(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an accuracy of 0, as may happen with few validation images, the first epoch is saved and no later one."""
    judged = []

    class Judge(Listener):
        def on_epoch(self, result: EpochResult) -> None:
            judged.append((result.accuracy, result.best))

    judges = dataset.split("validation")
    others = judges.take(np.flatnonzero(judges.labels != 0))
    monkeypatch.setattr(TensorFlowTraining, "logits", lambda _, images: np.eye(7)[np.zeros(len(images), int)])
    first_class_alone = Dataset(dataset.path, {**dataset.splits, "validation": others})
    assert fit(first_class_alone, tmp_path, replace(SMALL, stages=((16, 2),)), listener=Judge()) == 0
    assert judged == [(0, True), (0, False)]
    assert load_network(tmp_path).count_params() > 0


def test_the_network_learns(tmp_path: Path, dataset: Dataset) -> None:
    """After a few epochs on stripes, the averaged network is far better than chance, with both heads."""
    config = replace(LEARNING, width=1.0, blocks=(0, 1, 1))
    assert fit(dataset, tmp_path / "run", config) > 0.6
    assert any((tmp_path / "run" / "tensorboard").iterdir())
    assert read_config(tmp_path / "run")[0] == config


def test_a_run_starts_with_the_weights_of_another(tmp_path: Path, dataset: Dataset) -> None:
    """After one short epoch, they are as accurate as before, with or without votes; random ones are not."""
    assert fit(dataset, tmp_path / "finished", LEARNING) > 0.6
    short = replace(LEARNING, stages=((48, 1),), peak_lr=1e-4)
    for votes_weight in (0.2, 0.0):
        more = replace(short, votes_weight=votes_weight, initial_weights=str(tmp_path / "finished"))
        assert fit(dataset, tmp_path / f"more-{votes_weight}", more) > 0.6
    assert fit(dataset, tmp_path / "fresh", short) < 0.4


def test_weights_of_another_network_are_rejected(tmp_path: Path, dataset: Dataset) -> None:
    """The error names the run and describes both networks, or names the folder that does not exist."""
    wide = replace(TINY, stages=((16, 1),), width=1.5)
    fit(dataset, tmp_path / "wide", wide)
    fine_tuned = replace(TINY, initial_weights=str(tmp_path / "wide"))
    with pytest.raises(
        CheckpointError, match=r"wide: does not fit as initial weights: .* width 1.5, .* width 0.25, 16"
    ):
        fit(dataset, tmp_path / "run", fine_tuned)
    with pytest.raises(CheckpointError, match=r"its network has .* without FER\+ head, this run's .* with FER\+ head"):
        fit(dataset, tmp_path / "run", replace(fine_tuned, width=1.5, votes_weight=0.5))
    with pytest.raises(CheckpointError, match=r"its network has .* blocks 0-0-0, .* this run's .* blocks 1-2-1, "):
        fit(dataset, tmp_path / "run", replace(fine_tuned, width=1.5, blocks=(1, 2, 1)))
    with pytest.raises(CheckpointError, match=r"its network has .*, ordinary channels, .*, paired channels, "):
        fit(dataset, tmp_path / "run", replace(fine_tuned, width=1.5, mirror=True))
    paired = replace(TINY, stages=((16, 1),), mirror=True)
    fit(dataset, tmp_path / "paired", paired)
    with pytest.raises(
        CheckpointError, match=r"paired: does not fit as initial weights: .* width 0.25, .* width 1.5, "
    ):
        fit(dataset, tmp_path / "run", replace(paired, width=1.5, initial_weights=str(tmp_path / "paired")))
    with pytest.raises(CheckpointError, match="nobody: is not a run folder"):
        fit(dataset, tmp_path / "run", replace(TINY, initial_weights=str(tmp_path / "nobody")))
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_overwritten(tmp_path: Path, dataset: Dataset) -> None:
    """Hours of training are not lost to a repeated command; the error says how to resume."""
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="--resume"):
        fit(dataset, tmp_path, TINY)


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path, dataset: Dataset) -> None:
    """A second `--resume` is rejected while the first is running, as both would write the same checkpoints."""
    refused = []

    class ResumeMeanwhile(Listener):
        def on_epoch(self, result: EpochResult) -> None:
            with pytest.raises(CheckpointError, match=r"run: is being trained by another process\. Wait for it"):
                fit(dataset, tmp_path / "run", ONE_SIZE, resume=True)
            refused.append(result.epoch)

    fit(dataset, tmp_path / "run", ONE_SIZE, listener=ResumeMeanwhile())
    assert refused == [1, 2, 3]
    fit(dataset, tmp_path / "run", ONE_SIZE, resume=True)


def test_a_run_that_cannot_start_leaves_no_folder(tmp_path: Path, dataset: Dataset) -> None:
    """After a wrong path of a teacher, or one without a finished epoch, the right one works in the same folder."""
    with pytest.raises(CheckpointError, match="nobody"):
        fit(dataset, tmp_path / "run", replace(TINY, teachers=(str(tmp_path / "nobody"),)))
    (tmp_path / "started").mkdir()
    write_config(tmp_path / "started", TINY, provenance(dataset, TINY))
    with pytest.raises(CheckpointError, match=r"started: has no best.weights.h5 yet"):
        fit(dataset, tmp_path / "run", replace(TINY, teachers=(str(tmp_path / "started"),)))
    assert not (tmp_path / "run").exists()


def test_of_two_processes_that_start_the_same_run_the_first_wins(tmp_path: Path, dataset: Dataset) -> None:
    """However close they are, the folder has the configuration of the first."""
    origin = provenance(dataset, TINY)
    write_config(tmp_path, TINY, origin)
    with pytest.raises(CheckpointError, match="already holds a run"):
        write_config(tmp_path, ONE_SIZE, origin)
    assert read_config(tmp_path)[0] == TINY


def test_a_run_is_not_resumed_with_other_data(tmp_path: Path, dataset: Dataset) -> None:
    """Images, labels, validation data and votes must be those that the run was started with."""
    with pytest.raises(KeyboardInterrupt):
        fit(dataset, tmp_path / "run", replace(TINY, votes_weight=0.5), listener=StopAfter(1))
    train = dataset.split("train")
    without_votes = FaceSet(train.images, train.labels, train.names)
    for changed, message in (
        ({"train": stripes(64, 9)}, r"run: was started with other data \(stripes.csv\)"),
        (
            {"validation": stripes(70, 9)},
            "run: was started with another PublicTest, on which its weights were selected. Use",
        ),
        ({"train": without_votes}, "run: was started with other votes. Use the --votes that it was started with"),
    ):
        with pytest.raises(CheckpointError, match=message):
            fit(Dataset(dataset.path, {**dataset.splits, **changed}), tmp_path / "run", TINY, resume=True)


def test_a_full_disk_is_a_clear_error_and_costs_an_epoch(small_disk: Path, dataset: Dataset) -> None:
    """h5py would crash the process. With free space again, the run resumes."""
    config = replace(ONE_SIZE, width=1.0, top_channels=256)
    with pytest.raises(
        UserError, match=r"run: cannot be written \(No space left on device\). Free some space .* --resume"
    ):
        fit(dataset, small_disk / "run", config)
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    fit(dataset, small_disk / "run", config, resume=True)
    assert epochs_written(small_disk / "run") == [1, 2, 3]


def test_too_few_images_for_a_batch_are_a_clear_error(tmp_path: Path, dataset: Dataset) -> None:
    """A run without a step is not started; the folder can be used for another try."""
    few = Dataset(dataset.path, {**dataset.splits, "train": stripes(7, 1)})
    with pytest.raises(DataError, match=r"^7 training images are fewer than a batch"):
        fit(few, tmp_path / "run", TINY)
    assert not (tmp_path / "run").exists()


def test_resuming_a_folder_without_a_run_is_a_clear_error(tmp_path: Path, dataset: Dataset) -> None:
    """The error names the folder."""
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        fit(dataset, tmp_path, TINY, resume=True)


def test_data_without_a_name_are_named_after_their_folder(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--data .` would otherwise be recorded as an empty name, which means no other data."""
    monkeypatch.chdir(tmp_path)
    origin = provenance(Dataset(Path(), dataset.splits), TINY)
    assert origin.other_data("of another data set") == tmp_path.name


def test_training_on_votes_without_votes_is_a_clear_error(tmp_path: Path, dataset: Dataset) -> None:
    """The error names the file that is missing."""
    train = dataset.split("train")
    without = Dataset(dataset.path, {**dataset.splits, "train": FaceSet(train.images, train.labels, train.names)})
    with pytest.raises(DataError, match="fer2013new"):
        fit(without, tmp_path / "run", FitConfig(votes_weight=0.5))
