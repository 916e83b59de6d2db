"""Fuzz tests: any input is handled or gives an error with a message, and the agent keeps running.

More than 300 examples, the same in each run: configurations, commands to a running agent, and damaged model bundles.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from edge.classify import BundleClassifier
from edge.config import load_config
from edge.contract.errors import UserError
from edge.payloads import CommandResponse
from tests.e2e import hall
from tests.e2e.process import Edge
from tests.mosquitto import PROGRAM, Listener, Mosquitto

PROFILE = settings(
    phases=[Phase.explicit, Phase.generate],  # shrinking would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def check_error(error: UserError) -> None:
    """Asserts that an error has a message and an expected exit code."""
    assert str(error).strip()
    assert error.exit_code in {3, 4, 7}


# Configurations

SECTIONS = ["device", "model", "mqtt", "camera", "detector", "tracking", "smoothing", "publish", "logging"]
KEYS = st.one_of(
    st.sampled_from(SECTIONS),
    st.sampled_from(["name", "state_dir", "path", "host", "port", "password_file", "username", "ca_file", "prefix"]),
    st.sampled_from(["source", "fps", "width_px", "interval_s", "max_gap_s", "heartbeat_s", "outbox_limit", "level"]),
    st.text("abc-_. ", max_size=5),
)
PATHS = st.sampled_from(["~", "~nobody-here/x", "\\u0000", "/", "/dev/null", "x" * 5000, "csi:x", "://", "rtsp://["])
VALUES = st.one_of(
    st.booleans().map(lambda value: str(value).lower()),
    (st.integers() | st.floats()).map(str),
    st.integers(1, 20_000).map(lambda digits: "9" * digits),
    st.integers(1, 9_000).map(lambda digits: "0x" + "f" * digits),
    st.sampled_from(["1e999", "-0", "2024-01-01", "07:32:00", "{}", "{a = {b = 1}}", "'''", '"', "[", "[[1], {}]"]),
    st.integers(1, 3_000).map(lambda depth: "[" * depth + "]" * depth),
    st.integers(1, 3_000).map(lambda depth: "{a=" * depth),
    (PATHS | st.text("ab/~.:é\t", max_size=12)).map(lambda text: f'"{text}"'),
)
LINES = st.one_of(
    st.tuples(KEYS, VALUES).map(" = ".join),
    st.sampled_from(SECTIONS).map("[{}]".format),
    st.just('[[camera]]\nname = "door"\nsource = "0"'),
    KEYS.map("[[{}]]".format),
    st.text(max_size=10),
    st.integers(1, 1_000).map(lambda count: "\n".join(f"x{number} = 0" for number in range(count))),
)
VARIABLES = st.lists(KEYS | st.sampled_from(["0", "9" * 5000]), max_size=3).map(
    lambda p: "EDGE_" + "__".join(p).upper()
)


@given(
    text=st.lists(LINES, max_size=8).map("\n".join),
    environ=st.dictionaries(VARIABLES, st.text(max_size=5), max_size=2),
)
@settings(PROFILE, max_examples=150)
def test_configurations(tmp_path: Path, text: str, environ: dict[str, str]) -> None:
    """Any configuration file with any environment is either loaded or gives a `UserError`."""
    path = tmp_path / "config.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_config(path, environ)
    except UserError as error:
        check_error(error)


# Commands and reloads


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    """A broker that accepts anonymous clients."""
    if PROGRAM is None:
        pytest.skip("mosquitto is not installed")
    with Mosquitto(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


@pytest.fixture(scope="module")
def listener(broker: Mosquitto) -> Iterator[Listener]:
    """A client that sends the commands and receives the responses."""
    with Listener(broker.port) as listener:
        yield listener


@pytest.fixture(scope="module")
def agent(
    tmp_path_factory: pytest.TempPathFactory, bundle_path: Path, broker: Mosquitto, listener: Listener
) -> Iterator[Edge]:
    """A running agent, which must neither restart nor log a traceback."""
    folder = tmp_path_factory.mktemp("agent")
    config = hall.configure(folder, bundle=bundle_path, port=broker.port, camera='source = "demo"')
    with Edge("run", "--config", config) as agent:
        listener.wait_for(lambda: listener.on("emotion/hall/door/emotion"))
        yield agent
        statuses = [message.payload for message in listener.on("emotion/hall/status")]
        assert agent.stop() == 0, agent.output
    assert statuses == ["online"]
    assert not [line for line in agent.output if "Traceback" in line]


NAMES = st.one_of(
    st.sampled_from(
        ["pause", "resume", "report", "dance", "", "x" * 65_510]
    ),  # the last is too long for a response topic
    st.text(st.characters(min_codepoint=32, exclude_categories=["C"], exclude_characters="+#/"), max_size=12),
)
FIELDS = st.dictionaries(st.sampled_from(["id", "camera", "value", "x"]), JSON, max_size=4)
PAYLOADS = st.one_of(
    st.binary(max_size=64),
    (JSON | FIELDS).map(lambda value: json.dumps(value).encode()),
    st.integers(1, 400_000).map(lambda size: b"x" * size),
    st.integers(1, 4_000).map(lambda depth: b'{"id":' * depth),
    st.integers(1, 200_000).map(lambda depth: b"[" * depth),
    st.integers(1, 4_000).map(lambda digits: b'{"id": %b}' % (b"9" * digits)),
)
RESPONSE_TOPICS = st.none() | st.sampled_from(["my/answers", "my/+/answers", "#", "/" * 300, "$SYS/x", "x" * 65_000])


@given(name=NAMES, payload=PAYLOADS, response_topic=RESPONSE_TOPICS)
@settings(PROFILE, max_examples=100)
def test_commands(agent: Edge, listener: Listener, name: str, payload: bytes, response_topic: str | None) -> None:
    """Any command with any payload gets a response unless its topic is too long, and the next command is executed."""
    responses_before = len(listener.on(f"emotion/hall/cmd/{name}/response"))
    listener.publish(f"emotion/hall/cmd/{name}", payload, response_topic=response_topic)
    reports_before = len(listener.on("emotion/hall/cmd/report/response"))
    listener.publish("emotion/hall/cmd/report", '{"id": "are you there"}')

    def responded() -> bool:
        responses = listener.on("emotion/hall/cmd/report/response")[reports_before:]
        return any("are you there" in response.payload for response in responses)

    listener.wait_for(responded)
    assert agent.process.poll() is None
    if len(name) < 100:
        responses = listener.on(f"emotion/hall/cmd/{name}/response")[responses_before:]
        assert responses
        response = CommandResponse.model_validate_json(responses[0].payload)
        assert response.ok or response.error


@pytest.mark.parametrize("fault", ["a = [", "a = " + "[" * 9000, "[mqtt]\nport = " + "9" * 9000, "x = 1\n" * 999])
def test_reloads(agent: Edge, fault: str) -> None:
    """On a reload with an invalid file, the agent keeps its configuration and logs the error."""
    path = Path(agent.arguments[-1])
    valid = path.read_text()
    path.write_text(f"{fault}\n{valid}")
    agent.process.send_signal(signal.SIGHUP)
    assert str(path) in agent.wait_for("keeping the running configuration")
    path.write_text(valid)


# Bundles


@pytest.fixture
def bundle(bundle_path: Path, tmp_path: Path) -> Path:
    """A copy of the committed bundle, which each example restores or overwrites."""
    return Path(shutil.copytree(bundle_path, tmp_path / "bundle"))


FILES = ["manifest.json", "golden.npz", "classifier.int8.tflite"]
BIT_POSITIONS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7)), min_size=1, max_size=4)


def try_bundle(path: Path) -> bool:
    """Loads the bundle like the agent; returns whether it is rejected."""
    try:
        BundleClassifier(path)
    except UserError as error:
        check_error(error)
        return True
    return False


def damaged(content: bytes, bit_positions: list[tuple[float, int]], kept: float) -> bytes:
    """Returns the content with flipped bits, given as fraction of the length and bit number, and then truncated."""
    flipped = bytearray(content)
    for position, bit in bit_positions:
        flipped[int(position * len(flipped))] ^= 1 << bit
    return bytes(flipped[: round(kept * len(flipped))])


@given(
    file=st.sampled_from(FILES),
    bit_positions=BIT_POSITIONS,
    kept=st.just(1.0) | st.floats(0, 1),
    new_checksum=st.booleans(),
)
@settings(PROFILE, max_examples=100)
def test_damaged_bundles(
    bundle: Path,
    bundle_path: Path,
    file: str,
    bit_positions: list[tuple[float, int]],
    kept: float,
    *,
    new_checksum: bool,
) -> None:
    """Damaged files give a `UserError`; a manifest, or golden vectors with a new checksum, may also be accepted."""
    shutil.copytree(bundle_path, bundle, dirs_exist_ok=True)
    original = (bundle / file).read_bytes()
    content = damaged(original, bit_positions, kept)
    (bundle / file).write_bytes(content)
    detectable = file != "manifest.json" and content != original
    if new_checksum and file == "golden.npz":
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["files"][file] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        detectable = False
    assert try_bundle(bundle) or not detectable


def value_paths(node: Any, parent: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the path to each value of a document, including objects."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*parent, key)
            yield from value_paths(value, (*parent, key))


ODD_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from(["", "\0", "..", "9" * 5000 + ".0.0", "1.0"]),
    st.sampled_from([-1, 0, 10**30, 1e300, 1e-300, float("inf"), float("nan")]),
    st.just({"\0": {"size": 1, "sha256": "0" * 64}}),
    JSON,
)


@given(position=st.floats(0, 1, exclude_max=True), value=ODD_VALUES)
@example(position=0.0, value="9" * 50 + ".0")
@settings(PROFILE, max_examples=100)
def test_odd_manifests(bundle: Path, bundle_path: Path, position: float, value: Any) -> None:
    """A manifest with any one value replaced is either accepted or gives a `UserError`."""
    document = json.loads((bundle_path / "manifest.json").read_text())
    paths = list(value_paths(document))
    *parents, last = paths[int(position * len(paths))]
    node = document
    for key in parents:
        node = node[key]
    node[last] = value
    (bundle / "manifest.json").write_text(json.dumps(document))
    try_bundle(bundle)
