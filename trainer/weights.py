"""The weights of a run: on disk, and in the network that answers with them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import warnings
from pathlib import Path
from typing import Final

import keras
import numpy as np
from numpy.typing import NDArray

from trainer.config import FitConfig
from trainer.disk import DAMAGE, replaced
from trainer.errors import CheckpointError
from trainer.labels import LabelKind, class_names
from trainer.model import Policy, build_network, heads, normalize
from trainer.run import BEST_WEIGHTS, read_config

_PREDICT_BATCH: Final = 256
_BYTES_A_WEIGHT: Final = 4
_BYTES_AROUND_WEIGHTS: Final = 2**20
"""More than what a file of weights holds besides them."""


def network_for(config: FitConfig, *, dropout: float = 0.0, policy: Policy = "float32") -> keras.Model:
    """The untrained network of a run with all its heads, as `build_network` makes it."""
    return build_network(
        classes=len(class_names(config.labels)), width=config.width, top_channels=config.top_channels,
        blocks=config.blocks, dropout=dropout, vote_head=config.votes_weight > 0, mirror=config.mirror,
        policy=policy,
    )  # fmt: skip


def load_network(run: Path, labels: LabelKind | None = None) -> keras.Model:
    """The network with the best weights of a run and one of its heads: normalized float32 (N, 48, 48, 1) to logits.

    Args:
        run: The folder.
        labels: Whose labels the head speaks; without it, the main head.

    Raises:
        CheckpointError: There is no run, no finished epoch, its weights are damaged, or no head learned these labels.
    """
    config, _ = read_config(run)
    main_head = labels in (None, config.labels)
    if not main_head and not (labels == "ferplus" and config.votes_weight):
        raise CheckpointError(f"has learned {config.labels} only, not {labels}", where=run,
                              remedy=f"Train one with --labels {labels}")  # fmt: skip
    full = load_full_network(run)
    return keras.Model(full.inputs, full.outputs[0 if main_head else 1])


def load_full_network(run: Path, policy: Policy = "float32") -> keras.Model:
    """The network with the best weights of a run and all its heads, as `build_network` makes it.

    Raises:
        CheckpointError: There is no run, no finished epoch, or its weights are damaged.
    """
    network = network_for(read_config(run)[0], policy=policy)
    weights = run / BEST_WEIGHTS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras's word for layers that it leaves as they were made
            network.load_weights(weights)
    except (*DAMAGE, UserWarning) as error:
        damaged = "Copy it again from where it came, or train again"
        raise CheckpointError(
            f"no usable {BEST_WEIGHTS} ({error})", where=run,
            remedy=damaged if weights.exists() else "Let trainer fit finish an epoch",
        ) from error  # fmt: skip
    return network


def save_weights(network: keras.Model, run: Path) -> None:
    """Puts a network's weights in the place of a run's best ones.

    Raises:
        OSError: They cannot be written.
    """
    if shutil.disk_usage(run).free < _BYTES_A_WEIGHT * network.count_params() + _BYTES_AROUND_WEIGHTS:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # found out by h5py, it ends the process
    with replaced(run / BEST_WEIGHTS) as fresh:
        network.save_weights(fresh)


def weights_sha256(run: Path) -> str:
    """Of a run's best weights; empty where there are none."""
    weights = run / BEST_WEIGHTS
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""


def predict(network: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits float32 (N, classes) of the network's main head for uint8 (N, 48, 48)."""
    batches = []
    for start in range(0, len(images), _PREDICT_BATCH):
        outputs = network(normalize(images[start : start + _PREDICT_BATCH, :, :, np.newaxis]), training=False)
        batches.append(keras.ops.convert_to_numpy(heads(outputs)[0]))
    return np.concatenate(batches)
