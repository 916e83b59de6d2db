"""`make bench`: speed and memory on this machine. Only ratios within one run can be compared between machines."""

from __future__ import annotations

import platform
import tempfile
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench.agent import measure
from tests.bench.models import cpu_ms

BUNDLES = [Path(__file__).parents[2] / "models" / name for name in ("ferplus", "default")]


def main() -> None:
    """Runs all benchmarks and prints their tables."""
    photo = Path(str(metadata.distribution("scikit-image").locate_file("skimage/data/astronaut.png")))
    console = Console()
    console.print(f"{platform.machine()}, Python {platform.python_version()}, one thread")
    _print_models(console, photo)
    _print_agent(console, photo)
    _print_training(console)


def _print_models(console: Console, photo: Path) -> None:
    table = Table("one call", "CPU ms")
    for name, milliseconds in cpu_ms(photo, BUNDLES).items():
        table.add_row(name, f"{milliseconds:.2f}")
    console.print(table)


def _print_agent(console: Console, photo: Path) -> None:
    table = Table("agent, 640x360 video with one face", "CPU ms per frame", "peak RSS MB", "first event after s")
    for label, interval_s in (("detection on every frame", 0.0), ("default: every 0.2 s", 0.2)):
        with tempfile.TemporaryDirectory() as folder:
            cost = measure(photo, Path(folder), detection_interval_s=interval_s)
        table.add_row(label, f"{cost.cpu_ms_per_frame:.1f}", f"{cost.peak_rss_mb:.0f}", f"{cost.first_event_s:.2f}")
    console.print(table)


def _print_training(console: Console) -> None:
    # Imported last: the peak RSS of a child process includes that of its parent, and TensorFlow needs much memory.
    from tests.bench.training import images_per_second

    table = Table("training at 48 px, all cores", "images/s")
    for implementation, rate in images_per_second().items():
        table.add_row(implementation, f"{rate:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
