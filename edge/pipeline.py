"""The way of a frame, from picture to messages. Read this page first.

frame -> detect -> align -> classify -> track -> smooth -> compose -> publish
"""

from __future__ import annotations

from collections.abc import Callable

from edge.adapt import AS_CONFIGURED, Level
from edge.align import align
from edge.compose import Composer, Moment
from edge.contract.manifest import Framing
from edge.domain import Face, Frame, Instant, Message, Observation, Reading, Transition
from edge.ports import Classifier, Detector, Publisher
from edge.smooth import Smoother
from edge.timing import StageTimes
from edge.track import Tracker


class Pipeline:
    """One camera's stages in their order. It holds what they remember between frames, and nothing else.

    Args:
        detector: Finds faces.
        classifier: Says what they show.
        framing: How the classifier wants its faces cropped.
        crop_px: Side of its crops.
        tracker: Knows a face again.
        smoother: Decides what counts.
        composer: Puts it into messages.
        publisher: Takes them to the broker.
        detection_interval_s: Least time between two detections; frames between them are classified where the faces
            were found last. 0 detects on every frame.
        now: Reads the machine's clocks.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        classifier: Classifier,
        framing: Framing,
        crop_px: int,
        tracker: Tracker,
        smoother: Smoother,
        composer: Composer,
        publisher: Publisher,
        detection_interval_s: float,
        now: Callable[[], Instant],
    ) -> None:
        self._detector = detector
        self._classifier = classifier
        self._framing = framing
        self._crop_px = crop_px
        self._tracker = tracker
        self._smoother = smoother
        self._composer = composer
        self._publisher = publisher
        self._detection_interval_s = detection_interval_s
        self._now = now
        self._faces: list[Face] = []
        self._detected_s = float("-inf")
        self._newest: Frame | None = None
        self._level = AS_CONFIGURED
        self.times = StageTimes()

    @property
    def newest(self) -> Frame | None:
        """The frame that was taken last; None while the camera does not look."""
        return self._newest

    def adapt(self, level: Level) -> None:
        """From now on, looks for faces as often as `level` says. May be called from any thread."""
        self._level = level

    def process(self, frame: Frame) -> None:
        """Takes one frame all the way. One of another size begins anew: places in pixels are no longer the same."""
        with self.times.measure("total"):
            if self._newest is not None and frame.image_bgr.shape != self._newest.image_bgr.shape:
                self._end_tracks(self._newest)
            self._newest = frame
            faces, detected = self._detect(frame)
            observations = self._classify(frame, faces)
            tracks, ended = self._tracker.update(observations, frame.time_s, detected=detected)
            readings, transitions = self._smoother.update(tracks, ended, frame.time_s)
            self._publish(self._compose(frame, readings, transitions))

    def finish(self) -> None:
        """Ends what is open, because the camera stops looking: every emotion that began also ends."""
        frame, self._newest = self._newest, None
        if frame is not None:
            self._end_tracks(frame)
            self.vacate()

    def vacate(self) -> None:
        """Says that nobody is seen, in place of the last that was said."""
        self._publish([self._composer.vacate(self._now())])

    def _end_tracks(self, frame: Frame) -> None:
        """Ends what is open; `frame` is the last on which it was seen or looked for."""
        self._faces, self._detected_s = [], float("-inf")
        _, transitions = self._smoother.update([], self._tracker.finish(), frame.time_s)
        self._publish(self._compose(frame, [], transitions))

    def _detect(self, frame: Frame) -> tuple[list[Face], bool]:
        """The faces of the frame, and whether they were looked for on it rather than taken over."""
        due = frame.time_s - self._detected_s >= self._level.detection_interval_s(self._detection_interval_s)
        if due:
            with self.times.measure("detect"):
                self._faces = self._detector.detect(frame.image_bgr)
            self._detected_s = frame.time_s
        return self._faces, due

    def _classify(self, frame: Frame, faces: list[Face]) -> list[Observation]:
        if not faces:
            return []  # and no times, which would be those of doing nothing
        with self.times.measure("align"):
            crops, qualities = align(frame, faces, self._framing, self._crop_px)
        with self.times.measure("classify"):
            logits = self._classifier.classify(crops)
        return [Observation(*parts) for parts in zip(faces, logits, qualities, strict=True)]

    def _compose(self, frame: Frame, readings: list[Reading], transitions: list[Transition]) -> list[Message]:
        moment = Moment(
            width=frame.width_px,
            height=frame.height_px,
            time_s=frame.time_s,
            mono_s=frame.mono_s,
            now=self._now(),
        )
        return self._composer.compose(readings, transitions, moment)

    def _publish(self, messages: list[Message]) -> None:
        for message in messages:
            self._publisher.publish(message)
