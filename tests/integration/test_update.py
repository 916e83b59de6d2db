"""Model updates from a real web server: accepted and rejected releases, and fallbacks for damaged ones."""

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
from tests.update_server import UpdateHTTPServer, publish

KEY = new_signing_key()

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """The folder that the server serves."""
    folder = tmp_path / "web"
    folder.mkdir()
    return folder


@pytest.fixture
def server(web: Path) -> Iterator[UpdateHTTPServer]:
    """The update server."""
    with UpdateHTTPServer(web) as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, bundle_path: Path, server: UpdateHTTPServer) -> Config:
    """The configuration of a device that trusts one key and runs release 1."""
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


def truncate(path: Path) -> None:
    """Removes the last byte of a file."""
    path.write_bytes(path.read_bytes()[:-1])


def installation_error(config: Config) -> str:
    """Requests an update that must fail, and returns the error."""
    status = Device(config).install()
    assert status is not None
    assert status.error is not None
    assert newest_classifier(config).bundle.path == config.model.path
    return status.error


def test_a_signed_release_replaces_an_older_one(
    config: Config, web: Path, bundle_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The previous release is kept as a fallback. An older one is never installed, and the log explains why."""
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
    truncate(config.device.state_dir / "models" / "4" / "golden.npz")
    assert newest_classifier(config).bundle.manifest.release == 3


def test_a_newer_model_shipped_with_the_agent_is_preferred(config: Config, web: Path, bundle_path: Path) -> None:
    """An upgrade of the agent may bring a model that is newer than the last update."""
    publish(web, bundle_path, 2, KEY)
    Device(config).install()
    publish(web.parent / "upgraded", bundle_path, 3, KEY)
    model = config.model.model_copy(update={"path": web.parent / "upgraded"})
    assert newest_classifier(config.model_copy(update={"model": model})).bundle.manifest.release == 3


def test_a_release_without_a_trusted_signature_is_rejected(config: Config, web: Path, bundle_path: Path) -> None:
    """Releases signed with another key, without a signature, or changed after signing are rejected."""
    error = "manifest.json: is not signed with a trusted key. Sign the bundle"
    publish(web, bundle_path, 2, new_signing_key())
    assert error in installation_error(config)
    publish(web, bundle_path, 2, KEY)
    manifest = web / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    assert error in installation_error(config)
    (web / "manifest.json.sig").unlink()
    assert "manifest.json.sig: the server responded with 404 Not Found" in installation_error(config)


@pytest.mark.parametrize(
    ("name", "error"),
    [("manifest.json", "is a web page, not a manifest"), ("manifest.json.sig", "is a web page, not a signature")],
)
def test_a_web_page_is_not_reported_as_unsigned(
    config: Config, web: Path, bundle_path: Path, name: str, error: str
) -> None:
    """A catch-all page or a captive portal is reported as such, not as an unsigned release."""
    publish(web, bundle_path, 2, KEY)
    (web / name).write_text("\n<!doctype html>\n<title>Welcome</title>\n")
    assert installation_error(config) == (
        f"{config.update.url}{name}: {error}. Check that update.url is the URL of the bundle's folder."
    )


@pytest.mark.parametrize(
    ("edit", "error"),
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
def test_a_signed_release_that_is_unusable_here_is_rejected(
    config: Config, web: Path, bundle_path: Path, edit: Edit, error: str
) -> None:
    """A release must be for this model and agent, have a valid and supported manifest, and consist of its files."""
    publish(web, bundle_path, 2, KEY, edit=edit)
    assert error in installation_error(config)


def test_a_damaged_download_is_rejected(config: Config, web: Path, bundle_path: Path) -> None:
    """Every file must have the checksum and the size in the signed manifest."""
    publish(web, bundle_path, 2, KEY)
    model = next(web.glob("*.tflite"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert f"{model.name}: has sha256" in installation_error(config)
    model.write_bytes(content[:-1])
    assert f"{model.name}: has {len(content) - 1} bytes, the manifest says {len(content)}" in installation_error(config)


def test_a_model_that_fails_its_self_test_is_rejected(config: Config, web: Path, bundle_path: Path) -> None:
    """The self-test is run on this device before the release is installed."""
    wrong = with_wrong_golden_vectors(bundle_path, web.parent / "wrong")
    publish(web, wrong, 2, KEY, edit=update_checksum(wrong))
    assert "self-test failed: a logit is off by 9" in installation_error(config)
    assert list((config.device.state_dir / "models").iterdir()) == []


@pytest.mark.parametrize(
    ("commands", "error"),
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
    config: Config, web: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, commands: str, error: str
) -> None:
    """The self-test runs in a separate process; the error reports how it ended, or that it timed out."""
    if "sleep" in commands:
        monkeypatch.setattr(trial, "_WITHIN_S", 1.0)
    interpreter = web.parent / "python"
    interpreter.write_text(f"#!/bin/sh\n{commands}\n")
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    publish(web, bundle_path, 2, KEY)
    assert error in installation_error(config)


def test_a_start_does_not_disturb_a_running_installation(config: Config, web: Path, bundle_path: Path) -> None:
    """After a reload, a thread of the previous agent may still be installing a release, whose files are kept."""
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
    """If the self-test cannot be started, the error says why, and nothing is installed untested."""
    monkeypatch.setattr(sys, "executable", str(web.parent / "gone"))
    publish(web, bundle_path, 2, KEY)
    assert (
        "gone: cannot be started to test a newer model (No such file or directory). Check that"
        in installation_error(config)
    )


def test_a_release_that_fails_is_not_downloaded_again(config: Config, web: Path, bundle_path: Path) -> None:
    """A release that failed its self-test is not downloaded again, and its error remains in the status."""
    wrong = with_wrong_golden_vectors(bundle_path, web.parent / "wrong")
    publish(web, wrong, 2, KEY, edit=update_checksum(wrong))
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


def with_wrong_golden_vectors(bundle: Path, copy: Path) -> Path:
    """Copies a bundle, with golden vectors that do not match the outputs of its model."""
    shutil.copytree(bundle, copy)
    vectors = dict(np.load(bundle / "golden.npz"))
    np.savez_compressed(copy / "golden.npz", **{**vectors, "logits": vectors["logits"] + 9})
    return copy


def with_other_name(bundle: Path, copy: Path) -> Path:
    """Copies a bundle, with `other` as the name of its model."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_bytes())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"name": "other"}))
    return copy


def update_checksum(bundle: Path) -> Edit:
    """Returns an edit that sets checksum and size of the bundle's golden vectors in a manifest."""

    def edit(manifest: dict[str, Any]) -> None:
        content = (bundle / "golden.npz").read_bytes()
        manifest["files"]["golden.npz"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}

    return edit


def test_an_agent_that_stops_during_a_download_installs_nothing(
    config: Config, web: Path, bundle_path: Path, server: UpdateHTTPServer
) -> None:
    """It does not wait for a slow server, and a release that arrives afterwards is not installed."""
    publish(web, bundle_path, 2, KEY)
    server.unblocked.clear()
    device = Device(config)
    with device.updater:
        device.updater.install()
        while (status := device.statuses.get(timeout=PATIENCE_S)) is None or not status.installing:
            pass
    abandoned = device.updater._thread
    assert abandoned.is_alive()
    server.unblocked.set()
    abandoned.join(PATIENCE_S)
    assert device.statuses.empty()
    assert newest_classifier(config).bundle.path == bundle_path
    assert Device(config).install() is None
    assert newest_classifier(config).bundle.manifest.release == 2


def test_an_unreachable_server_is_retried(
    config: Config, web: Path, bundle_path: Path, server: UpdateHTTPServer, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that repeats is logged only once, whether the manifest or another file is missing."""
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
    """It is installed at the latest after the update interval."""
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
    truncate(config.device.state_dir / "models" / "2" / name)
    with caplog.at_level(logging.WARNING):
        assert newest_classifier(config).bundle.manifest == read_manifest(bundle_path)
    assert caplog.text.count("skipped: ") == 1
    assert Device(config).install() is None
    assert newest_classifier(config).bundle.manifest.release == 2


def test_releases_signed_with_a_revoked_key_are_not_used(config: Config, web: Path, bundle_path: Path) -> None:
    """Nor are releases of another model, or any without public keys; without `url` alone, the release is still used."""
    publish(web, bundle_path, 2, KEY)
    Device(config).install()
    for changes, release in (
        ({"public_keys": (public_key(new_signing_key()),)}, 1),
        ({"url": None, "public_keys": ()}, 1),
        ({"url": None}, 2),
    ):
        update = config.update.model_copy(update=changes)
        assert newest_classifier(config.model_copy(update={"update": update})).bundle.manifest.release == release
    other = with_other_name(bundle_path, web.parent / "other")
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
    other = with_other_name(bundle_path, web.parent / "other")
    switched = recovered.model_copy(update={"model": config.model.model_copy(update={"path": other})})
    publish(web, other, 2, key)
    assert Device(switched).install() is None
    assert newest_classifier(switched).bundle.manifest.name == "other"
    assert {path.name for path in (config.device.state_dir / "models").iterdir()} == {"2"}


def test_a_release_that_fails_with_a_changed_runtime_is_skipped(
    config: Config, web: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If an installed release no longer works after a change of the runtime, the model at model.path is used."""
    publish(web, bundle_path, 2, KEY)
    Device(config).install()

    def changed_runtime(path: Path, **options: Any) -> BundleClassifier:
        if path != bundle_path:
            raise RuntimeError("an operator is not known")
        return BundleClassifier(path, **options)

    monkeypatch.setattr(adapters, "BundleClassifier", changed_runtime)
    assert newest_classifier(config).bundle.path == bundle_path
    assert "models/2: does not run on this device (an operator is not known)" in caplog.text


def test_the_doctor_checks_the_model_that_the_agent_runs(config: Config, web: Path, bundle_path: Path) -> None:
    """This also applies without an update server. Skipped releases and an unusable fallback are reported."""
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
    truncate(installed / "golden.npz")
    [found] = run_checks([check_model(config)])
    assert found.status is Outcome.WARN
    assert found.detail.startswith("ferplus 2.0.0 (release 2) passed")
    assert f"the fallback, model.path, cannot be used: {installed}/golden.npz: has " in found.detail
    shutil.copy(bundle_path / "golden.npz", installed)
    truncate(release / "golden.npz")
    [found] = run_checks([check_model(config)])
    assert (found.status, found.exit_code) == (Outcome.WARN, 0)
    assert found.detail.startswith("ferplus 1.0.0 (release 1) passed")
    assert f"; skipped: {release}/golden.npz: has " in found.detail
    assert found.remedy == "Copy the bundle from its source again"


def test_nothing_is_installed_if_the_agent_could_not_be_reopened(
    config: Config, web: Path, bundle_path: Path, tmp_path: Path
) -> None:
    """A running agent is not closed for a new model while a file that it needs for reopening is missing."""
    password = tmp_path / "password"
    mqtt = config.mqtt.model_copy(update={"password_file": password})
    publish(web, bundle_path, 2, KEY)
    assert "password: the password cannot be read" in installation_error(config.model_copy(update={"mqtt": mqtt}))
    password.write_text("secret")
    assert Device(config.model_copy(update={"mqtt": mqtt})).install() is None


def test_nothing_is_installed_if_disk_space_is_low(
    config: Config, web: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The remaining space is needed for undelivered events."""
    publish(web, bundle_path, 2, KEY)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    assert "only 1000000 are free. Free some disk space." in installation_error(config)


def test_an_https_server_is_trusted_if_its_ca_is(
    config: Config, web: Path, bundle_path: Path, certificates: Certificates
) -> None:
    """A private CA is configured as `ca_file`, and the certificate must be valid for the host in the URL."""
    publish(web, bundle_path, 2, KEY)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates.broker, certificates.broker_key)
    with UpdateHTTPServer(web, tls=tls) as server:
        update = config.update.model_copy(update={"url": server.url})
        config = config.model_copy(update={"update": update})
        assert installation_error(config) == (
            f"{server.url}manifest.json: the server's certificate is not trusted (unable to get local issuer "
            "certificate). Set update.ca_file to its CA, and use a host name from its certificate in update.url."
        )
        update = update.model_copy(update={"ca_file": certificates.ca})
        by_address = update.model_copy(update={"url": server.url.replace("localhost", "127.0.0.1")})
        assert (
            "not trusted (IP address mismatch, certificate is not valid for '127.0.0.1'). Set update.ca_file"
            in installation_error(config.model_copy(update={"update": by_address}))
        )
        assert Device(config.model_copy(update={"update": update})).install() is None


def test_an_expired_certificate_has_its_own_remedy(web: Path, tmp_path: Path, certificates: Certificates) -> None:
    """The remedy mentions the clock, which may be wrong, and not the CA."""
    ca, server_certificate = certificates.ca, certificates.broker
    expired, request = tmp_path / "expired.crt", tmp_path / "request"
    for command in (
        f"-x509toreq -in {server_certificate} -signkey {certificates.broker_key} -out {request}",
        f"-req -in {request} -CA {ca} -CAkey {ca.with_suffix('.key')} -set_serial 1 -days -1 -out {expired}",
    ):
        arguments = ["openssl", "x509", "-copy_extensions", "copyall", *command.split()]
        subprocess.run(arguments, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(expired, certificates.broker_key)
    with UpdateHTTPServer(web, tls=tls) as server, pytest.raises(UpdateError) as caught:
        download.download(server.url, max_bytes=1, ca_file=certificates.ca)
    assert str(caught.value) == (
        f"{server.url}: the server's certificate is not trusted (certificate has expired). Renew the certificate, or "
        "check this device's clock."
    )


def test_tls_errors_name_their_cause(tmp_path: Path, server: UpdateHTTPServer) -> None:
    """The causes are a port without TLS, and a CA file without a certificate."""
    address = server.url.replace("http://", "https://")
    with pytest.raises(UpdateError, match=r"TLS error \([A-Z_]+\)\. Check that the server .* serves https"):
        download.download(address, max_bytes=1)
    (tmp_path / "ca.crt").write_text("not a certificate\n")
    with pytest.raises(UpdateError, match=rf"{tmp_path}/ca.crt: the CA certificate cannot be read \([A-Z_]+\)"):
        download.download(address, max_bytes=1, ca_file=tmp_path / "ca.crt")


@pytest.mark.parametrize("folder", ["the hall/größe", "the%20hall/gr%C3%B6%C3%9Fe", "a+b&c;d=e,f~g/@home"])
def test_the_url_may_contain_any_folder_name(
    config: Config, web: Path, bundle_path: Path, server: UpdateHTTPServer, folder: str
) -> None:
    """Special characters may be percent-encoded or not."""
    publish(web / unquote(folder), bundle_path, 2, KEY)
    update = config.update.model_copy(update={"url": server.url + folder})
    assert Device(config.model_copy(update={"update": update})).install() is None


@contextmanager
def fixed_response_server(*parts: bytes, endless: bool = False, pause_s: float = 0) -> Iterator[str]:
    """Runs a server that sends a fixed response, and yields its URL.

    Args:
        parts: The parts of the response.
        endless: Whether to repeat the last part until the client disconnects.
        pause_s: Pause after each part.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.settimeout(5)  # otherwise, a client that is gone could block it for minutes
                connection.recv(1000)
                with suppress(OSError):  # the client has disconnected
                    for part in chain(parts, repeat(parts[-1]) if endless else ()):
                        connection.sendall(part)
                        time.sleep(pause_s)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/manifest.json"
        thread.join()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("parts", "endless", "error"),
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
    parts: tuple[bytes, ...], endless: bool, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No response can exhaust the memory, block the agent, redirect it, or be mistaken for the file."""
    if endless:
        monkeypatch.setattr(download, "_BASE_TIMEOUT_S", 1.0)
        monkeypatch.setattr(download, "_MIN_BYTES_PER_S", 1e6)
    with fixed_response_server(*parts, endless=endless) as url, pytest.raises(UpdateError) as caught:
        download.download(url, max_bytes=5000)
    assert str(caught.value).startswith(f"{url}: {error}")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("header", [b"Content-Length: 900\r\n", b"Transfer-Encoding: chunked\r\n", b""])
def test_a_download_that_takes_too_long_is_aborted(header: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout is reported, and a partial file is not accepted, whatever its transfer encoding."""
    monkeypatch.setattr(download, "_BASE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(download, "_MIN_BYTES_PER_S", 1e6)
    slow_server = fixed_response_server(OK + header + b"\r\n", b"1\r\nx\r\n", endless=True, pause_s=0.1)
    with slow_server as url, pytest.raises(UpdateError) as caught:
        download.download(url, max_bytes=5000)
    assert str(caught.value) == (
        f"{url}: took longer than 1 s. Use a faster connection, or install the release manually; the agent "
        "retries later."
    )


def test_a_large_file_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow connections work: the time limit grows with the size."""
    monkeypatch.setattr(download, "_BASE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(download, "_MIN_BYTES_PER_S", 50.0)
    with fixed_response_server(OK + b"Content-Length: 500\r\n\r\n", *[b"x" * 100] * 5, pause_s=0.1) as url:
        assert download.download(url, max_bytes=500) == b"x" * 500


def test_the_url_may_contain_an_ipv6_address() -> None:
    """The last group of an IPv6 address is not mistaken for a port."""
    with pytest.raises(UpdateError) as caught:
        download.download("http://[::1]/manifest.json", max_bytes=1)
    assert "Name or service not known" not in str(caught.value)


def test_the_doctor_checks_the_server(config: Config, web: Path, bundle_path: Path, server: UpdateHTTPServer) -> None:
    """The check reports the release on the server, whether it is newer than the one in use, and errors."""
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
