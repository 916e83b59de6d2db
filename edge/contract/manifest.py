"""The bundle's manifest: everything about a model that the device needs and must not guess."""

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

Share = Annotated[float, Field(ge=0, le=1)]
GrayLevel = Annotated[float, Field(ge=0, le=255)]
Version = Annotated[str, Field(pattern=r"^\d{1,6}\.\d{1,6}\.\d{1,6}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Part(BaseModel):
    """Fields that this version does not know are left aside: minor versions only add."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class FileEntry(_Part):
    """What a file of the bundle must be."""

    sha256: Sha256
    size: int = Field(ge=0, description="Bytes")


class Input(_Part):
    """The picture that the model takes. It is square, as faces are cropped."""

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
    """The numbers that the model gives, one a label."""

    kind: Literal["logits", "probabilities"]
    dtype: Literal["int8", "uint8", "float32"]


class Framing(_Part):
    """Where a face lies in the crop, as fractions of the crop's side; measured on the training images.

    With the eyes known, the crop is the rotated square that puts them at `eye_y`, at most `eye_distance` apart and
    centred at `eyes_x`, and that is no smaller than the one around the detector's box. Without them it is that one,
    which is upright.
    """

    eyes_x: Share
    eye_y: Share
    eye_distance: float = Field(gt=0, le=1)
    box_scale: float = Field(gt=0, le=100, description="Side of the square over the box's larger side")
    box_shift_y: float = Field(ge=-100, le=100, description="Square's centre below the box's centre, in box heights")


class Intensity(_Part):
    """The light of most training images, in gray levels; a crop in other light is brought to the nearest, linearly."""

    mean_low: GrayLevel
    mean_high: GrayLevel
    deviation_low: GrayLevel = Field(description="Of the standard deviation")
    deviation_high: GrayLevel

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        if self.mean_low > self.mean_high or self.deviation_low > self.deviation_high:
            raise ValueError("low must not be above high")
        return self


class Preprocessing(_Part):
    """From pixels to the model's input: (pixel - offset) / scale, of a crop whose light `intensity` has put right."""

    id: Literal["gray-affine/1"]
    intensity: Intensity | None = Field(None, description="Without it, crops are left in the light that they are in")
    offset: float = Field(ge=-1e6, le=1e6)
    scale: float = Field(ge=1e-6, le=1e6)
    framing: Framing


class Calibration(_Part):
    """Makes confidence mean probability: takes label smoothing back, then divides by the temperature.

    Temperature scaling is that of Guo et al. 2017 (arXiv:1706.04599).
    """

    label_smoothing: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the training targets that was spread over all labels"
    )
    temperature: float = Field(ge=1e-3, le=1e3)
    fitted_on: str
    unknown_below: Share = Field(description="Confidence under which the agent reports `unknown`")


class Metrics(_Part):
    """Quality on one split, with the protocol that makes it comparable."""

    split: str
    labels: Literal["fer2013", "ferplus"]
    images: int = Field(gt=0)
    accuracy: Share
    interval_95: tuple[Share, Share]
    macro_f1: Share
    calibration_error: Share


class Provenance(_Part):
    """Where the model comes from."""

    data: str
    data_sha256: Sha256
    seed: int
    git_revision: str
    libraries: dict[str, str]
    config: dict[str, Any]
    initial_data: str = Field(
        "", description="Other data that the initial weights were fitted to, which may hold what judges the model"
    )


class Golden(_Part):
    """A self-test: these inputs must give these logits, before calibration."""

    file: str
    tolerance: float = Field(gt=0, description="Largest difference of a logit, for the runtimes round differently")


class Manifest(_Part):
    """`manifest.json` of a bundle."""

    schema_version: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    version: Version
    release: int = Field(ge=1, description="Rises with every release")
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
    def _names_its_files(self) -> Self:
        for name in (self.model, self.golden.file):
            if name not in self.files:
                raise ValueError(f"files does not list {name}")
        for name in self.files:
            if not _FILE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a plain file name")
        return self

    @property
    def arithmetic(self) -> Literal["int8", "float"]:
        """What the model computes in."""
        return "float" if self.input.dtype == "float32" else "int8"

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        return self.model_dump_json(indent=2) + "\n"


def read_manifest(bundle: Path) -> Manifest:
    """Reads and checks `manifest.json` of a bundle.

    Raises:
        BundleMissing: No such bundle.
        BundleIncompatible: Its schema is of another major version.
        BundleCorrupt: It is no manifest; the message names the field.
    """
    path = bundle / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise BundleMissing(
            "is no model bundle (no manifest.json)", where=bundle, remedy="Give a folder that trainer export wrote"
        ) from error
    except OSError as error:
        raise BundleCorrupt(f"cannot be read ({error})", where=path, remedy=_REMEDY) from error
    return parse_manifest(text, path)


def parse_manifest(text: bytes, where: str | Path) -> Manifest:
    """Checks the text of a manifest.

    Args:
        text: JSON.
        where: Where it came from, for the errors.

    Raises:
        BundleIncompatible: Its schema is of another major version.
        BundleCorrupt: It is no manifest; the message names the field.
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


_REMEDY: Final = "Export the bundle again, or copy it again from where it came"


def _require_major(document: object, where: str | Path) -> None:
    version = document.get("schema_version") if isinstance(document, dict) else None
    major = version.split(".")[0] if isinstance(version, str) else None
    if major is not None and major != str(SCHEMA_MAJOR):
        raise BundleIncompatible(
            f"schema version {version} is not understood, only {SCHEMA_MAJOR}.x", where=where, remedy="Update the agent"
        )
