"""The bundle's manifest: everything that the device needs to know about a model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge.contract.errors import BundleCorrupt, BundleIncompatible, BundleMissing

MANIFEST_FILE: Final = "manifest.json"
SCHEMA_MAJOR: Final = 1
SCHEMA: Final = f"{SCHEMA_MAJOR}.0"

_FILE_NAME: Final = re.compile(r"\w[\w.-]{0,199}", re.ASCII)

Fraction = Annotated[float, Field(ge=0, le=1)]
GrayLevel = Annotated[float, Field(ge=0, le=255)]
Version = Annotated[str, Field(pattern=r"^\d{1,6}\.\d{1,6}\.\d{1,6}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    """A part of the manifest. Unknown fields are ignored, as minor versions only add fields."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class FileEntry(_Part):
    """Size and checksum of a file of the bundle."""

    sha256: Sha256
    size: int = Field(ge=0, description="Bytes")


class Input(_Part):
    """The model's input image: a square face crop."""

    width_px: int = Field(gt=0)
    height_px: int = Field(gt=0)
    colour: Literal["gray"]
    dtype: Literal["int8", "uint8", "float32"]

    @model_validator(mode="after")
    def _is_square(self) -> Self:
        if self.width_px != self.height_px:
            raise ValueError(f"must be square, not {self.width_px}x{self.height_px} pixels")
        return self


class Output(_Part):
    """The model's output: one value per label."""

    kind: Literal["logits", "probabilities"]
    dtype: Literal["int8", "uint8", "float32"]


class Framing(_Part):
    """Position of a face in the crop, as fractions of the crop's side; measured on the training images.

    If the eyes were detected, the crop is the rotated square with the eyes at height `eye_y`, at most `eye_distance`
    apart and centered at `eyes_x`, but no smaller than the square around the detector's box. Otherwise it is that
    square, which is upright.
    """

    eyes_x: Fraction
    eye_y: Fraction
    eye_distance: float = Field(gt=0, le=1)
    box_scale: float = Field(gt=0, le=100, description="Side of the square, relative to the larger side of the box")
    box_shift_y: float = Field(
        ge=-100, le=100, description="Distance of the square's center below the box's, relative to the box's height"
    )


class Intensity(_Part):
    """Range of mean and standard deviation of the gray levels of most training images.

    The gray levels of a crop outside this range are mapped linearly into it.
    """

    mean_low: GrayLevel
    mean_high: GrayLevel
    deviation_low: GrayLevel = Field(description="Lower limit of the standard deviation")
    deviation_high: GrayLevel

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.mean_low > self.mean_high or self.deviation_low > self.deviation_high:
            raise ValueError("low must not be above high")
        return self


class Preprocessing(_Part):
    """From pixels to the model's input: (pixel - offset) / scale, after the normalization by `intensity`."""

    id: Literal["gray-affine/1"]
    intensity: Intensity | None = Field(None, description="Without it, intensity is not normalized")
    offset: float = Field(ge=-1e6, le=1e6)
    scale: float = Field(ge=1e-6, le=1e6)
    framing: Framing


class Calibration(_Part):
    """Calibration of the confidence: inverts label smoothing, then divides the logits by the temperature.

    Temperature scaling as in Guo et al. 2017 (arXiv:1706.04599).
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Label smoothing of the training targets")
    temperature: float = Field(ge=1e-3, le=1e3)
    fitted_on: str
    unknown_below: Fraction = Field(description="Confidence below which the agent reports `unknown`")


class Metrics(_Part):
    """Metrics on one split of the data set. Comparable only for the same split and labels."""

    split: str
    labels: Literal["fer2013", "ferplus"]
    images: int = Field(gt=0)
    accuracy: Fraction
    interval_95: tuple[Fraction, Fraction]
    macro_f1: Fraction
    calibration_error: Fraction


class Provenance(_Part):
    """Where the model comes from."""

    data: str
    data_sha256: Sha256
    seed: int
    git_revision: str
    libraries: dict[str, str]
    config: dict[str, Any]
    initial_data: str = Field(
        "", description="Other data that the initial weights were trained on; may overlap the evaluation data"
    )


class Golden(_Part):
    """The self-test: inputs, and the uncalibrated logits that the model must compute for them."""

    file: str
    tolerance: float = Field(gt=0, description="Maximum difference of a logit, as runtimes round differently")


class Manifest(_Part):
    """The content of a bundle's `manifest.json`."""

    schema_version: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    version: Version
    release: int = Field(ge=1, description="Increases with every release")
    model: str = Field(description="Name of the .tflite file")
    files: dict[str, FileEntry]
    labels: tuple[str, ...] = Field(min_length=2)
    input: Input
    output: Output
    preprocessing: Preprocessing
    calibration: Calibration
    metrics: tuple[Metrics, ...]
    training: Provenance
    golden: Golden
    minimum_agent_version: Version
    licence: str
    intended_use: str

    @model_validator(mode="after")
    def _lists_its_files(self) -> Self:
        for name in (self.model, self.golden.file):
            if name not in self.files:
                raise ValueError(f"files does not list {name}")
        for name in self.files:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a plain file name")
        return self

    @property
    def arithmetic(self) -> Literal["int8", "float"]:
        """The arithmetic of the model."""
        return "float" if self.input.dtype == "float32" else "int8"

    def to_json(self) -> str:
        """Returns the text of `manifest.json`."""
        return self.model_dump_json(indent=2) + "\n"


def read_manifest(bundle: Path) -> Manifest:
    """Reads and validates `manifest.json` of a bundle.

    Raises:
        BundleMissing: There is no such bundle.
        BundleIncompatible: Its schema has another major version.
        BundleCorrupt: The manifest is invalid; the message names the field.
    """
    path = bundle / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise BundleMissing(
            "is not a model bundle (no manifest.json)", where=bundle, remedy="Pass a folder written by trainer export"
        ) from error
    except OSError as error:
        raise BundleCorrupt(f"cannot be read ({error})", where=path, remedy=_REMEDY) from error
    return parse_manifest(text, path)


def parse_manifest(text: bytes, where: str | Path) -> Manifest:
    """Parses and validates a manifest.

    Args:
        text: Its JSON text.
        where: Location of the manifest, for error messages.

    Raises:
        BundleIncompatible: Its schema has another major version.
        BundleCorrupt: The manifest is invalid; the message names the field.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleCorrupt(f"cannot be read ({error})", where=where, remedy=_REMEDY) from error
    _require_major(document, where)
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "manifest"
        raise BundleCorrupt(f"{field}: {first['msg']}", where=where, remedy=_REMEDY) from error


_REMEDY: Final = "Export the bundle again, or copy it from its source again"


def _require_major(document: object, where: str | Path) -> None:
    version = document.get("schema_version") if isinstance(document, dict) else None
    major = version.split(".")[0] if isinstance(version, str) else None
    if major is not None and major != str(SCHEMA_MAJOR):
        raise BundleIncompatible(
            f"schema version {version} is not supported, only {SCHEMA_MAJOR}.x", where=where, remedy="Update the agent"
        )
