"""Loading the configuration, and its error messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from edge.config import Config, load_config
from edge.errors import ConfigError, ConfigErrors
from edge.source import open_source
from edge.topics import check_device

CAMERA = '[[camera]]\nname = "door"\nsource = 0\n'
WEB_FOLDER = (
    "must be the URL of a folder on a web server, such as https://models.example/ferplus, "
    "without a user, a password or a query."
)

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads a configuration of the given text, with the given environment."""

    def load(text: str = CAMERA, environ: Mapping[str, str] | None = None) -> Config:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, environ or {})

    return load


def error_of(load: Load, text: str = CAMERA, environ: Mapping[str, str] | None = None) -> str:
    """Returns the error message for a configuration, without the file name at its start."""
    with pytest.raises(ConfigError) as error:
        load(text, environ)
    return str(error.value).rpartition("config.toml")[2]


def test_only_a_camera_is_required(load: Load) -> None:
    """The other keys have defaults, and the device is named after its host."""
    config = load()
    assert [camera.source for camera in config.camera] == ["0"]
    assert (config.mqtt.host, config.mqtt.port, config.mqtt.prefix) == ("localhost", 1883, "emotion")
    assert config.smoothing.unknown_below is None
    check_device(config.device.name)


def test_all_errors_are_reported_at_once_with_their_lines(load: Load) -> None:
    """A file can be fixed in one go: each error is on its own line, with its line number in the file."""
    text = '''\
[device]
name = "Front Door"

[mqtt]
prefix = """
home/\\
emotion"""
prot = 1883
tls = "maybe"

[[camera]]
name = "door"
source = 0

[[camera]]
source = ""
fps = 999
'''
    with pytest.raises(ConfigErrors) as error:
        load(text)
    messages = [line.rpartition("config.toml:")[2] for line in str(error.value).splitlines()]
    assert messages == [
        (
            "2: device.name: 'Front Door' cannot be part of a topic: use 1 to 64 lower-case letters, digits, "
            "'-' and '_', with a letter or digit first."
        ),
        "8: mqtt.prot: unknown key. Perhaps you meant mqtt.port.",
        "9: mqtt.tls: must be true or false, not 'maybe'.",
        "15: camera[1].name: is missing.",
        "16: camera[1].source: must not be empty.",
        "17: camera[1].fps: must be less than or equal to 240, not 999.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": camera: no camera is configured. Add a [[camera]] table with name and source."),
        (CAMERA + "sorce = 1\n", ":4: camera[0].sorce: unknown key. Perhaps you meant camera[0].source."),
        (CAMERA + "[mqtt]\nport = 0\n", ":5: mqtt.port: must be greater than or equal to 1, not 0."),
        (CAMERA + "[mqtt]\nport = 1.5\n", ":5: mqtt.port: must be a whole number, not 1.5."),
        (CAMERA + '[mqtt]\npassword = "x"\n', ":5: mqtt.password: unknown key. Perhaps you meant mqtt.password_file."),
        (
            CAMERA + "[mqtt]\nheartbeat_s = 9\n",
            ":5: mqtt.heartbeat_s: unknown key. Perhaps you meant publish.heartbeat_s.",
        ),
        (CAMERA + "[logging]\nfile = 1\n", ":5: logging.file: unknown key. Valid keys: level."),
        (
            CAMERA.replace("0", '"rtmp://me:secret@cam"'),
            ":3: camera[0].source: rtmp:// streams are not supported; use rtsp, rtsps, http or https.",
        ),
        (
            CAMERA.replace("0", '"rtsp:/me:secret@cam"'),
            (
                ":3: camera[0].source: an address must start with rtsp, rtsps, http or https followed by ://; if it "
                "is a file, prefix it with ./."
            ),
        ),
        (
            CAMERA.replace("0", '"csi:a"'),
            ":3: camera[0].source: csi:a is not a camera; the first one is csi:0, the second csi:1.",
        ),
        (
            CAMERA + "[brocker]\n",
            (
                ":4: brocker: unknown key. Valid keys: device, model, update, mqtt, camera, detector, tracking, "
                "smoothing, publish, adaptation, metrics, logging."
            ),
        ),
        (
            CAMERA + '[update]\nurl = "https://models.example"\n',
            ":4: update: public_keys must list at least one key if url is set.",
        ),
        (
            CAMERA + '[update]\nurl = "file:///srv/ferplus"\n',
            ":5: update.url: " + WEB_FOLDER,
        ),
        (
            CAMERA + '[update]\nurl = "https://me:secret@models.example"\n',
            ":5: update.url: " + WEB_FOLDER,
        ),
        (
            CAMERA + '[update]\nurl = "https://:TOKEN@models.example/x"\n',
            ":5: update.url: " + WEB_FOLDER,
        ),
        *(
            (CAMERA + f'[update]\nurl = "https://{rest}"\n', ":5: update.url: " + WEB_FOLDER)
            for rest in ("models.example/x?", "models.example/x#", "models.example/x?token=1", "my models/x")
        ),
        (
            CAMERA + '[mqtt]\nhost = "mqtt://me:secret@broker"\n',
            ":5: mqtt.host: must be only a host name or an address, without mqtt:// and without a user.",
        ),
        (
            CAMERA + '[update]\nurl = "https://models.example:99999/"\n',
            ":5: update.url: Port out of range 0-65535.",
        ),
        (
            CAMERA + '[update]\npublic_keys = ["mine"]\n',
            ":5: update.public_keys[0]: is not a key: must be 32 bytes in base64, as written by `trainer keygen`.",
        ),
        ("mqtt = 3\n" + CAMERA, ":1: mqtt: must be a table, not 3."),
        ("camera = 3\n", ":1: camera: must be a list of tables, each with the header [[camera]], not 3."),
        (
            CAMERA + '[detector]\nname = "yolo"\n',
            (":5: detector.name: must be 'auto', 'blazeface-full', 'blazeface-short' or 'haar', not 'yolo'."),
        ),
        (CAMERA + CAMERA, ":5: camera[1].name: is already the name of camera[0]."),
        (
            CAMERA.replace("door", "status"),
            (":2: camera[0].name: 'status' cannot be the name of a camera: it is reserved for another topic."),
        ),
        (
            CAMERA + "[publish]\nmin_interval_s = 60\n",
            (":4: publish.heartbeat_s: must not be smaller than publish.min_interval_s."),
        ),
        (
            CAMERA + "[adaptation]\nhot_c = 70\n",
            ":5: adaptation.hot_c: must be greater than adaptation.cool_c.",
        ),
        (CAMERA + "[metrics]\nport = 0\n", ":5: metrics.port: must be greater than or equal to 1, not 0."),
        ('[device]\ngroups = "shop"\n' + CAMERA, ":2: device.groups: must be a list, not 'shop'."),
        (
            '[device]\ngroups = ["shop", "+"]\n' + CAMERA,
            (
                ":2: device.groups[1]: '+' cannot be part of a topic: use 1 to 64 lower-case letters, digits, "
                "'-' and '_', with a letter or digit first."
            ),
        ),
        (CAMERA + "[smoothing]\nmargin = nan\n", ":5: smoothing.margin: must be a finite number, not nan."),
        (
            CAMERA + "[mqtt]\nca_file = 'config.toml'\ntls = false\n",
            (":6: mqtt.tls: cannot be false while mqtt.ca_file or mqtt.cert_file is set."),
        ),
        (
            CAMERA + "[mqtt]\nkey_file = 'config.toml'\n",
            ":5: mqtt.key_file: requires mqtt.cert_file.",
        ),
        (
            CAMERA + "[mqtt]\npassword_file = 'config.toml'\n",
            (":5: mqtt.password_file: requires mqtt.username."),
        ),
    ],
)
def test_an_error_is_reported_with_its_key_and_the_allowed_values(load: Load, text: str, expected: str) -> None:
    """The message is enough to fix the error without the documentation."""
    assert error_of(load, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[mqtt]\nhost = localhost\n", ":2: not valid TOML: Invalid value."),
        ('[mqtt]\nhost = "a\n[device]\n', ":2: not valid TOML: Illegal character '\\n'."),
        ("[[camera]]\nname = 'a'\nname = 'b'\n", ":3: not valid TOML: Cannot overwrite a value."),
        ("[mqtt]\nhost = [\n", ":3: not valid TOML: Invalid value."),
    ],
)
def test_invalid_toml_is_reported_with_its_line(load: Load, text: str, expected: str) -> None:
    """A missing quote is reported with its line."""
    assert error_of(load, text) == expected


def test_a_byte_order_mark_is_ignored(load: Load) -> None:
    """A byte order mark, as written by editors on Windows, does not shift line numbers either."""
    assert load("\ufeff" + CAMERA) == load(CAMERA)
    assert error_of(load, "\ufeff" + CAMERA + "[mqtt]\nport = 0\n").startswith(":5: mqtt.port: ")


def test_unreadable_files_are_reported(tmp_path: Path) -> None:
    """A wrong --config is reported with the file, and with the example configuration to start from."""
    with pytest.raises(ConfigError, match=r"none\.toml: no such file\. .*deploy/config\.toml"):
        load_config(tmp_path / "none.toml", {})
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path, {})
    (tmp_path / "config.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(tmp_path / "config.toml", {})


def test_environment_variables_override_the_file(load: Load) -> None:
    """A container is configured without changing the file: any key, cameras by number, and another camera."""
    config = load(
        CAMERA + '[mqtt]\nhost = "a.lan"\n',
        {
            "EDGE_MQTT__HOST": "b.lan",
            "EDGE_MQTT__HOMEASSISTANT": "no",
            "EDGE_DETECTOR__INTERVAL_S": "0",
            "EDGE_CAMERA__0__SOURCE": "/dev/video2",
            "EDGE_CAMERA__1__NAME": "hall",
            "EDGE_CAMERA__1__SOURCE": "rtsp://cam/",
            "EDGE_DEVICE__GROUPS__0": "shop",
            "EDGE_HOME": "not ours",
        },
    )
    assert (config.mqtt.host, config.mqtt.homeassistant, config.detector.interval_s) == ("b.lan", False, 0)
    assert config.device.groups == ("shop",)
    assert [(camera.name, camera.source) for camera in config.camera] == [
        ("door", "/dev/video2"),
        ("hall", "rtsp://cam/"),
    ]


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("EDGE_MQTT__PORT", "8x", "EDGE_MQTT__PORT: mqtt.port: must be a whole number, not '8x'."),
        ("EDGE_MQTT__HOTS", "b", "EDGE_MQTT__HOTS: mqtt.hots: unknown key. Perhaps you meant mqtt.host."),
        ("EDGE_CAMERAS__0__SOURCE", "1", "EDGE_CAMERAS__0__SOURCE: cameras: unknown key. Perhaps you meant camera."),
        ("EDGE_MQTT__HOST__X", "b", "EDGE_MQTT__HOST__X: mqtt.host: must be a string in quotes, not a table."),
        (
            "EDGE_MQTT_HOST",
            "b",
            (
                "EDGE_MQTT_HOST: does not name a key. Separate table and key with two underscores, "
                "as in EDGE_MQTT__HOST."
            ),
        ),
        (
            "EDGE_CAMERA__5__NAME",
            "b",
            (
                "EDGE_CAMERA__5__NAME: does not match the structure of the file. Number cameras from 0 "
                "without gaps, as in EDGE_CAMERA__0__SOURCE."
            ),
        ),
        (
            "EDGE_CAMERA__NAME",
            "b",
            (
                "EDGE_CAMERA__NAME: does not match the structure of the file. Number cameras from 0 "
                "without gaps, as in EDGE_CAMERA__0__SOURCE."
            ),
        ),
    ],
)
def test_a_wrong_variable_is_named(load: Load, variable: str, value: str, expected: str) -> None:
    """An error in the environment is reported with the variable, not with the file."""
    assert error_of(load, environ={variable: value}) == f"environment variable {expected}"


def test_an_error_in_the_file_is_not_attributed_to_a_variable(load: Load) -> None:
    """A misspelled table in the file is reported with its line, although a variable sets a key in it."""
    text = CAMERA + '[brocker]\nhost = "a.lan"\n'
    assert error_of(load, text, {"EDGE_BROCKER__PORT": "1883"}).startswith(":4: brocker: unknown key.")


def test_systemd_sets_the_state_folder_and_the_password(load: Load, tmp_path: Path) -> None:
    """Under the systemd unit, no folder has to be configured."""
    (tmp_path / "mqtt_password").write_text("swordfish\n")
    config = load(
        CAMERA + '[mqtt]\nusername = "pi"\n[device]\nstate_dir = "/elsewhere"\n',
        {"STATE_DIRECTORY": "/var/lib/edge:/other", "CREDENTIALS_DIRECTORY": str(tmp_path)},
    )
    assert config.device.state_dir == Path("/var/lib/edge")
    assert config.mqtt.password() == "swordfish"
    assert config.mqtt.key_file is None


def test_a_configured_password_file_takes_precedence_over_the_credential(load: Load, tmp_path: Path) -> None:
    """The configuration file takes precedence over systemd credentials."""
    (tmp_path / "mqtt_password").write_text("credential")
    (tmp_path / "own").write_text("own")
    text = CAMERA + '[mqtt]\nusername = "pi"\npassword_file = "own"\n'
    assert load(text, {"CREDENTIALS_DIRECTORY": str(tmp_path)}).mqtt.password() == "own"


def test_a_credential_without_a_user_is_an_error(load: Load, tmp_path: Path) -> None:
    """A password without a user name is an error, reported with its origin."""
    (tmp_path / "mqtt_password").write_text("swordfish")
    message = error_of(load, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert message.startswith("environment variable CREDENTIALS_DIRECTORY (mqtt_password): mqtt.password_file")


@pytest.mark.parametrize(
    ("content", "password"),
    [
        (b"\xef\xbb\xbfswordfish\r\n", "swordfish"),
        ("sword\x85fish\u2028\x0b\r \nmore".encode(), "sword\x85fish\u2028\x0b\r "),
    ],
)
def test_a_password_is_the_whole_first_line(load: Load, tmp_path: Path, content: bytes, password: str) -> None:
    """A byte order mark is ignored, and only a newline ends the line, not every line boundary of `str.splitlines`."""
    (tmp_path / "password").write_bytes(content)
    config = load(CAMERA + '[mqtt]\nusername = "pi"\npassword_file = "password"\n')
    assert config.mqtt.password() == password


def test_a_password_is_not_sent_unencrypted(load: Load, tmp_path: Path) -> None:
    """The error names file, line and key, and both remedies."""
    (tmp_path / "password").write_text("swordfish")
    text = CAMERA + '[mqtt]\nhost = "broker.lan"\nusername = "pi"\npassword_file = "password"\n'
    assert error_of(load, text) == (
        ":4: mqtt.allow_plaintext_password: the password would be sent unencrypted over the network. Set up TLS, or "
        "set this key to true if you trust every machine on that network."
    )
    for remedy in ("allow_plaintext_password = true", "tls = true"):
        load(text + remedy)
    load(text.replace("broker.lan", "127.0.0.1"))
    load(text.replace('password_file = "password"', ""))


@pytest.mark.parametrize("content", [None, b"", b"\xef\xbb\xbf\r\n", b"\nsecond line", b"\xff"])
def test_a_password_file_without_a_password_is_an_error(load: Load, tmp_path: Path, content: bytes | None) -> None:
    """A missing password is reported at the start, not when the broker rejects the connection."""
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    with pytest.raises(ConfigError, match="password"):
        load(CAMERA + '[mqtt]\nusername = "pi"\npassword_file = "password"\n')


def test_secrets_are_not_in_the_repr(load: Load, tmp_path: Path) -> None:
    """A configuration that is logged reveals no password."""
    (tmp_path / "password").write_text("swordfish")
    config = load(
        CAMERA.replace("0", '"rtsp://me:swordfish@cam/"') + '[mqtt]\nusername = "pi"\npassword_file = "password"\n'
    )
    assert "swordfish" not in repr(config)


def test_relative_paths_are_relative_to_the_file(load: Load, tmp_path: Path) -> None:
    """They are resolved against the folder of the configuration, whether or not they exist yet."""
    config = load(CAMERA.replace("0", '"clip.mp4"') + '[model]\npath = "bundle"\n')
    assert config.model.path == tmp_path / "bundle"
    assert config.camera[0].source == str(tmp_path / "clip.mp4")


def test_brackets_in_the_password_of_a_stream_are_accepted(load: Load) -> None:
    """Characters that must be escaped in other URLs are accepted in a camera's URL."""
    source = "rtsp://admin:pa[ss@10.0.0.7/h264"
    assert load(CAMERA.replace("0", f'"{source}"')).camera[0].source == source
    open_source(source)


def test_a_ca_file_enables_tls_and_its_port(load: Load) -> None:
    """Setting `ca_file` is enough to connect over TLS on the standard port."""
    mqtt = load(CAMERA + '[mqtt]\nca_file = "config.toml"\n').mqtt
    assert (mqtt.tls, mqtt.port) == (True, 8883)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = " + "[" * 3000 + "]" * 3000, "is nested too deeply"),
        ("a = " + "9" * 5000, "contains a number with too many digits"),
        (CAMERA + "[mqtt]\nport = 0x" + "f" * 5000, "mqtt.port: is too large"),
        (CAMERA + '[mqtt]\nhost = "\\u0000"', "mqtt.host: must not contain a NUL character"),
        (CAMERA + '[model]\npath = "~nobody-here/x"', "model.path: there is no home folder ~nobody-here"),
    ],
)
def test_values_that_python_cannot_parse_are_reported(load: Load, text: str, expected: str) -> None:
    """Values beyond the limits of Python are reported like any other error."""
    assert expected in error_of(load, text)


def test_the_number_of_reported_errors_is_limited(load: Load) -> None:
    """A file full of errors gives a limited number of messages, and the number of the others."""
    with pytest.raises(ConfigError) as error:
        load("\n".join(f"key_{number} = 0" for number in range(1000)))
    *messages, last = str(error.value).splitlines()
    assert (len(messages), last) == (20, "and 981 more errors")
