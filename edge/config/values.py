"""Building blocks of the configuration: paths, secrets, and defaults that depend on the machine."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from edge.errors import ConfigError
from edge.source_name import SourceKind, source_kind

INSTALLED_BUNDLE: Final = Path("/opt/emotion-edge/models/ferplus")

_REMEDY: Final = "Write the password to the first line of a text file that this user can read"

_MAX_INT_BITS: Final = 63
"""TOML's limit."""


class Section(BaseModel):
    """A table of the file. Immutable; rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain(cls, value: Any) -> Any:
        """Rejects what is valid in no path, host, topic or counter, in one place and before it is used."""
        if isinstance(value, str) and "\0" in value:
            raise ValueError("must not contain a NUL character")
        if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
            raise ValueError("is too large")
        return value


def default_bundle() -> Path:
    """Returns the bundle shipped with the software: in the checkout it runs from, or else in the installation."""
    in_checkout = Path(__file__).parents[2] / "models" / INSTALLED_BUNDLE.name
    return in_checkout if in_checkout.is_dir() else INSTALLED_BUNDLE


def host_name() -> str:
    """Returns this host's name, reduced to the characters allowed in a topic."""
    short = socket.gethostname().split(".")[0].lower()
    name = re.sub(r"[^a-z0-9_-]", "-", short).lstrip("-_")[:64]
    return name if name and name != "fleet" else "edge"


def read_password(file: Path) -> str:
    """Returns the first line of a file, without line ending and byte order mark.

    Raises:
        ConfigError: The file cannot be read, or its first line is empty.
    """
    try:
        line = file.read_bytes().decode("utf-8-sig").partition("\n")[0].removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the password cannot be read ({error})", where=file, remedy=_REMEDY) from error
    if not line:
        raise ConfigError("the password file is empty", where=file, remedy=_REMEDY)
    return line


def lower_case(value: Any) -> Any:
    """Returns `value`, in lower case if it is a string."""
    return value.lower() if isinstance(value, str) else value


def _from_folder_of_file(path: Path, info: ValidationInfo) -> Path:
    """Resolves a path relative to the configuration file's folder, as a service has no useful working directory."""
    folder: Path = (info.context or {}).get("folder", Path())
    try:
        return folder / path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"there is no home folder {path.parts[0]}") from error


def _source_name(name: str, info: ValidationInfo) -> str:
    """Resolves the path of a recording likewise; numbers, devices and addresses stay as they are."""
    is_recording = source_kind(name) is SourceKind.RECORDING
    return str(_from_folder_of_file(Path(name), info)) if is_recording else name


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from error
    return path


FolderPath = Annotated[Path, AfterValidator(_from_folder_of_file)]
ReadableFile = Annotated[FolderPath, AfterValidator(_readable)]
SourceName = Annotated[str, AfterValidator(_source_name)]
