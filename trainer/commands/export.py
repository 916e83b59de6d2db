"""`trainer export`: exports a training run as a bundle."""

from __future__ import annotations

import argparse

import keras

from trainer.commands.output import Console, require_writable
from trainer.data import load_dataset
from trainer.export import ExportOptions, export, require_exportable

_SPLIT_NAMES = {"validation": "PublicTest", "test": "PrivateTest"}


def run(arguments: argparse.Namespace) -> int:
    """Writes the bundle, prints its metrics and returns 0."""
    keras.config.disable_interactive_logging()  # otherwise the converter prints every tensor
    options = ExportOptions(
        name=arguments.output.name,
        version=arguments.version,
        release=arguments.release,
        quantize=arguments.quantize,
        labels=arguments.labels,
        max_drop=arguments.max_drop / 100,
        calibration_per_class=arguments.calibration_per_class,
    )
    # Fail early, before the data is read.
    require_writable(arguments.output.parent)
    require_exportable(arguments.run, arguments.output, options)
    dataset = load_dataset(arguments.data, arguments.votes)
    manifest = export(arguments.run, arguments.output, dataset, options)
    console = Console()
    console.print(f"{arguments.output}: {manifest.files[manifest.model].size / 1000:.0f} kB, {manifest.arithmetic}")
    for metrics in manifest.metrics:
        low, high = metrics.interval_95
        console.print(
            f"{_SPLIT_NAMES[metrics.split]:<12} top-1 accuracy {metrics.accuracy:.2%} ({low:.2%} to {high:.2%}), "
            f"macro F1 {metrics.macro_f1:.3f}, ECE {metrics.calibration_error:.3f}"
        )
    return 0
