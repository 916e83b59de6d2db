"""What the configuration's tables are made of: paths, secrets, and defaults that depend on the machine."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator

from edge.errors import ConfigError
from edge.source_name import SourceKind, source_kind

INSTALLED_BUNDLE: Final = Path("/opt/emotion-edge/models/ferplus")

_REMEDY: Final = "Write the password into the first line of a text file that this user may read"


_LARGEST_BITS: Final = 63
"""TOML's own limit."""


class Section(BaseModel):
    """A table of the file. Frozen, and closed to keys that it does not name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _is_plain(cls, value: Any) -> Any:
        """What no path, host, topic or counter can hold is refused here, and not by each in its own way and time."""
        if isinstance(value, str) and "\0" in value:
            raise ValueError("must not hold the character NUL")
        if isinstance(value, int) and value.bit_length() > _LARGEST_BITS:
            raise ValueError("is too large a number")
        return value


def default_bundle() -> Path:
    """The bundle that came with the software: of the checkout it runs from, or else of the installation."""
    in_checkout = Path(__file__).parents[2] / "models" / INSTALLED_BUNDLE.name
    return in_checkout if in_checkout.is_dir() else INSTALLED_BUNDLE


def host_name() -> str:
    """This host's name, as far as a topic can hold it."""
    short = socket.gethostname().split(".")[0].lower()
    name = re.sub(r"[^a-z0-9_-]", "-", short).lstrip("-_")[:64]
    return name if name and name != "fleet" else "edge"


def read_password(file: Path) -> str:
    """The password in a file's first line: all that stands before the line's end, but for a byte order mark.

    Raises:
        ConfigError: The file cannot be read, or holds none.
    """
    try:
        line = file.read_bytes().decode("utf-8-sig").partition("\n")[0].removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the password cannot be read ({error})", where=file, remedy=_REMEDY) from error
    if not line:
        raise ConfigError("the password file is empty", where=file, remedy=_REMEDY)
    return line


def lower_case(value: Any) -> Any:
    """`value`, in lower case if it is a text."""
    return value.lower() if isinstance(value, str) else value


def _from_folder_of_file(path: Path, info: ValidationInfo) -> Path:
    """Relative paths count from the configuration file's folder: a service has no working directory to speak of."""
    folder: Path = (info.context or {}).get("folder", Path())
    try:
        return folder / path.expanduser()
    except RuntimeError as error:
        raise ValueError(f"nobody here has the home folder {path.parts[0]}") from error


def _source_name(name: str, info: ValidationInfo) -> str:
    """Names of recordings count from there too, unlike numbers, devices and addresses."""
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
