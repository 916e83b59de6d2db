"""Model updates from a real web server: what is accepted, what is rejected, and fallbacks for damaged releases."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from edge import adapters, download, trial
from edge.adapters import newest_classifier, require_usable, update_server
from edge.checks import Outcome, run_checks
from edge.checks.software import model as check_model
from edge.checks.update import update as check_update
from edge.classify import BundleClassifier
from edge.config import Config
from edge.contract.errors import BundleError
from edge.contract.manifest import read_manifest
from edge.contract.signature import new_signing_key, public_key
from edge.errors import UpdateError
from edge.releases import Releases
from edge.trial import try_out
from edge.update import Updater, UpdateStatus
from tests.integration.conftest import Certificates
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
    """A device that trusts one key and runs release 1."""
    return Config.model_validate(
        {
            "device": {"name": "hall", "state_dir": tmp_path / "state"},
            "model": {"path": bundle_path},
            "update": {"url": server.url, "public_keys": [public_key(KEY)]},
            "camera": [{"name": "door", "source": "demo"}],
        }
    )


class Device:
    """The updater of a device, and the statuses that it has reported."""

    def __init__(self, config: Config) -> None:
        self.statuses: queue.SimpleQueue[UpdateStatus | None] = queue.SimpleQueue()
        self.releases = Releases(config.device.state_dir / "models", config.update.public_keys)
        self.updater = Updater(
            server=update_server(config, str(config.update.url)),
            releases=self.releases,
            running=newest_classifier(config).bundle.manifest,
            try_out=partial(try_out, runtime=config.model.runtime, threads=config.model.threads),
            require_reopenable=partial(require_usable, config),
            on_status=self.statuses.put,
            on_installed=lambda: self.statuses.put(None),
            interval_s=config.update.interval_h * 3600,
            automatic=config.update.automatic,
        )

    def install(self) -> UpdateStatus | None:
        """Requests a check. Returns None if a release was installed, otherwise the last status."""
        with self.updater:
            self.statuses.get(timeout=PATIENCE_S)  # the initial status
            self.updater.install()
            while (status := self.statuses.get(timeout=PATIENCE_S)) is not None and status.installing:
                pass
        return status


def damage(path: Path) -> None:
    """Takes the file's last byte away."""
    path.write_bytes(path.read_bytes()[:-1])


def refusal(config: Config) -> str:
    """The error for the release on the server, which is not installed."""
    status = Device(config).install()
    assert status is not None
    assert status.error is not None
    assert newest_classifier(config).bundle.path == config.model.path
    return status.error


def test_a_signed_release_takes_the_place_of_an_older_one(
    config: Config, web: Path, bundle_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The device then uses it. The previous release is kept as a fallback; an older one is never installed.

    The log explains why an older release is not installed.
    """
    for release in (2, 3, 4):
        publish(web, bundle_path, release, KEY)
        assert Device(config).install() is None
        found = newest_classifier(config).bundle
        assert (found.manifest.release, found.manifest.version) == (release, f"{release}.0.0")
    assert {path.name for path in (config.device.state_dir / "models").iterdir()} == {"3", "4"}
    publish(web, bundle_path, 2, KEY)
    with caplog.at_level(logging.INFO):
        status = Device(config).install()
    assert "the server has release 2, which is older than release 4 in use here, and is not installed" in caplog.text
    assert status is not None
    assert (status.error, status.latest) == (None, newest_classifier(config).bundle.manifest)
    assert newest_classifier(config).bundle.manifest.release == 4
    damage(config.device.state_dir / "models" / "4" / "golden.npz")
    assert newest_classifier(config).bundle.manifest.release == 3


def test_a_newer_model_shipped_with_the_agent_is_preferred(config: Config, web: Path, bundle_path: Path) -> None:
    """An upgrade of the agent may bring a model that is newer than the last update."""
    publish(web, bundle_path, 2, KEY)
    Device(config).install()
    publish(web.parent / "upgraded", bundle_path, 3, KEY)
    model = config.model.model_copy(update={"path": web.parent / "upgraded"})
    assert newest_classifier(config.model_copy(update={"model": model})).bundle.manifest.release == 3


def test_what_is_not_signed_by_somebody_trusted_is_refused(config: Config, web: Path, bundle_path: Path) -> None:
    """Releases signed with another key, without a signature, or changed after signing are rejected."""
    told = "manifest.json: is not signed with a trusted key. Sign the bundle"
    publish(web, bundle_path, 2, new_signing_key())
    assert told in refusal(config)
    publish(web, bundle_path, 2, KEY)
    manifest = web / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    assert told in refusal(config)
    (web / "manifest.json.sig").unlink()
    assert "manifest.json.sig: the server responded with 404 Not Found" in refusal(config)


@pytest.mark.parametrize(
    ("name", "told"),
    [("manifest.json", "is a web page, not a manifest"), ("manifest.json.sig", "is a web page, not a signature")],
)
def test_a_web_page_is_not_called_unsigned(config: Config, web: Path, bundle_path: Path, name: str, told: str) -> None:
    """A catch-all page or a captive portal is reported as a web page, not as an unsigned release."""
    publish(web, bundle_path, 2, KEY)
    (web / name).write_text("\n<!doctype html>\n<title>Welcome</title>\n")
    assert refusal(config) == (
        f"{config.update.url}{name}: {told}. Check that update.url is the URL of the bundle's folder."
    )


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda m: m.update(name="other"), "is the model other, but this device runs ferplus. Publish each model"),
        (lambda m: m.update(minimum_agent_version="99.0.0"), "requires agent 99.0.0"),
        (lambda m: m.update(schema_version="2.0"), "manifest.json: schema version 2.0 is not supported"),
        (lambda m: m.pop("labels"), "manifest.json: labels: Field required"),
        (lambda m: m["files"][m["model"]].update(size=17_000_000), "is larger than 16000000 bytes"),
        (lambda m: m["files"][m["model"]].update(size=100), "is larger than 100 bytes"),
        (lambda m: m["files"].update({"missing.bin": {"sha256": "0" * 64, "size": 1}}), "missing.bin: the server"),
    ],
)
def test_what_is_signed_and_does_not_fit_is_refused(
    config: Config, web: Path, bundle_path: Path, edit: Edit, told: str
) -> None:
    """A signed release that this device cannot use is rejected."""
    publish(web, bundle_path, 2, KEY, edit=edit)
    assert told in refusal(config)


def test_what_arrives_damaged_is_refused(config: Config, web: Path, bundle_path: Path) -> None:
    """Every file must match the signed manifest."""
    publish(web, bundle_path, 2, KEY)
    model = next(web.glob("*.tflite"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert f"{model.name}: has sha256" in refusal(config)
    model.write_bytes(content[:-1])
    assert f"{model.name}: has {len(content) - 1} bytes, the manifest says {len(content)}" in refusal(config)


def test_a_model_that_computes_something_else_here_is_refused(config: Config, web: Path, bundle_path: Path) -> None:
    """The self-test is run on this device before the model is used."""
    publish(web, spoilt(bundle_path, web.parent / "wrong"), 2, KEY, edit=admit(web.parent / "wrong"))
    assert "self-test failed: a logit is off by 9" in refusal(config)
    assert list((config.device.state_dir / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("kill -ILL $$", "does not run on this device (its process was killed by SIGILL). Test the release"),
        ("echo 'RuntimeError: node 3 failed' >&2; exit 1", "does not run on this device (RuntimeError: node 3 failed)"),
        ("echo of no interest; kill -SEGV $$", "does not run on this device (its process was killed by SIGSEGV)"),
        ("kill -40 $$", "does not run on this device (its process was killed by signal 40)"),
        (
            f'echo INFO: loading; echo \'{{"what": "is no model"}}\'; exit {BundleError.exit_code}',
            "is no model.",
        ),
        ("exec sleep 60", "its self-test did not finish within 1 s on this device. Test the release"),
    ],
)
def test_a_model_that_crashes_its_process_does_not_crash_the_agent(
    config: Config, web: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, told: str
) -> None:
    """The error reports how the process ended, or that it timed out."""
    if "sleep" in end:
        monkeypatch.setattr(trial, "_WITHIN_S", 1.0)
    interpreter = web.parent / "python"
    interpreter.write_text(f"#!/bin/sh\n{end}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    publish(web, bundle_path, 2, KEY)
    assert told in refusal(config)


def test_a_start_beside_an_installation_leaves_it_alone(config: Config, web: Path, bundle_path: Path) -> None:
    """After a reload, a leftover thread may still be installing a release."""
    publish(web, bundle_path, 2, KEY)
    files = {path.name: path.read_bytes() for path in web.iterdir()}
    folder = config.device.state_dir / "models"

    def try_out(incoming: Path) -> None:
        Releases(folder, config.update.public_keys).remove_incomplete()
        assert {path.name for path in incoming.iterdir()} == files.keys()

    Releases(folder, config.update.public_keys).install(2, files, try_out)
    assert [path.name for path in folder.iterdir()] == ["2"]


def test_a_model_that_cannot_be_tested_is_not_reported_as_faulty(
    config: Config, web: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names what is missing, and nothing is installed untested."""
    monkeypatch.setattr(sys, "executable", str(web.parent / "gone"))
    publish(web, bundle_path, 2, KEY)
    assert "gone: cannot be started to test a newer model (No such file or directory). Check that" in refusal(config)


def test_a_release_that_fails_is_not_downloaded_again(config: Config, web: Path, bundle_path: Path) -> None:
    """A release that failed its self-test is not downloaded again, and its error remains in the status."""
    publish(web, spoilt(bundle_path, web.parent / "wrong"), 2, KEY, edit=admit(web.parent / "wrong"))
    update = config.update.model_copy(update={"interval_h": 0.1 / 3600})
    device = Device(config.model_copy(update={"update": update}))
    with device.updater:
        statuses = [device.statuses.get(timeout=PATIENCE_S) for _ in range(6)]
        assert [status is not None and status.installing for status in statuses] == [
            False, True, False, False, False, False,
        ]  # fmt: skip
        assert statuses[-1] is not None
        assert "self-test failed" in str(statuses[-1].error)
        publish(web, bundle_path, 3, KEY)
        while device.statuses.get(timeout=PATIENCE_S) is not None:
            pass
    assert newest_classifier(config).bundle.manifest.release == 3


def spoilt(bundle: Path, copy: Path) -> Path:
    """A copy of a bundle whose golden vectors are not what its model computes."""
    shutil.copytree(bundle, copy)
    vectors = dict(np.load(bundle / "golden.npz"))
    np.savez_compressed(copy / "golden.npz", **{**vectors, "logits": vectors["logits"] + 9})
    return copy


def renamed(bundle: Path, copy: Path) -> Path:
    """A copy of the bundle whose model has the name `other`."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"name": "other"}))
    return copy


def admit(bundle: Path) -> Edit:
    """Writes the checksum of the present golden vectors into the manifest."""

    def edit(manifest: dict[str, Any]) -> None:
        content = (bundle / "golden.npz").read_bytes()
        manifest["files"]["golden.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}

    return edit


def test_an_agent_that_stops_meanwhile_installs_nothing(
    config: Config, web: Path, bundle_path: Path, server: UpdateWeb
) -> None:
    """It does not wait for a slow server, and installs nothing that arrives later."""
    publish(web, bundle_path, 2, KEY)
    server.open.clear()
    device = Device(config)
    with device.updater:
        device.updater.install()
        while (status := device.statuses.get(timeout=PATIENCE_S)) is None or not status.installing:
            pass
    left_behind = device.updater._thread
    assert left_behind.is_alive()
    server.open.set()
    left_behind.join(PATIENCE_S)
    assert device.statuses.empty()
    assert newest_classifier(config).bundle.path == bundle_path
    assert Device(config).install() is None
    assert newest_classifier(config).bundle.manifest.release == 2


def test_an_unreachable_server_is_retried(
    config: Config, web: Path, bundle_path: Path, server: UpdateWeb, caplog: pytest.LogCaptureFixture
) -> None:
    """The same error is logged only once, as is that of a missing file."""
    device = Device(config)
    with device.updater, caplog.at_level(logging.WARNING):
        device.statuses.get(timeout=PATIENCE_S)
        for _ in range(2):
            device.updater.install()
            status = device.statuses.get(timeout=PATIENCE_S)
            assert status is not None
            assert status.error == (
                f"{server.url}manifest.json: the server responded with 404 Not Found. "
                "Check the URL, and that the server is running; the agent retries later."
            )
        publish(web, bundle_path, 2, KEY)
        (web / "golden.npz").rename(web / "later")
        for _ in range(2):
            device.updater.install()
            assert [status and status.error is None for status in (device.statuses.get(), device.statuses.get())] == [
                True, False,
            ]  # fmt: skip
        (web / "later").rename(web / "golden.npz")
        device.updater.install()
        while device.statuses.get(timeout=PATIENCE_S) is not None:
            pass
    assert [record.getMessage().count("404 Not Found") for record in caplog.records] == [1, 1]


def test_nothing_is_installed_without_a_command_if_not_automatic(config: Config, web: Path, bundle_path: Path) -> None:
    """The device reports the newer release, and waits for the command to install it."""
    publish(web, bundle_path, 2, KEY)
    update = config.update.model_copy(update={"automatic": False, "interval_h": 0.5 / 3600})
    device = Device(config.model_copy(update={"update": update}))
    with device.updater:
        statuses = [device.statuses.get(timeout=PATIENCE_S) for _ in range(3)]
        assert [status and status.latest and status.latest.release for status in statuses] == [None, 2, 2]
        assert not (config.device.state_dir / "models").exists()
        device.updater.install()
        while device.statuses.get(timeout=PATIENCE_S) is not None:
            pass
    assert newest_classifier(config).bundle.manifest.release == 2


def test_a_newer_release_is_installed_automatically(config: Config, web: Path, bundle_path: Path) -> None:
    """At the latest after the interval."""
    publish(web, bundle_path, 2, KEY)
    update = config.update.model_copy(update={"interval_h": 0.5 / 3600})
    device = Device(config.model_copy(update={"update": update}))
    with device.updater:
        while device.statuses.get(timeout=PATIENCE_S) is not None:
            pass
    assert newest_classifier(config).bundle.manifest.release == 2


@pytest.mark.parametrize("name", ["manifest.json", "manifest.json.sig", "golden.npz"])
def test_a_release_that_is_damaged_on_disk_is_skipped(
    config: Config, web: Path, bundle_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The device falls back to the installed model, logs why, and installs the release again."""
    publish(web, bundle_path, 2, KEY)
    Device(config).install()
    damage(config.device.state_dir / "models" / "2" / name)
    with caplog.at_level(logging.WARNING):
        assert newest_classifier(config).bundle.manifest == read_manifest(bundle_path)
    assert caplog.text.count("skipped: ") == 1
    assert Device(config).install() is None
    assert newest_classifier(config).bundle.manifest.release == 2


def test_releases_signed_with_a_revoked_key_are_not_used(config: Config, web: Path, bundle_path: Path) -> None:
    """Likewise with another model or without any key; without `url` alone, the release is still used."""
    publish(web, bundle_path, 2, KEY)
    Device(config).install()
    for changes, release in (
        ({"public_keys": (public_key(new_signing_key()),)}, 1),
        ({"url": None, "public_keys": ()}, 1),
        ({"url": None}, 2),
    ):
        update = config.update.model_copy(update=changes)
        assert newest_classifier(config.model_copy(update={"update": update})).bundle.manifest.release == release
    other = renamed(bundle_path, web.parent / "other")
    model = config.model.model_copy(update={"path": other})
    assert newest_classifier(config.model_copy(update={"model": model})).bundle.path == other


def test_untrusted_releases_with_higher_numbers_do_not_block_an_installation(
    config: Config, web: Path, bundle_path: Path
) -> None:
    """After a key is revoked or the model changed, lower release numbers than the old ones are installed."""
    for release in (8, 9):
        publish(web, bundle_path, release, KEY)
        Device(config).install()
    key = new_signing_key()
    update = config.update.model_copy(update={"public_keys": (public_key(key),)})
    recovered = config.model_copy(update={"update": update})
    for release in (2, 3):
        publish(web, bundle_path, release, key)
        assert Device(recovered).install() is None
        assert newest_classifier(recovered).bundle.manifest.release == release
    assert {path.name for path in (config.device.state_dir / "models").iterdir()} == {"2", "3"}
    other = renamed(bundle_path, web.parent / "other")
    switched = recovered.model_copy(update={"model": config.model.model_copy(update={"path": other})})
    publish(web, other, 2, key)
    assert Device(switched).install() is None
    assert newest_classifier(switched).bundle.manifest.name == "other"
    assert {path.name for path in (config.device.state_dir / "models").iterdir()} == {"2"}


def test_a_runtime_that_fails_with_a_release_leaves_the_installed_model(
    config: Config, web: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The device starts even if an installed release makes a changed runtime fail."""
    publish(web, bundle_path, 2, KEY)
    Device(config).install()

    def changed_since(path: Path, **options: Any) -> BundleClassifier:
        if path != bundle_path:
            raise RuntimeError("an operator is not known")
        return BundleClassifier(path, **options)

    monkeypatch.setattr(adapters, "BundleClassifier", changed_since)
    assert newest_classifier(config).bundle.path == bundle_path
    assert "models/2: does not run on this device (an operator is not known)" in caplog.text


def test_the_doctor_checks_the_model_that_the_agent_runs(config: Config, web: Path, bundle_path: Path) -> None:
    """Also without an update server. Skipped releases and an unusable fallback are reported."""
    installed = web.parent / "installed"
    shutil.copytree(bundle_path, installed)
    model = config.model.model_copy(update={"path": installed})
    config = config.model_copy(update={"model": model})
    publish(web, bundle_path, 2, KEY)
    Device(config).install()
    update = config.update.model_copy(update={"url": None})
    config = config.model_copy(update={"update": update})
    release = config.device.state_dir / "models" / "2"
    [found] = run_checks([check_model(config)])
    assert found.status is Outcome.OK
    assert found.detail.startswith("ferplus 2.0.0 (release 2) passed its self-test on ")
    damage(installed / "golden.npz")
    [found] = run_checks([check_model(config)])
    assert found.status is Outcome.WARN
    assert found.detail.startswith("ferplus 2.0.0 (release 2) passed")
    assert f"the fallback, model.path, cannot be used: {installed}/golden.npz: has " in found.detail
    shutil.copy(bundle_path / "golden.npz", installed)
    damage(release / "golden.npz")
    [found] = run_checks([check_model(config)])
    assert (found.status, found.exit_code) == (Outcome.WARN, 0)
    assert found.detail.startswith("ferplus 1.0.0 (release 1) passed")
    assert f"; skipped: {release}/golden.npz: has " in found.detail
    assert found.remedy == "Copy the bundle from its source again"


def test_nothing_is_installed_where_the_agent_could_not_be_opened_again(
    config: Config, web: Path, bundle_path: Path, tmp_path: Path
) -> None:
    """A working agent is not closed if a file it needs to be opened again is missing."""
    password = tmp_path / "password"
    mqtt = config.mqtt.model_copy(update={"password_file": password})
    publish(web, bundle_path, 2, KEY)
    assert "password: the password cannot be read" in refusal(config.model_copy(update={"mqtt": mqtt}))
    password.write_text("secret")
    assert Device(config.model_copy(update={"mqtt": mqtt})).install() is None


def test_a_full_disk_is_left_some_room(
    config: Config, web: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Undelivered events need the disk space."""
    publish(web, bundle_path, 2, KEY)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert "only 1000000 are free. Free some disk space." in refusal(config)


def test_an_encrypted_server_is_trusted_where_its_authority_is(
    config: Config, web: Path, bundle_path: Path, certificates: Certificates
) -> None:
    """A private CA is set with `ca_file`."""
    publish(web, bundle_path, 2, KEY)
    identity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity.load_cert_chain(certificates.broker, certificates.broker_key)
    with UpdateWeb(web, tls=identity) as server:
        update = config.update.model_copy(update={"url": server.url})
        config = config.model_copy(update={"update": update})
        assert refusal(config) == (
            f"{server.url}manifest.json: the server's certificate is not trusted (unable to get local issuer "
            "certificate). Set update.ca_file to its CA, and use a host name from its certificate in update.url."
        )
        update = update.model_copy(update={"ca_file": certificates.ca})
        otherwise = update.model_copy(update={"url": server.url.replace("localhost", "127.0.0.1")})
        assert (
            "not trusted (IP address mismatch, certificate is not valid for '127.0.0.1'). Set update.ca_file"
            in refusal(config.model_copy(update={"update": otherwise}))
        )
        assert Device(config.model_copy(update={"update": update})).install() is None


def test_an_expired_certificate_has_its_own_remedy(web: Path, tmp_path: Path, certificates: Certificates) -> None:
    """An expired certificate may be due to an unset clock; the remedy names the clock, not the CA."""
    ca, own = certificates.ca, certificates.broker
    expired, request = tmp_path / "expired.crt", tmp_path / "request"
    for command in (
        f"-x509toreq -in {own} -signkey {certificates.broker_key} -out {request}",
        f"-req -in {request} -CA {ca} -CAkey {ca.with_suffix('.key')} -set_serial 1 -days -1 -out {expired}",
    ):
        every = ["openssl", "x509", "-copy_extensions", "copyall", *command.split()]
        subprocess.run(every, check=True, capture_output=True)
    identity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity.load_cert_chain(expired, certificates.broker_key)
    with UpdateWeb(web, tls=identity) as server, pytest.raises(UpdateError) as refused:
        download.download(server.url, max_bytes=1, ca_file=certificates.ca)
    assert str(refused.value) == (
        f"{server.url}: the server's certificate is not trusted (certificate has expired). Renew the certificate, or "
        "check this device's clock."
    )


def test_what_keeps_encryption_from_beginning_is_named(tmp_path: Path, server: UpdateWeb) -> None:
    """A port without TLS, and a CA file without a certificate."""
    address = server.url.replace("http://", "https://")
    with pytest.raises(UpdateError, match=r"TLS error \([A-Z_]+\)\. Check that the server .* serves https"):
        download.download(address, max_bytes=1)
    (tmp_path / "ca.crt").write_text("not a certificate\n")
    with pytest.raises(UpdateError, match=rf"{tmp_path}/ca.crt: the CA certificate cannot be read \([A-Z_]+\)"):
        download.download(address, max_bytes=1, ca_file=tmp_path / "ca.crt")


@pytest.mark.parametrize("folder", ["the hall/größe", "the%20hall/gr%C3%B6%C3%9Fe", "a+b&c;d=e,f~g/@home"])
def test_a_folder_may_have_any_name(
    config: Config, web: Path, bundle_path: Path, server: UpdateWeb, folder: str
) -> None:
    """The URL may be percent-encoded or not."""
    publish(web / unquote(folder), bundle_path, 2, KEY)
    update = config.update.model_copy(update={"url": server.url + folder})
    assert Device(config.model_copy(update={"update": update})).install() is None


@contextmanager
def answering(*parts: bytes, for_ever: bool = False, pause_s: float = 0) -> Iterator[str]:
    """The URL of a server that sends a fixed response.

    Args:
        parts: The parts of the response.
        for_ever: Whether to repeat the last part.
        pause_s: Pause after each part.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.settimeout(5)  # who has gone may leave it waiting for minutes
                connection.recv(1000)
                with suppress(OSError):  # who asked has gone
                    for part in chain(parts, repeat(parts[-1]) if for_ever else ()):
                        connection.sendall(part)
                        time.sleep(pause_s)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/manifest.json"
        thread.join()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("parts", "for_ever", "told"),
    [
        (
            (b"HTTP/1.1 302 Found\r\nLocation: ftp://elsewhere/\r\n\r\n", b"x" * 1000),
            True,
            "the server responded with 302 Found",
        ),
        ((b"HTTP/1.1 499 " + b"x" * 1000 + b"\r\n\r\n",), False, "the server responded with 499. "),
        ((OK + b"\r\n", b"x" * 1000), True, "is larger than 5000 bytes"),
        ((OK + b"Content-Length: 900\r\n\r\nabc",), False, "is incomplete: 897 bytes are missing"),
        (
            (OK + b"Content-Encoding: gzip\r\n\r\nabc",),
            False,
            "the server sends it compressed, which was not",
        ),
        (
            (OK + b"Content-Encoding: identity\r\nContent-Length: 9\r\n\r\n",),
            False,
            "is incomplete: 9 bytes are missing",
        ),
        ((OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc",), False, "cannot be downloaded (IncompleteRead"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n",), True, "took longer than 1 s"),
        ((b"SSH-2.0-OpenSSH_9.2\r\n",), False, "cannot be downloaded ("),
        ((b"",), False, "cannot be downloaded ("),
    ],
)
def test_malicious_responses_are_rejected(
    parts: tuple[bytes, ...], for_ever: bool, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No response can exhaust the memory, block the agent, redirect it, or be mistaken for the file."""
    if for_ever:
        monkeypatch.setattr(download, "_BASE_TIMEOUT_S", 1.0)
        monkeypatch.setattr(download, "_MIN_BYTES_PER_S", 1e6)
    with answering(*parts, for_ever=for_ever) as url, pytest.raises(UpdateError) as refused:
        download.download(url, max_bytes=5000)
    assert str(refused.value).startswith(f"{url}: {told}")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("header", [b"Content-Length: 900\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_a_download_that_takes_too_long_is_cut_off(header: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout is reported, and a partial file is not accepted."""
    monkeypatch.setattr(download, "_BASE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(download, "_MIN_BYTES_PER_S", 1e6)
    dripping = answering(OK + header + b"\r\n", b"1\r\nx\r\n", for_ever=True, pause_s=0.1)
    with dripping as url, pytest.raises(UpdateError) as cut_off:
        download.download(url, max_bytes=5000)
    assert str(cut_off.value) == (
        f"{url}: took longer than 1 s. Use a faster connection, or install the release manually; the agent "
        "retries later."
    )


def test_a_large_file_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow connections work: the time limit grows with the size."""
    monkeypatch.setattr(download, "_BASE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(download, "_MIN_BYTES_PER_S", 50.0)
    with answering(OK + b"Content-Length: 500\r\n\r\n", *[b"x" * 100] * 5, pause_s=0.1) as url:
        assert download.download(url, max_bytes=500) == b"x" * 500


def test_an_ipv6_address_is_a_servers_address_too() -> None:
    """The last group of an IPv6 address is not mistaken for a port."""
    with pytest.raises(UpdateError) as caught:
        download.download("http://[::1]/manifest.json", max_bytes=1)
    assert "Name or service not known" not in str(caught.value)


def test_the_doctor_checks_the_server(config: Config, web: Path, bundle_path: Path, server: UpdateWeb) -> None:
    """The release on the server, whether it is newer, and its errors."""
    publish(web, bundle_path, 2, KEY)
    [found] = run_checks(check_update(config))
    assert (found.status, found.detail) == (
        Outcome.OK, f"{server.url} has ferplus 2.0.0 (release 2), newer than release 1 in use here",
    )  # fmt: skip
    publish(web, bundle_path, 2, new_signing_key())
    [found] = run_checks(check_update(config))
    assert (found.status, found.exit_code) == (Outcome.FAIL, 4)
    publish(web, bundle_path, 2, KEY, edit=lambda manifest: manifest.update(name="other"))
    [found] = run_checks(check_update(config))
    assert (found.status, found.exit_code) == (Outcome.FAIL, 4)
    shutil.rmtree(web)
    [found] = run_checks(check_update(config))
    assert (found.status, found.exit_code) == (Outcome.FAIL, 9)
    update = config.update.model_copy(update={"url": None})
    assert list(run_checks(check_update(config.model_copy(update={"update": update})))) == []
