"""The keys of `[mqtt]`: where the broker is and how to be let in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from edge.config.values import ReadableFile, Section, read_password
from edge.system import is_loopback
from edge.topics import check_prefix


def _host(name: str) -> str:
    if set(name) & {"/", "@"}:  # as in mqtt://user:password@broker, which the log would show
        raise ValueError("must be a name or an address alone, without mqtt:// and without a user")
    return name


class MqttConfig(Section):
    """The broker. Passwords and keys are never written here, only the files that hold them."""

    host: Annotated[str, AfterValidator(_host)] = Field(
        default="localhost", min_length=1, description="The broker's name or address."
    )
    username: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="User name; without one, the agent connects anonymously."
    )
    password_file: ReadableFile | None = Field(
        default=None,
        description="File that holds the password in its first line. Without this key, the systemd credential "
        "`mqtt_password` is used where there is one.",
    )
    ca_file: ReadableFile | None = Field(
        default=None,
        description="PEM file of the authority that signed the broker's certificate; without it, the system's are "
        "trusted.",
    )
    cert_file: ReadableFile | None = Field(
        default=None, description="PEM file of the client's own certificate, for brokers that ask for one."
    )
    key_file: ReadableFile | None = Field(
        default=None,
        description="PEM file of the private key of `cert_file`. Without this key, the systemd credential `mqtt_key` "
        "is used where there is one.",
    )
    tls: bool = Field(
        default_factory=lambda earlier: any(earlier.get(key) for key in ("ca_file", "cert_file")),
        description="Whether the connection is encrypted.",
        json_schema_extra={"shown_default": "true if `ca_file` or `cert_file` is given, else false"},
    )
    port: int = Field(
        default_factory=lambda earlier: 8883 if earlier.get("tls") else 1883,
        ge=1,
        le=65535,
        description="The broker's port.",
        json_schema_extra={"shown_default": "8883 with TLS, else 1883"},
    )
    prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        default="emotion", description="What all topics begin with; may hold slashes."
    )
    allow_plaintext_password: bool = Field(
        default=False,
        validate_default=True,
        description="Whether the password may cross the network unencrypted. To this host itself it always may.",
    )
    homeassistant: bool = Field(default=True, description="Whether the device announces itself to Home Assistant.")
    homeassistant_prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        default="homeassistant", description="Home Assistant's own discovery prefix."
    )

    @field_validator("password_file")
    @classmethod
    def _has_user(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("username", "") is None:
            raise ValueError("a password needs mqtt.username beside it")
        return value

    @field_validator("key_file")
    @classmethod
    def _has_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("cert_file", "") is None:
            raise ValueError("a private key needs mqtt.cert_file beside it")
        return value

    @field_validator("tls")
    @classmethod
    def _is_not_contradicted(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        if not value and (info.data.get("ca_file") or info.data.get("cert_file")):
            raise ValueError("cannot be false while mqtt.ca_file or mqtt.cert_file is given")
        return value

    @field_validator("allow_plaintext_password")
    @classmethod
    def _keeps_the_password_secret(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        host, password_file, tls = (info.data.get(key) for key in ("host", "password_file", "tls"))
        exposed = password_file is not None and tls is False and host is not None and not is_loopback(host)
        if exposed and not value:
            raise ValueError(
                "the password would cross the network unencrypted. Set up TLS, or set this to true if you trust every "
                "machine on that network"
            )
        return value

    def password(self) -> str | None:
        """The password, read anew from its file; None without one.

        Raises:
            ConfigError: The file is empty or cannot be read.
        """
        return read_password(self.password_file) if self.password_file is not None else None
