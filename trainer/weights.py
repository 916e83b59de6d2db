"""Builds the network of a run, and loads, saves and hashes its weights."""

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
from trainer.disk import CORRUPT_FILE_ERRORS, atomic_replace
from trainer.errors import CheckpointError
from trainer.labels import LabelKind, class_names
from trainer.model import Policy, build_network, heads, normalize
from trainer.run import BEST_WEIGHTS, read_config

_PREDICT_BATCH: Final = 256
_BYTES_PER_WEIGHT: Final = 4
_WEIGHTS_FILE_OVERHEAD: Final = 2**20
"""Upper bound of what a weights file holds besides the weights, in bytes."""


def network_for(config: FitConfig, *, dropout: float = 0.0, policy: Policy = "float32") -> keras.Model:
    """Builds the untrained network of a run with all its heads; see `build_network`."""
    return build_network(
        classes=len(class_names(config.labels)), width=config.width, top_channels=config.top_channels,
        blocks=config.blocks, dropout=dropout, ferplus_head=config.votes_weight > 0, mirror=config.mirror,
        policy=policy,
    )  # fmt: skip


def load_network(run: Path, labels: LabelKind | None = None) -> keras.Model:
    """Loads the best weights of a run into a network with one head: normalized float32 (N, 48, 48, 1) to logits.

    Args:
        run: The run folder.
        labels: The labels whose head is wanted; the main head's by default.

    Raises:
        CheckpointError: There is no run or no finished epoch, its weights are damaged, or no head was trained on
            these labels.
    """
    config, _ = read_config(run)
    main_head = labels in (None, config.labels)
    if not main_head and not (labels == "ferplus" and config.votes_weight):
        raise CheckpointError(f"was trained on {config.labels} labels only, not on {labels}", where=run,
                              remedy=f"Train a run with --labels {labels}")  # fmt: skip
    full = load_full_network(run)
    return keras.Model(full.inputs, full.outputs[0 if main_head else 1])


def load_full_network(run: Path, policy: Policy = "float32") -> keras.Model:
    """Loads the best weights of a run into its network with all its heads; see `build_network`.

    Raises:
        CheckpointError: There is no run, no finished epoch, or its weights are damaged.
    """
    network = network_for(read_config(run)[0], policy=policy)
    weights = run / BEST_WEIGHTS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras warns of layers that the file has no weights for
            network.load_weights(weights)
    except (*CORRUPT_FILE_ERRORS, UserWarning) as error:
        damaged = "Copy it again from its source, or train again"
        raise CheckpointError(
            f"no usable {BEST_WEIGHTS} ({error})", where=run,
            remedy=damaged if weights.exists() else "Wait until trainer fit has finished an epoch",
        ) from error  # fmt: skip
    return network


def save_weights(network: keras.Model, run: Path) -> None:
    """Saves a network's weights as the best ones of a run, atomically.

    Raises:
        OSError: They cannot be written.
    """
    if shutil.disk_usage(run).free < _BYTES_PER_WEIGHT * network.count_params() + _WEIGHTS_FILE_OVERHEAD:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # h5py would crash the process
    with atomic_replace(run / BEST_WEIGHTS) as temporary:
        network.save_weights(temporary)


def weights_sha256(run: Path) -> str:
    """Returns the SHA-256 of a run's best weights; empty if it has none."""
    weights = run / BEST_WEIGHTS
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else ""


def predict(network: keras.Model, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns the logits of the network's main head, float32 (N, classes), for images uint8 (N, 48, 48)."""
    batches = []
    for start in range(0, len(images), _PREDICT_BATCH):
        outputs = network(normalize(images[start : start + _PREDICT_BATCH, :, :, np.newaxis]), training=False)
        batches.append(keras.ops.convert_to_numpy(heads(outputs)[0]))
    return np.concatenate(batches)
