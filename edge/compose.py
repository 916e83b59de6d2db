"""Composes the MQTT messages of a camera from readings and transitions, and decides when its state is due."""

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
"""Factor by which another face must be larger to replace the most prominent one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameContext:
    """Size and timing of the frame that messages are about.

    Wall clock times are computed back from `now`, because the clock may have been set since the capture.

    Attributes:
        width, height: Size of the frame in pixels.
        time_s: `Frame.time_s`, the clock of `Reading.since_s`.
        mono_s: `Frame.mono_s`, the time of capture.
        now: Time of composition. States are rate-limited by its monotonic clock, also while a recording is processed
            faster than real time.
    """

    width: int
    height: int
    time_s: float
    mono_s: float
    now: Instant

    @property
    def wall_s(self) -> float:
        """Time of capture, in Unix seconds."""
        return self.now.wall_at(self.mono_s)

    @property
    def latency_ms(self) -> float:
        """Time from capture to composition."""
        return max(0.0, round((self.now.mono_s - self.mono_s) * 1000, 1))

    def face(self, reading: Reading) -> FaceReading:
        """Converts a reading to its payload: wall clock times, and the box as fractions of the frame."""
        return FaceReading(
            track_id=reading.track_id,
            emotion=reading.emotion,  # type: ignore[arg-type]  # validated by the model
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
    """Composes the messages of one camera.

    Every transition becomes an event. The state is published when it changes (the tracks in view and their emotions;
    not the probabilities), and as a heartbeat when it does not, but at most once per `min_interval_s`: changes within
    the interval are coalesced, and the newest state is sent at its end.

    Args:
        topics: The topics of the device.
        camera: The camera's name.
        sender: The device and session named in the payloads.
        model: The model bundle in use.
        heartbeat_s: Time after which an unchanged state is sent again.
        min_interval_s: Minimum time between two states.

    Raises:
        ValueError: The camera's name is not a valid topic segment.
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

    def compose(
        self, readings: Sequence[Reading], transitions: Sequence[Transition], context: FrameContext
    ) -> list[Message]:
        """Composes the messages of one frame. To be called for every frame, including those without faces.

        Args:
            readings: One for each face in view.
            transitions: Emotions that started, changed or ended with this frame, in order.
            context: Size and timing of the frame.

        Returns:
            The events in the order of `transitions`, then the state if it is due.
        """
        messages = [self._event(transition, context) for transition in transitions]
        ordered = self._by_prominence(readings)
        if self._due(ordered, context.now.mono_s):
            messages.append(self._state(ordered, context))
        return messages

    def empty_state(self, now: Instant) -> Message:
        """Returns a state without faces, for a camera that is closed. It is not subject to the minimum interval.

        Without it, the last emotion would remain retained until it expires while the camera is paused or offline.
        """
        return self._state((), FrameContext(width=1, height=1, time_s=0.0, mono_s=now.mono_s, now=now))

    def _due(self, ordered: Sequence[Reading], mono_s: float) -> bool:
        elapsed_s = mono_s - self._sent_s
        if elapsed_s < self._min_interval_s:
            return False
        return _view(ordered) != self._sent_view or elapsed_s >= self._heartbeat_s

    def _by_prominence(self, readings: Sequence[Reading]) -> list[Reading]:
        """Sorts by size, largest first; the first face stays first until another one is clearly larger."""

        def prominence(reading: Reading) -> tuple[float, int]:
            factor = _TAKEOVER if reading.track_id == self._prominent_id else 1.0
            return -factor * reading.box.area, reading.track_id

        ordered = sorted(readings, key=prominence)
        self._prominent_id = ordered[0].track_id if ordered else None
        return ordered

    def _event(self, transition: Transition, context: FrameContext) -> Message:
        self._seq += 1
        event = Event(
            **self._envelope(context),
            **dict(context.face(transition.reading)),
            event=transition.kind,
            previous=transition.previous,  # type: ignore[arg-type]  # validated by the model
            historical=False,
            model=self._model,
            latency_ms=context.latency_ms,
        )
        return json_message(self._topics.event(self._camera), event, qos=1, durable=True)

    def _state(self, ordered: Sequence[Reading], context: FrameContext) -> Message:
        self._sent_view = _view(ordered)
        self._sent_s = context.now.mono_s
        faces = tuple(context.face(reading) for reading in ordered)
        first = faces[0] if faces else None
        state = CameraState(
            **self._envelope(context),
            emotion=first.emotion if first else None,
            confidence=first.confidence if first else None,
            track_id=first.track_id if first else None,
            since=first.since if first else None,
            face_count=len(faces),
            faces=faces,
            model=self._model,
            latency_ms=context.latency_ms,
        )
        return json_message(self._topics.emotion(self._camera), state, retain=True, expiry_s=self._expiry_s)

    def _envelope(self, context: FrameContext) -> dict[str, Any]:
        return {
            **self._sender.envelope(context.now),
            "camera": self._camera,
            "seq": self._seq,
            "ts": timestamp(context.wall_s),
        }


def _view(ordered: Sequence[Reading]) -> frozenset[tuple[int, str, bool]]:
    """The part of a state whose change makes it due: tracks and emotions, and which face is first."""
    return frozenset((r.track_id, r.emotion, rank == 0) for rank, r in enumerate(ordered))
