"""The committed bundle with tflite-runtime 2.14 and numpy 1, in a virtual environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_UV = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
_ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.skipif(_UV is None, reason="uv, which creates the environment, is not installed"),
    pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-runtime has no wheel for this Python"),
]

_PROGRAM = """
import sys
from pathlib import Path
import cv2, numpy
from edge.classify import BundleClassifier
from edge.runtime import runtime_name
classifier = BundleClassifier(Path(sys.argv[1]), runtime="tflite-runtime")
logits = classifier.classify(numpy.zeros((1, 48, 48), numpy.uint8))
print(runtime_name("tflite-runtime"), numpy.__version__.split(".")[0], logits.shape[1])
"""


def test_the_bundle_passes_its_self_test_under_tflite_runtime(bundle_path: Path, tmp_path: Path) -> None:
    """With only tflite-runtime installed, the logits match the golden vectors within the bundle's tolerance."""
    assert _UV is not None
    environment = tmp_path / "venv"
    python = environment / "bin" / "python"
    subprocess.run([_UV, "venv", "--quiet", "--python", sys.executable, environment], check=True)
    install = [_UV, "pip", "install", "--quiet", "--python", str(python), "--editable", f"{_ROOT}[tflite-runtime]"]
    installed = subprocess.run(install, capture_output=True, text=True)
    if installed.returncode and "CI" not in os.environ:
        pytest.skip(f"the environment cannot be created, perhaps there is no network: {installed.stderr[-300:]}")
    assert installed.returncode == 0, installed.stderr
    done = subprocess.run([str(python), "-c", _PROGRAM, str(bundle_path)], capture_output=True, text=True)
    assert done.stdout.split() == ["tflite-runtime", "2.14.0", "1", "7"], done.stderr
