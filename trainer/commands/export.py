"""`trainer export`: turns a training run into a bundle."""

from __future__ import annotations

import argparse

from trainer.bundle import ExportOptions, export
from trainer.data import load_dataset


def run(arguments: argparse.Namespace) -> int:
    """Writes the bundle and returns 0."""
    options = ExportOptions(
        name=arguments.output.name,
        version=arguments.version,
        release=arguments.release,
        quantize=arguments.quantize,
        max_drop=arguments.max_drop / 100,
        calibration_per_class=arguments.calibration_per_class,
    )
    export(arguments.run, arguments.output, load_dataset(arguments.data, arguments.votes), options)
    return 0
