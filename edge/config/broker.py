"""The keys of `[mqtt]`: the broker's address, credentials and TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from edge.config.values import ReadableFile, Section, read_password
from edge.system import is_loopback
from edge.topics import check_prefix


def _host(name: str) -> str:
    if set(name) & {"/", "@"}:  # as in mqtt://user:password@broker, whose password would be logged
        raise ValueError("must be only a host name or an address, without mqtt:// and without a user")
    return name


class MqttConfig(Section):
    """The MQTT broker. Passwords and private keys are never set here, only the files that contain them."""

    host: Annotated[str, AfterValidator(_host)] = Field(
        default="localhost", min_length=1, description="Host name or address of the broker."
    )
    username: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="User name. Without one, the agent connects anonymously."
    )
    password_file: ReadableFile | None = Field(
        default=None,
        description="File with the password in its first line. By default, the systemd credential `mqtt_password` if "
        "there is one.",
    )
    ca_file: ReadableFile | None = Field(
        default=None,
        description="PEM file of the certificate authority (CA) that signed the broker's certificate. By default, the "
        "system's CAs are trusted.",
    )
    cert_file: ReadableFile | None = Field(
        default=None, description="PEM file of the client certificate, for brokers that require one."
    )
    key_file: ReadableFile | None = Field(
        default=None,
        description="PEM file of the private key of `cert_file`. By default, the systemd credential `mqtt_key` if "
        "there is one.",
    )
    tls: bool = Field(
        default_factory=lambda earlier: any(earlier.get(key) for key in ("ca_file", "cert_file")),
        description="Whether to connect over TLS.",
        json_schema_extra={"shown_default": "`true` if `ca_file` or `cert_file` is set, else `false`"},
    )
    port: int = Field(
        default_factory=lambda earlier: 8883 if earlier.get("tls") else 1883,
        ge=1,
        le=65535,
        description="Port of the broker.",
        json_schema_extra={"shown_default": "`8883` with TLS, else `1883`"},
    )
    prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        default="emotion", description="First part of all topics; may contain slashes."
    )
    allow_plaintext_password: bool = Field(
        default=False,
        validate_default=True,
        description="Whether the password may be sent unencrypted over the network. To a broker on this host, it "
        "always may.",
    )
    homeassistant: bool = Field(
        default=True, description="Whether the device announces itself through Home Assistant's MQTT discovery."
    )
    homeassistant_prefix: Annotated[str, AfterValidator(check_prefix)] = Field(
        default="homeassistant", description="Home Assistant's discovery prefix."
    )

    @field_validator("password_file")
    @classmethod
    def _requires_user(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("username", "") is None:
            raise ValueError("requires mqtt.username")
        return value

    @field_validator("key_file")
    @classmethod
    def _requires_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("cert_file", "") is None:
            raise ValueError("requires mqtt.cert_file")
        return value

    @field_validator("tls")
    @classmethod
    def _is_consistent(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        if not value and (info.data.get("ca_file") or info.data.get("cert_file")):
            raise ValueError("cannot be false while mqtt.ca_file or mqtt.cert_file is set")
        return value

    @field_validator("allow_plaintext_password")
    @classmethod
    def _protects_the_password(cls, value: bool, info: ValidationInfo) -> bool:  # noqa: FBT001
        host, password_file, tls = (info.data.get(key) for key in ("host", "password_file", "tls"))
        exposed = password_file is not None and tls is False and host is not None and not is_loopback(host)
        if exposed and not value:
            raise ValueError(
                "the password would be sent unencrypted over the network. Set up TLS, or set this key to true if you "
                "trust every machine on that network"
            )
        return value

    def password(self) -> str | None:
        """Reads the password from its file; None if no file is set.

        Raises:
            ConfigError: The file is empty or cannot be read.
        """
        return read_password(self.password_file) if self.password_file is not None else None
