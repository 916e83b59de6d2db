"""The path of one frame from pixels to MQTT messages. Start reading here.

frame -> detect -> align -> classify -> track -> smooth -> compose -> publish
"""

from __future__ import annotations

from collections.abc import Callable

from edge.adapt import AS_CONFIGURED, Level
from edge.align import align
from edge.compose import Composer, FrameContext
from edge.contract.manifest import Framing
from edge.domain import Face, Frame, Instant, Message, Observation, Reading, Transition
from edge.ports import Classifier, Detector, Publisher
from edge.smooth import Smoother
from edge.timing import StageTimes
from edge.track import Tracker


class Pipeline:
    """Runs the stages of one camera in order and holds their state between frames.

    Args:
        detector: Finds faces in a frame.
        classifier: Predicts the emotion of each face.
        framing: How faces are cropped for the classifier.
        crop_px: Side of the classifier's square input, in pixels.
        tracker: Links the faces of successive frames.
        smoother: Filters predictions over time and decides when an emotion changes.
        composer: Builds the messages.
        publisher: Delivers them to the broker.
        detection_interval_s: Minimum time between two detections. Frames in between are classified at the most
            recently detected positions. 0 detects on every frame.
        now: Returns the current time on both clocks.
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
        """The most recent frame; None while the camera is closed."""
        return self._newest

    def adapt(self, level: Level) -> None:
        """Sets the detection rate of an adaptation level. Thread-safe."""
        self._level = level

    def process(self, frame: Frame) -> None:
        """Runs all stages on one frame.

        A change of frame size ends all tracks first, because their pixel coordinates are no longer valid.
        """
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
        """Ends all open tracks and publishes an empty state. To be called when the camera is closed or lost."""
        frame, self._newest = self._newest, None
        if frame is not None:
            self._end_tracks(frame)
            self.publish_empty()

    def publish_empty(self) -> None:
        """Publishes a state without faces, which replaces the retained one."""
        self._publish([self._composer.empty_state(self._now())])

    def _end_tracks(self, frame: Frame) -> None:
        """Ends all tracks; `frame` is the last one that was processed."""
        self._faces, self._detected_s = [], float("-inf")
        _, transitions = self._smoother.update([], self._tracker.finish(), frame.time_s)
        self._publish(self._compose(frame, [], transitions))

    def _detect(self, frame: Frame) -> tuple[list[Face], bool]:
        """Returns the faces, and whether they were detected on this frame rather than reused."""
        due = frame.time_s - self._detected_s >= self._level.detection_interval_s(self._detection_interval_s)
        if due:
            with self.times.measure("detect"):
                self._faces = self._detector.detect(frame.image_bgr)
            self._detected_s = frame.time_s
        return self._faces, due

    def _classify(self, frame: Frame, faces: list[Face]) -> list[Observation]:
        if not faces:
            return []  # skipped entirely, so that empty frames do not distort the stage latencies
        with self.times.measure("align"):
            crops, qualities = align(frame, faces, self._framing, self._crop_px)
        with self.times.measure("classify"):
            logits = self._classifier.classify(crops)
        return [Observation(*parts) for parts in zip(faces, logits, qualities, strict=True)]

    def _compose(self, frame: Frame, readings: list[Reading], transitions: list[Transition]) -> list[Message]:
        context = FrameContext(
            width=frame.width_px,
            height=frame.height_px,
            time_s=frame.time_s,
            mono_s=frame.mono_s,
            now=self._now(),
        )
        return self._composer.compose(readings, transitions, context)

    def _publish(self, messages: list[Message]) -> None:
        for message in messages:
            self._publisher.publish(message)
