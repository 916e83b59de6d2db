"""Which bundle says what people see: both against FER-2013's labels and against the majority of FER+'s ten raters.

    python -m tests.bench.crowd models/default models/ferplus --data fer2013.csv --votes fer2013new.csv

On PublicTest, since what comes of it is a choice; `--split test` reports it on faces that neither was tuned to.
Each bundle answers as on a device, where contempt is no answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge.classify import BundleClassifier
from tests.bench.smoothing import agreed_on
from trainer.data import FaceSet, load_dataset
from trainer.metrics import proportion
from trainer.text import with_interval


def main() -> None:
    """Prints a table."""
    arguments = _arguments()
    faces = load_dataset(arguments.data, arguments.votes).split(arguments.split)
    seen = agreed_on(faces)
    table = Table("bundle", f"FER-2013's label, {len(faces):,} images", f"the crowd's majority, {len(seen):,} images")
    for bundle in arguments.bundles:
        classifier = BundleClassifier(bundle)
        table.add_row(str(bundle), _accuracy(classifier, faces), _accuracy(classifier, seen))
    Console().print(table)


def _accuracy(classifier: BundleClassifier, faces: FaceSet) -> str:
    right = classifier.classify(faces.images).argmax(axis=1) == faces.labels
    return with_interval(proportion(int(right.sum()), len(right)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--votes", type=Path, required=True)
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    return parser.parse_args()


if __name__ == "__main__":
    main()
