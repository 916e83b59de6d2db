"""Which smoothing tells emotions best, on films of which the emotion is known: behind `edge.smooth.SmoothingRules`.

    python -m tests.bench.smoothing --data fer2013.csv --votes fer2013new.csv [--seed 1]

Compares the agent's average of logits with an HMM's forward filter, each with many parameters, on the same film of
PublicTest images on which the crowd agrees, and prints the best of each.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge.classify import BundleClassifier
from edge.config import default_bundle
from edge.contract import EMOTIONS, UNKNOWN, softmax
from edge.domain import Box, Face, Observation, Reading, Track
from edge.smooth import Smoother, SmoothingRules
from tests.bench.films import FPS, shoot
from trainer.calibration import calibration
from trainer.data import FaceSet, load_dataset
from trainer.labels import with_labels

MINUTES = 20
DELAY_LIMIT_S = 0.8
MISSED_LIMIT = 0.125
"""A wide margin buys few flips with changes that are never told; so many of them may be."""
FLIPS_TOLERANCE = 1.0
"""So many false flips a minute, the film's chance decides."""

TIME_CONSTANTS_S = (0.05, 0.1, 0.2, 0.4, 0.8)
LEAVING_RATES_HZ = (0.02, 0.1, 0.5)
EVIDENCE_S = (0.1, 0.2, 0.4)
DWELLS_S = (0.2, 0.4, 0.6)
MARGINS = (0.1, 0.2, 0.3, 0.4)

_AT_ONCE_S = 1e-6
"""A time constant with which the smoother takes what comes as it is: the filter before it has smoothed already."""
_SHOWN = 5
_FACE = Face(Box(0, 0, 48, 48), 1.0)


@dataclass(frozen=True, slots=True)
class Score:
    """How well a film was told.

    Attributes:
        right: Share of the time in which the true emotion was the reported one.
        unknown: Share of the time in which none was reported.
        flips: Changes a minute that did not lead to the true emotion for the first time.
        delay_s: Median time from a true change to its report; those never reported count as endless.
        missed: Share of the true changes never reported.
    """

    right: float
    unknown: float
    flips: float
    delay_s: float
    missed: float

    @property
    def right_when_named(self) -> float:
        """Share of the time in which an emotion was reported that it was the true one."""
        return self.right / (1 - self.unknown)


@dataclass(frozen=True, slots=True)
class Row:
    """A way of smoothing, and how well it told the film."""

    name: str
    rules: SmoothingRules
    score: Score


def main() -> None:
    """Prints the best settings of either method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--votes", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dataset, classifier = load_dataset(arguments.data, arguments.votes), BundleClassifier(arguments.bundle)
    film = shoot(agreed_on(dataset.split("validation")), 60 * arguments.minutes, arguments.seed)
    logits = classifier.classify(film.crops)  # once; all that follows is arithmetic
    train = agreed_on(dataset.split("train")).labels
    prior = np.bincount(train, minlength=len(EMOTIONS)) / len(train)
    unknown_below = classifier.bundle.manifest.calibration.unknown_below
    rows = compare(logits, film.labels, prior, unknown_below)
    frames = np.mean(logits.argmax(axis=1) == film.labels)
    print(
        f"{arguments.bundle}, {arguments.minutes:g} min of film, of which {frames:.1%} of the single frames are right."
    )
    print(f"Delay at most {DELAY_LIMIT_S} s and {MISSED_LIMIT:.1%} missed, the fewest false flips first:")
    for method in ("average", "HMM"):
        chosen = in_time([row for row in rows if row.name.startswith(method)])
        print_rows(chosen)
        print(f"Chosen: {described(choose(chosen))}\n" if chosen else "None.\n")
    default = SmoothingRules(unknown_below=unknown_below)
    print(f"The agent's default: {described(Row('average', default, score(tell(logits, default), film.labels)))}\n")
    print("Confidence and accuracy of the frames, and their calibration error:")
    print_calibration("single frames", logits, film.labels)
    print_calibration(f"average, {default.time_constant_s} s", published(logits, default), film.labels)
    for evidence_s in EVIDENCE_S:
        rate_hz = LEAVING_RATES_HZ[0]
        filtered = forward_filter(logits, prior, rate_hz, evidence_s)
        print_calibration(f"HMM, leaves {rate_hz}/s, evidence {evidence_s} s", filtered, film.labels)


def agreed_on(faces: FaceSet) -> FaceSet:
    """The faces of which most raters say that they show one of the agent's emotions."""
    crowd = with_labels(faces, "ferplus")
    return crowd.take(np.flatnonzero(crowd.labels < len(EMOTIONS)))


def compare(
    logits: NDArray[np.float32], labels: NDArray[np.int64], prior: NDArray[np.float64], unknown_below: float
) -> list[Row]:
    """Every setting of either method, on the same film.

    Args:
        logits: float32 (N, 7), calibrated, of each frame.
        labels: int64 (N,), what is true.
        prior: float64 (7,), how often the model saw each emotion in training.
        unknown_below: As the bundle says.
    """
    settings = [
        (f"average, {constant} s", logits, constant) for constant in TIME_CONSTANTS_S
    ]  # fmt: skip
    settings += [
        (f"HMM, leaves {rate}/s, evidence {evidence} s", forward_filter(logits, prior, rate, evidence), _AT_ONCE_S)
        for rate, evidence in itertools.product(LEAVING_RATES_HZ, EVIDENCE_S)
    ]
    rows = []
    for (name, filtered, constant), dwell, margin in itertools.product(settings, DWELLS_S, MARGINS):
        rules = SmoothingRules(
            time_constant_s=constant, min_dwell_s=dwell, margin=margin, unknown_below=unknown_below
        )  # fmt: skip
        rows.append(Row(name, rules, score(tell(filtered, rules), labels)))
    return rows


def forward_filter(
    logits: NDArray[np.float32], prior: NDArray[np.float64], rate_hz: float, evidence_s: float
) -> NDArray[np.float32]:
    """Logarithms of the probability of each emotion given all frames so far (Rabiner 1989, the forward variable).

    Args:
        logits: float32 (N, 7), calibrated.
        prior: float64 (7,); a frame's likelihood is its probability over this, and what an emotion gives way to.
        rate_hz: How often a second an emotion gives way to another.
        evidence_s: Time over which frames say no more than one independent look would: they resemble each other.
    """
    likelihoods = (softmax(logits) / prior) ** min(1.0, 1 / (FPS * evidence_s))
    stay = math.exp(-rate_hz / FPS)
    state, states = prior, []
    for likelihood in likelihoods:
        state = (stay * state + (1 - stay) * prior) * likelihood
        state = state / state.sum()
        states.append(state)
    return np.log(np.maximum(states, 1e-12)).astype(np.float32)


def tell(logits: NDArray[np.float32], rules: SmoothingRules) -> list[str | None]:
    """What the agent's smoother reports at each frame; None before the first report."""
    return [reading.emotion if reading else None for reading in _readings(logits, rules)]


def published(logits: NDArray[np.float32], rules: SmoothingRules) -> NDArray[np.float32]:
    """Logarithms float32 (N, 7) of the probabilities that the agent's smoother publishes, from the first frame on."""
    readings = _readings(logits, replace(rules, min_dwell_s=0.0))
    return np.log([reading.probabilities for reading in readings if reading]).astype(np.float32)


def _readings(logits: NDArray[np.float32], rules: SmoothingRules) -> Iterator[Reading | None]:
    smoother = Smoother(rules)
    for number, newest in enumerate(logits):
        track = Track(1, Observation(_FACE, newest, 1.0), number / FPS)
        readings, _ = smoother.update([track], [], track.last_seen_s)
        yield readings[0] if readings else None


def score(told: Sequence[str | None], labels: NDArray[np.int64]) -> Score:
    """Holds what was told against what is true."""
    true = [EMOTIONS[label] for label in labels]
    starts = [0, *(np.flatnonzero(np.diff(labels)) + 1), len(labels)]
    delays = [_delay_s(told, true, start, end) for start, end in itertools.pairwise(starts)][1:]
    changes = sum(1 for before, now in itertools.pairwise(told) if before is not None and now != before)
    # An emotion that was reported already when it began is told at once, and needed no change.
    needed = sum(1 for delay in delays if 0 < delay < math.inf)
    return Score(
        right=float(np.mean([one == other for one, other in zip(told, true, strict=True)])),
        unknown=told.count(UNKNOWN) / len(told),
        flips=(changes - needed) / (len(told) / FPS / 60),
        delay_s=float(np.median(delays)),
        missed=delays.count(math.inf) / len(delays),
    )


def _delay_s(told: Sequence[str | None], true: Sequence[str], start: int, end: int) -> float:
    """Time from the first frame of an emotion to that in which it is reported; endless if it never is."""
    return next(((at - start) / FPS for at in range(start, end) if told[at] == true[at]), math.inf)


def print_calibration(name: str, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Whether what a filter says can be taken at its word, frame by frame."""
    probabilities = softmax(logits)
    right = np.mean(probabilities.argmax(axis=1) == labels)
    error = calibration(logits, labels).ece
    print(f"{name:<34} confidence {probabilities.max(axis=1).mean():.1%}, right {right:.1%}, error {error:.3f}")


def in_time(rows: Sequence[Row]) -> list[Row]:
    """The settings within both limits, those with the fewest false flips first."""
    within = [row for row in rows if row.score.delay_s <= DELAY_LIMIT_S and row.score.missed <= MISSED_LIMIT]
    return sorted(within, key=lambda row: row.score.flips)


def choose(rows: Sequence[Row]) -> Row:
    """Of the settings with about the fewest false flips, the one that is right for most of the time."""
    fewest = min(row.score.flips for row in rows)
    return max((row for row in rows if row.score.flips <= fewest + FLIPS_TOLERANCE), key=lambda row: row.score.right)


def described(row: Row) -> str:
    """A setting in a line."""
    return f"{row.name}, {row.rules}: {row.score}"


def print_rows(rows: Sequence[Row]) -> None:
    """The first of them as a table."""
    table = Table("filter", "dwell s", "margin", "right", "unknown", "right when named", "false flips/min", "delay s",
                  "missed")  # fmt: skip
    for row in rows[:_SHOWN]:
        one = row.score
        table.add_row(
            row.name, f"{row.rules.min_dwell_s}", f"{row.rules.margin}", f"{one.right:.1%}", f"{one.unknown:.1%}",
            f"{one.right_when_named:.1%}", f"{one.flips:.1f}", f"{one.delay_s:.1f}", f"{one.missed:.1%}",
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
