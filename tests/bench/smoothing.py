"""Comparison of smoothing methods on synthetic videos with known emotions: basis of `edge.smooth.SmoothingRules`.

    python -m tests.bench.smoothing --data fer2013.csv --votes fer2013new.csv [--seed 1]

Compares the agent's average of logits with the forward filter of a hidden Markov model (HMM), each with many settings,
on the same video of PublicTest images with a FER+ majority, and prints the best settings of both.
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
from tests.bench.videos import FPS, render_video
from trainer.calibration import calibration
from trainer.data import FaceSet, load_dataset
from trainer.labels import with_labels

MINUTES = 20
DELAY_LIMIT_S = 0.8
MISSED_LIMIT = 0.125
"""Maximum share of changes that are never reported: a wide margin reduces false flips at their expense."""
FLIPS_TOLERANCE = 1.0
"""False flips per minute within which settings count as equal, as the randomness of the video is of this size."""

TIME_CONSTANTS_S = (0.05, 0.1, 0.2, 0.4, 0.8)
LEAVING_RATES_HZ = (0.02, 0.1, 0.5)
EVIDENCE_S = (0.1, 0.2, 0.4)
DWELLS_S = (0.2, 0.4, 0.6)
MARGINS = (0.1, 0.2, 0.3, 0.4)

_NO_AVERAGE_S = 1e-6
"""Time constant that disables the average of the agent's smoother, for logits that are already filtered."""
_ROWS_SHOWN = 5
_FACE = Face(Box(0, 0, 48, 48), 1.0)


@dataclass(frozen=True, slots=True)
class Score:
    """Quality of the reported emotions of a video.

    Attributes:
        accuracy: Share of the time in which the reported emotion is the true one.
        unknown: Share of the time in which `unknown` is reported.
        flips: False flips per minute: reported changes other than the first report of a true emotion.
        delay_s: Median time from a true change to its report; infinite for changes never reported.
        missed: Share of the true changes that are never reported.
    """

    accuracy: float
    unknown: float
    flips: float
    delay_s: float
    missed: float

    @property
    def accuracy_when_known(self) -> float:
        """Accuracy in the time in which an emotion other than `unknown` is reported."""
        return self.accuracy / (1 - self.unknown)


@dataclass(frozen=True, slots=True)
class Row:
    """Score of one setting of a smoothing method."""

    name: str
    rules: SmoothingRules
    score: Score


def main() -> None:
    """Prints the best settings of both methods."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--votes", type=Path, required=True)
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dataset, classifier = load_dataset(arguments.data, arguments.votes), BundleClassifier(arguments.bundle)
    video = render_video(majority_faces(dataset.split("validation")), 60 * arguments.minutes, arguments.seed)
    logits = classifier.classify(video.crops)  # once for all settings
    train = majority_faces(dataset.split("train")).labels
    prior = np.bincount(train, minlength=len(EMOTIONS)) / len(train)
    unknown_below = classifier.bundle.manifest.calibration.unknown_below
    rows = compare(logits, video.labels, prior, unknown_below)
    frames = np.mean(logits.argmax(axis=1) == video.labels)
    print(f"{arguments.bundle}, {arguments.minutes:g} min of video, accuracy of single frames {frames:.1%}.")
    print(f"Delay at most {DELAY_LIMIT_S} s, at most {MISSED_LIMIT:.1%} missed, by false flips:")
    for method in ("average", "HMM"):
        candidates = within_limits([row for row in rows if row.name.startswith(method)])
        print_rows(candidates)
        print(f"Chosen: {format_row(choose(candidates))}\n" if candidates else "None.\n")
    default = SmoothingRules(unknown_below=unknown_below)
    default_score = score(reported_emotions(logits, default), video.labels)
    print(f"The agent's default: {format_row(Row('average', default, default_score))}\n")
    print("Confidence, accuracy and expected calibration error (ECE) of the frames:")
    print_calibration("single frames", logits, video.labels)
    print_calibration(f"average, {default.time_constant_s} s", published(logits, default), video.labels)
    for evidence_s in EVIDENCE_S:
        rate_hz = LEAVING_RATES_HZ[0]
        filtered = forward_filter(logits, prior, rate_hz, evidence_s)
        print_calibration(f"HMM, leaves {rate_hz}/s, evidence {evidence_s} s", filtered, video.labels)


def majority_faces(faces: FaceSet) -> FaceSet:
    """Returns the faces whose FER+ majority label is one of the agent's emotions."""
    labeled = with_labels(faces, "ferplus")
    return labeled.take(np.flatnonzero(labeled.labels < len(EMOTIONS)))


def compare(
    logits: NDArray[np.float32], labels: NDArray[np.int64], prior: NDArray[np.float64], unknown_below: float
) -> list[Row]:
    """Scores all settings of both methods on the same video.

    Args:
        logits: float32 (N, 7), calibrated, one row per frame.
        labels: int64 (N,), true emotions.
        prior: float64 (7,), class frequencies in the training split.
        unknown_below: Threshold of the bundle.
    """
    settings = [
        (f"average, {constant} s", logits, constant) for constant in TIME_CONSTANTS_S
    ]  # fmt: skip
    settings += [
        (f"HMM, leaves {rate}/s, evidence {evidence} s", forward_filter(logits, prior, rate, evidence), _NO_AVERAGE_S)
        for rate, evidence in itertools.product(LEAVING_RATES_HZ, EVIDENCE_S)
    ]
    rows = []
    for (name, filtered, constant), dwell, margin in itertools.product(settings, DWELLS_S, MARGINS):
        rules = SmoothingRules(
            time_constant_s=constant, min_dwell_s=dwell, margin=margin, unknown_below=unknown_below
        )  # fmt: skip
        rows.append(Row(name, rules, score(reported_emotions(filtered, rules), labels)))
    return rows


def forward_filter(
    logits: NDArray[np.float32], prior: NDArray[np.float64], rate_hz: float, evidence_s: float
) -> NDArray[np.float32]:
    """Returns the log posterior of each emotion given all frames so far: the HMM forward algorithm (Rabiner 1989).

    Args:
        logits: float32 (N, 7), calibrated.
        prior: float64 (7,); divides the probabilities to give likelihoods, and is the distribution after a transition.
        rate_hz: Transitions per second.
        evidence_s: Time in which the correlated frames together count as one independent observation.
    """
    likelihoods = (softmax(logits) / prior) ** min(1.0, 1 / (FPS * evidence_s))
    stay = math.exp(-rate_hz / FPS)
    state, states = prior, []
    for likelihood in likelihoods:
        state = (stay * state + (1 - stay) * prior) * likelihood
        state = state / state.sum()
        states.append(state)
    return np.log(np.maximum(states, 1e-12)).astype(np.float32)


def reported_emotions(logits: NDArray[np.float32], rules: SmoothingRules) -> list[str | None]:
    """Returns the emotion that the agent's smoother reports at each frame; None before the first report."""
    return [reading.emotion if reading else None for reading in _readings(logits, rules)]


def published(logits: NDArray[np.float32], rules: SmoothingRules) -> NDArray[np.float32]:
    """Returns the log probabilities that the agent's smoother publishes, float32 (N, 7)."""
    readings = _readings(logits, replace(rules, min_dwell_s=0.0))
    return np.log([reading.probabilities for reading in readings if reading]).astype(np.float32)


def _readings(logits: NDArray[np.float32], rules: SmoothingRules) -> Iterator[Reading | None]:
    smoother = Smoother(rules)
    for number, newest in enumerate(logits):
        track = Track(1, Observation(_FACE, newest, 1.0), number / FPS)
        readings, _ = smoother.update([track], [], track.last_seen_s)
        yield readings[0] if readings else None


def score(reported: Sequence[str | None], labels: NDArray[np.int64]) -> Score:
    """Scores the reported emotions against the true ones."""
    true = [EMOTIONS[label] for label in labels]
    starts = [0, *(np.flatnonzero(np.diff(labels)) + 1), len(labels)]
    delays = [_delay_s(reported, true, start, end) for start, end in itertools.pairwise(starts)][1:]
    changes = sum(1 for before, now in itertools.pairwise(reported) if before is not None and now != before)
    # An emotion that was already reported when it began has no delay and needs no change.
    needed = sum(1 for delay in delays if 0 < delay < math.inf)
    return Score(
        accuracy=float(np.mean([emotion == other for emotion, other in zip(reported, true, strict=True)])),
        unknown=reported.count(UNKNOWN) / len(reported),
        flips=(changes - needed) / (len(reported) / FPS / 60),
        delay_s=float(np.median(delays)),
        missed=delays.count(math.inf) / len(delays),
    )


def _delay_s(reported: Sequence[str | None], true: Sequence[str], start: int, end: int) -> float:
    """Returns the time from the first frame of an emotion to its report; infinite if it is never reported."""
    return next(((at - start) / FPS for at in range(start, end) if reported[at] == true[at]), math.inf)


def print_calibration(name: str, logits: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Prints confidence, accuracy and ECE of a filter's output, frame by frame."""
    probabilities = softmax(logits)
    accuracy = np.mean(probabilities.argmax(axis=1) == labels)
    ece = calibration(logits, labels).ece
    print(f"{name:<34} confidence {probabilities.max(axis=1).mean():.1%}, accuracy {accuracy:.1%}, ECE {ece:.3f}")


def within_limits(rows: Sequence[Row]) -> list[Row]:
    """Returns the settings within both limits, sorted by false flips."""
    within = [row for row in rows if row.score.delay_s <= DELAY_LIMIT_S and row.score.missed <= MISSED_LIMIT]
    return sorted(within, key=lambda row: row.score.flips)


def choose(rows: Sequence[Row]) -> Row:
    """Returns the most accurate of the settings with about the fewest false flips."""
    fewest = min(row.score.flips for row in rows)
    return max((row for row in rows if row.score.flips <= fewest + FLIPS_TOLERANCE), key=lambda row: row.score.accuracy)


def format_row(row: Row) -> str:
    """Formats a setting and its score in one line."""
    return f"{row.name}, {row.rules}: {row.score}"


def print_rows(rows: Sequence[Row]) -> None:
    """Prints the first rows as a table."""
    table = Table("filter", "dwell s", "margin", "accuracy", "unknown", "accuracy when known", "false flips/min",
                  "delay s", "missed")  # fmt: skip
    for row in rows[:_ROWS_SHOWN]:
        result = row.score
        table.add_row(
            row.name, f"{row.rules.min_dwell_s}", f"{row.rules.margin}", f"{result.accuracy:.1%}",
            f"{result.unknown:.1%}", f"{result.accuracy_when_known:.1%}", f"{result.flips:.1f}",
            f"{result.delay_s:.1f}", f"{result.missed:.1%}",
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
