"""What is said of a frame, and when: from readings and transitions to MQTT messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from edge.contract import EMOTIONS
from edge.domain import Box, Instant, Message, Reading, Transition
from edge.message import json_message, state_expiry_s
from edge.payloads import (
    CameraState,
    Event,
    FaceReading,
    ModelInfo,
    NormalisedBox,
    Probabilities,
    Sender,
    fraction,
    timestamp,
)
from edge.topics import Topics, check_camera

_TAKEOVER: Final = 1.25
"""How many times larger another face must be before it counts as the most prominent one instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When something is said, and of what frame.

    All that is said of times goes back from `now`: the wall clock may have been set since the picture was taken.

    Attributes:
        width, height: The frame's, in pixels.
        time_s: The frame's `time_s`, the clock of `Reading.since_s`.
        mono_s: The frame's `mono_s`, at capture.
        now: When it is said; its monotonic clock paces the states, also when a file runs faster than time.
    """

    width: int
    height: int
    time_s: float
    mono_s: float
    now: Instant

    @property
    def wall_s(self) -> float:
        """UTC seconds since 1970 at capture."""
        return self.now.wall_at(self.mono_s)

    @property
    def latency_ms(self) -> float:
        """From capture to now."""
        return max(0.0, round((self.now.mono_s - self.mono_s) * 1000, 1))

    def face(self, reading: Reading) -> FaceReading:
        return FaceReading(
            track_id=reading.track_id,
            emotion=reading.emotion,  # type: ignore[arg-type]  # the model checks it
            confidence=fraction(reading.confidence),
            probs=Probabilities(**dict(zip(EMOTIONS, map(fraction, reading.probabilities), strict=True))),
            since=timestamp(self.wall_s - (self.time_s - reading.since_s)),
            box=self._normalised(reading.box),
            quality=fraction(reading.quality),
        )

    def _normalised(self, box: Box) -> NormalisedBox:
        return NormalisedBox(
            left=fraction(box.left / self.width),
            top=fraction(box.top / self.height),
            right=fraction(box.right / self.width),
            bottom=fraction(box.bottom / self.height),
        )


class Composer:
    """Turns one camera's readings into messages.

    Every transition becomes an event. The camera's state is published when it changes (who is there, and what each
    face shows; not each wobble of a probability), again as a heartbeat when it does not, and never more often than
    `min_interval_s`: what changes sooner waits, and when the interval is over the newest state is sent.

    Args:
        topics: The device's topics.
        camera: The camera's name.
        sender: The agent.
        model: The model bundle in use.
        heartbeat_s: After how long an unchanged state is sent again.
        min_interval_s: Least time between two states.

    Raises:
        ValueError: The camera's name cannot be part of a topic.
    """

    def __init__(
        self,
        *,
        topics: Topics,
        camera: str,
        sender: Sender,
        model: ModelInfo,
        heartbeat_s: float = 30.0,
        min_interval_s: float = 1.0,
    ) -> None:
        self._topics = topics
        self._camera = check_camera(camera)
        self._sender = sender
        self._model = model
        self._heartbeat_s = heartbeat_s
        self._min_interval_s = min_interval_s
        self._expiry_s = state_expiry_s(heartbeat_s)
        self._seq = 0
        self._prominent_id: int | None = None
        self._sent_view: frozenset[tuple[int, str, bool]] | None = None
        self._sent_s = float("-inf")

    def compose(self, readings: Sequence[Reading], transitions: Sequence[Transition], moment: Moment) -> list[Message]:
        """The messages that one frame gives rise to. To be called for every frame, also when nobody is on it.

        Args:
            readings: One for each face in view.
            transitions: What began, changed or ended with this frame, in order.
            moment: The frame's.

        Returns:
            The events in the order of `transitions`, then the state if it is due.
        """
        messages = [self._event(transition, moment) for transition in transitions]
        ordered = self._by_prominence(readings)
        if self._due(ordered, moment.now.mono_s):
            messages.append(self._state(ordered, moment))
        return messages

    def vacate(self, now: Instant) -> Message:
        """The state of a camera that stops looking: nobody is there. It does not wait for its turn.

        Without it, the last emotion would stand on the topic until it expires while the camera is paused or broken.
        """
        return self._state((), Moment(width=1, height=1, time_s=0.0, mono_s=now.mono_s, now=now))

    def _due(self, ordered: Sequence[Reading], mono_s: float) -> bool:
        waited_s = mono_s - self._sent_s
        if waited_s < self._min_interval_s:
            return False
        return _view(ordered) != self._sent_view or waited_s >= self._heartbeat_s

    def _by_prominence(self, readings: Sequence[Reading]) -> list[Reading]:
        """Largest face first; the one that was first stays so until another is clearly larger."""

        def prominence(reading: Reading) -> tuple[float, int]:
            favour = _TAKEOVER if reading.track_id == self._prominent_id else 1.0
            return -favour * reading.box.area, reading.track_id

        ordered = sorted(readings, key=prominence)
        self._prominent_id = ordered[0].track_id if ordered else None
        return ordered

    def _event(self, transition: Transition, moment: Moment) -> Message:
        self._seq += 1
        event = Event(
            **self._envelope(moment),
            **dict(moment.face(transition.reading)),
            event=transition.kind,
            previous=transition.previous,  # type: ignore[arg-type]  # the model checks it
            historical=False,
            model=self._model,
            latency_ms=moment.latency_ms,
        )
        return json_message(self._topics.event(self._camera), event, qos=1, durable=True)

    def _state(self, ordered: Sequence[Reading], moment: Moment) -> Message:
        self._sent_view = _view(ordered)
        self._sent_s = moment.now.mono_s
        faces = tuple(moment.face(reading) for reading in ordered)
        first = faces[0] if faces else None
        state = CameraState(
            **self._envelope(moment),
            emotion=first.emotion if first else None,
            confidence=first.confidence if first else None,
            track_id=first.track_id if first else None,
            since=first.since if first else None,
            face_count=len(faces),
            faces=faces,
            model=self._model,
            latency_ms=moment.latency_ms,
        )
        return json_message(self._topics.emotion(self._camera), state, retain=True, expiry_s=self._expiry_s)

    def _envelope(self, moment: Moment) -> dict[str, Any]:
        return {
            **self._sender.envelope(moment.now),
            "camera": self._camera,
            "seq": self._seq,
            "ts": timestamp(moment.wall_s),
        }


def _view(ordered: Sequence[Reading]) -> frozenset[tuple[int, str, bool]]:
    """What makes one state differ from another: each face's number and emotion, and which is first."""
    return frozenset((r.track_id, r.emotion, rank == 0) for rank, r in enumerate(ordered))
