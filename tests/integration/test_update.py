"""Newer models from a real web server: what is taken, what is refused, and what is left when something is damaged."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.bootstrap import newest_classifier
from edge.checks import Status, examine
from edge.checks.update import update as check_update
from edge.classify import BundleClassifier
from edge.config import Config
from edge.contract.manifest import read_manifest
from edge.contract.signature import new_signing_key, public_key
from edge.releases import Releases
from edge.update import Outlook, Updater, UpdateServer
from tests.mosquitto import PATIENCE_S
from tests.update_server import UpdateWeb, publish

KEY = new_signing_key()

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """The folder that the server serves."""
    folder = tmp_path / "web"
    folder.mkdir()
    return folder


@pytest.fixture
def server(web: Path) -> Iterator[UpdateWeb]:
    """A web server."""
    with UpdateWeb(web) as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, server: UpdateWeb) -> Config:
    """A device that trusts one key, and has release 1."""
    return Config.model_validate(
        {
            "device": {"name": "hall", "state_dir": tmp_path / "state"},
            "model": {"path": bundle_path},
            "update": {"url": server.url, "public_keys": [public_key(KEY)]},
            "camera": [{"name": "door", "source": "demo"}],
        }
    )


class Device:
    """The updater of a device, and what it has told."""

    def __init__(self, config: Config) -> None:
        self.told: queue.SimpleQueue[Outlook | None] = queue.SimpleQueue()
        self.releases = Releases(config.device.state_dir / "models", config.update.public_keys)
        self.updater = Updater(
            server=UpdateServer(str(config.update.url), config.update.public_keys),
            releases=self.releases,
            running=newest_classifier(config).bundle.manifest,
            try_out=BundleClassifier,
            on_outlook=self.told.put,
            on_installed=lambda: self.told.put(None),
            interval_s=config.update.interval_h * 3600,
            automatic=config.update.automatic,
        )

    def install(self) -> Outlook | None:
        """What comes of a look that somebody asked for: None when a release was installed, else what was told."""
        with self.updater:
            self.told.get(timeout=PATIENCE_S)  # what is known before the first look: nothing
            self.updater.install()
            while (outlook := self.told.get(timeout=PATIENCE_S)) is not None and outlook.installing:
                pass
        return outlook


def refusal(config: Config) -> str:
    """Why what the server has is not installed; the device keeps what it had."""
    outlook = Device(config).install()
    assert outlook is not None
    assert outlook.error is not None
    assert newest_classifier(config).bundle.path == config.model.path
    return outlook.error


def test_a_signed_release_takes_the_place_of_an_older_one(config: Config, web: Path, bundle_path: Path) -> None:
    """From then on the device starts with it; older ones are taken away, and the newest of all stays."""
    for release in (2, 3):
        publish(web, bundle_path, release, KEY)
        assert Device(config).install() is None
        found = newest_classifier(config).bundle
        assert (found.manifest.release, found.manifest.version) == (release, f"{release}.0.0")
    assert [path.name for path in (config.device.state_dir / "models").iterdir()] == ["3"]
    publish(web, bundle_path, 2, KEY)
    outlook = Device(config).install()
    assert outlook is not None
    assert (outlook.error, outlook.latest) == (None, newest_classifier(config).bundle.manifest)
    assert newest_classifier(config).bundle.manifest.release == 3


def test_what_is_not_signed_by_somebody_trusted_is_refused(config: Config, web: Path, bundle_path: Path) -> None:
    """A stranger's release, one without a signature, and one whose manifest was changed after it was signed."""
    told = "manifest.json: is not signed by a key that is trusted here. Sign the bundle"
    publish(web, bundle_path, 2, new_signing_key())
    assert told in refusal(config)
    publish(web, bundle_path, 2, KEY)
    manifest = web / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    assert told in refusal(config)
    (web / "manifest.json.sig").unlink()
    assert "manifest.json.sig: the server answers 404 File not found" in refusal(config)


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda m: m.update(name="other"), "the server has the model other, this device runs ferplus"),
        (lambda m: m.update(minimum_agent_version="99.0.0"), "needs agent 99.0.0"),
        (lambda m: m.update(schema_version="2.0"), "manifest.json: schema version 2.0 is not understood"),
        (lambda m: m.pop("labels"), "manifest.json: labels: Field required"),
        (lambda m: m["files"][m["model"]].update(size=65_000_000), "has more than 64000000 bytes"),
        (lambda m: m["files"][m["model"]].update(size=100), "is larger than 100 bytes"),
        (lambda m: m["files"].update({"missing.bin": {"sha256": "0" * 64, "size": 1}}), "missing.bin: the server"),
    ],
)
def test_what_is_signed_and_does_not_fit_is_refused(
    config: Config, web: Path, bundle_path: Path, edit: Edit, told: str
) -> None:
    """A publisher's mistakes stop at the first device that would suffer from them."""
    publish(web, bundle_path, 2, KEY, edit=edit)
    assert told in refusal(config)


def test_what_arrives_damaged_is_refused(config: Config, web: Path, bundle_path: Path) -> None:
    """Every file must be the one that was signed."""
    publish(web, bundle_path, 2, KEY)
    model = next(web.glob("*.tflite"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert f"{model.name}: has sha256" in refusal(config)
    model.write_bytes(content[:-1])
    assert f"{model.name}: has {len(content) - 1} bytes, the manifest says {len(content)}" in refusal(config)


def test_a_model_that_computes_something_else_here_is_refused(config: Config, web: Path, bundle_path: Path) -> None:
    """The bundle's own self-test is run by this device's runtime before the model is used."""
    inputs_and_logits = dict(np.load(bundle_path / "golden.npz"))
    wrong = shutil.copytree(bundle_path, web.parent / "wrong")
    np.savez_compressed(wrong / "golden.npz", **{**inputs_and_logits, "logits": inputs_and_logits["logits"] + 9})
    publish(web, wrong, 2, KEY, edit=lambda manifest: manifest["files"].update(measured(wrong, "golden.npz")))
    assert "self-test failed: a logit is off by 9" in refusal(config)


def measured(folder: Path, name: str) -> dict[str, Any]:
    """A file's entry in the manifest."""
    content = (folder / name).read_bytes()
    return {name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}}


def test_a_server_that_is_away_is_asked_again(
    config: Config, web: Path, bundle_path: Path, server: UpdateWeb, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, however often it is met."""
    device = Device(config)
    with device.updater, caplog.at_level(logging.WARNING):
        device.told.get(timeout=PATIENCE_S)
        for _ in range(2):
            device.updater.install()
            outlook = device.told.get(timeout=PATIENCE_S)
            assert outlook is not None
            assert outlook.error == (
                f"{server.url}manifest.json: the server answers 404 File not found. "
                "See that the address is right and that the server runs; the agent tries again later."
            )
        publish(web, bundle_path, 2, KEY)
        device.updater.install()
        while device.told.get(timeout=PATIENCE_S) is not None:
            pass
    assert len(caplog.records) == 1


def test_nothing_is_installed_unasked_where_that_is_not_wanted(config: Config, web: Path, bundle_path: Path) -> None:
    """The device tells that there is something newer, and waits for a person."""
    publish(web, bundle_path, 2, KEY)
    update = config.update.model_copy(update={"automatic": False, "interval_h": 0.5 / 3600})
    device = Device(config.model_copy(update={"update": update}))
    with device.updater:
        outlooks = [device.told.get(timeout=PATIENCE_S) for _ in range(3)]
        assert [outlook and outlook.latest and outlook.latest.release for outlook in outlooks] == [None, 2, 2]
        assert not (config.device.state_dir / "models").exists()
        device.updater.install()
        while device.told.get(timeout=PATIENCE_S) is not None:
            pass
    assert newest_classifier(config).bundle.manifest.release == 2


def test_what_is_found_is_installed_by_itself(config: Config, web: Path, bundle_path: Path) -> None:
    """At the latest after the interval."""
    publish(web, bundle_path, 2, KEY)
    update = config.update.model_copy(update={"interval_h": 0.5 / 3600})
    device = Device(config.model_copy(update={"update": update}))
    with device.updater:
        while device.told.get(timeout=PATIENCE_S) is not None:
            pass
    assert newest_classifier(config).bundle.manifest.release == 2


def damage(path: Path) -> None:
    """Takes the file's last byte away."""
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sig", "golden.npz"])
def test_a_release_that_is_damaged_on_disk_is_passed_over(
    config: Config, web: Path, bundle_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The device starts with the model that it was installed with, says why, and takes the release anew."""
    publish(web, bundle_path, 2, KEY)
    Device(config).install()
    damage(config.device.state_dir / "models" / "2" / name)
    with caplog.at_level(logging.WARNING):
        assert newest_classifier(config).bundle.manifest == read_manifest(bundle_path)
    assert caplog.text.count("passed over: ") == 1
    assert Device(config).install() is None
    assert newest_classifier(config).bundle.manifest.release == 2


def test_a_key_that_is_not_trusted_any_more_takes_its_releases_with_it(
    config: Config, web: Path, bundle_path: Path
) -> None:
    """So do a model of another name, and a configuration that wants no updates."""
    publish(web, bundle_path, 2, KEY)
    Device(config).install()
    update = config.update.model_copy(update={"public_keys": (public_key(new_signing_key()),)})
    assert newest_classifier(config.model_copy(update={"update": update})).bundle.path == bundle_path
    update = config.update.model_copy(update={"url": None})
    assert newest_classifier(config.model_copy(update={"update": update})).bundle.path == bundle_path
    other = shutil.copytree(bundle_path, web.parent / "other")
    manifest = json.loads((other / "manifest.json").read_bytes())
    (other / "manifest.json").write_text(json.dumps(manifest | {"name": "other"}))
    model = config.model.model_copy(update={"path": other})
    assert newest_classifier(config.model_copy(update={"model": model})).bundle.path == other


def test_the_doctor_looks_at_the_server_too(config: Config, web: Path, bundle_path: Path, server: UpdateWeb) -> None:
    """What is there, whether it is newer, and what to do where it cannot be used."""
    publish(web, bundle_path, 2, KEY)
    [found] = examine(check_update(config))
    assert (found.status, found.detail) == (
        Status.OK, f"{server.url} has ferplus 2.0.0 (release 2), newer than 1, in use here",
    )  # fmt: skip
    publish(web, bundle_path, 2, new_signing_key())
    [found] = examine(check_update(config))
    assert (found.status, found.exit_code) == (Status.FAIL, 4)
    shutil.rmtree(web)
    [found] = examine(check_update(config))
    assert (found.status, found.exit_code) == (Status.FAIL, 9)
    update = config.update.model_copy(update={"url": None})
    assert list(examine(check_update(config.model_copy(update={"update": update})))) == []
