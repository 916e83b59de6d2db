"""`trainer fit`: trains the network."""

from __future__ import annotations

import argparse
from dataclasses import replace

from trainer.config import RECIPES
from trainer.data import load_dataset
from trainer.fit import fit


def run(arguments: argparse.Namespace) -> int:
    """Trains and returns 0."""
    config = replace(RECIPES[arguments.recipe], labels=arguments.labels, seed=arguments.seed)
    dataset = load_dataset(arguments.data, arguments.votes)
    fit(dataset, arguments.output, config, resume=arguments.resume)
    return 0
