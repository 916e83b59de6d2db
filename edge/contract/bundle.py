"""A model bundle on disk: its manifest, the verification of its files, and its self-test."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.contract.errors import BundleCorrupt, BundleError, BundleIncompatible, BundleMissing
from edge.contract.inference import EmotionModel
from edge.contract.manifest import FileEntry, Manifest, read_manifest

_REMEDY = "Copy the bundle from its source again"


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle whose files have all been verified against its manifest.

    Attributes:
        path: Folder of the bundle.
        manifest: Its manifest.
        files: Content of each file listed in the manifest.
    """

    path: Path
    manifest: Manifest
    files: dict[str, bytes]

    @property
    def model(self) -> bytes:
        """Content of the .tflite file."""
        return self.files[self.manifest.model]

    @property
    def model_sha256(self) -> str:
        """SHA-256 of the .tflite file, which identifies the model in messages."""
        return self.manifest.files[self.manifest.model].sha256

    def self_test(self, model: EmotionModel) -> None:
        """Runs the golden inputs through `model`, which has loaded this bundle's .tflite file.

        Raises:
            BundleCorrupt: There are no golden vectors for this model, or a logit differs by more than the tolerance,
                that is, the runtime on this device computes different results.
        """
        inputs, expected = self._golden()
        difference = float(np.abs(model.outputs(inputs) - expected).max())
        if not difference <= self.manifest.golden.tolerance:
            raise BundleCorrupt(
                f"self-test failed: a logit is off by {difference:.3f} (allowed: {self.manifest.golden.tolerance:.3f})",
                where=self.path, remedy="Install another version of the TFLite runtime, or export the bundle again",
            )  # fmt: skip

    def _golden(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Returns inputs uint8 (N, height, width) and their uncalibrated logits float32 (N, labels), N at least 1."""
        name, size = self.manifest.golden.file, self.manifest.input
        try:
            with np.load(io.BytesIO(self.files[name]), allow_pickle=False) as arrays:
                inputs, logits = arrays["inputs"], arrays["logits"]
        except Exception as error:  # zipfile, zlib, tokenize and numpy raise various errors for a damaged file
            raise BundleCorrupt(
                f"contains no golden vectors ({error})", where=self.path / name, remedy=_REMEDY
            ) from error
        count = inputs.shape[0] if inputs.ndim else 0
        shapes = (count, size.height_px, size.width_px), (count, len(self.manifest.labels))
        types = inputs.dtype, logits.dtype
        if count == 0 or (inputs.shape, logits.shape) != shapes or types != (np.uint8, np.float32):
            raise BundleCorrupt("contains golden vectors of a different model", where=self.path / name, remedy=_REMEDY)
        return inputs, logits


def load_bundle(path: Path, *, agent_version: str | None = None) -> Bundle:
    """Reads a bundle and verifies all of its files.

    Args:
        path: Folder of the bundle.
        agent_version: Version of the agent that will run it, `major.minor.patch`; not checked if None.

    Raises:
        BundleError: The bundle is missing, corrupt, or requires another version.
    """
    manifest = read_manifest(path)
    if agent_version is not None:
        require_agent_version(manifest, agent_version, where=path)
    return Bundle(path, manifest, {name: _read_verified(path / name, entry) for name, entry in manifest.files.items()})


def require_agent_version(manifest: Manifest, agent_version: str, *, where: str | Path) -> None:
    """Checks that the agent is new enough for a bundle.

    Args:
        manifest: Manifest of the bundle.
        agent_version: Version of the agent that will run it, `major.minor.patch`.
        where: Location of the manifest, for the error message.

    Raises:
        BundleIncompatible: The bundle requires a newer agent.
    """
    if _parse_version(agent_version) < _parse_version(manifest.minimum_agent_version):
        raise BundleIncompatible(f"requires agent {manifest.minimum_agent_version}, this is {agent_version}",
                                 where=where, remedy="Update the agent")  # fmt: skip


def verify_file(content: bytes, expected: FileEntry, *, where: str | Path) -> None:
    """Verifies the content of a file against its entry in the manifest.

    Raises:
        BundleCorrupt: Its size or checksum differs.
    """
    if len(content) != expected.size:
        raise BundleCorrupt(f"has {len(content)} bytes, the manifest says {expected.size}", where=where, remedy=_REMEDY)
    found = hashlib.sha256(content).hexdigest()
    if found != expected.sha256:
        raise BundleCorrupt(f"has sha256 {found[:12]}..., the manifest says {expected.sha256[:12]}...",
                            where=where, remedy=_REMEDY)  # fmt: skip


def _read_verified(path: Path, expected: FileEntry) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BundleMissing("is listed in the manifest, but missing", where=path, remedy=_REMEDY) from error
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror})", where=path, remedy="Check its permissions") from error
    verify_file(content, expected, where=path)
    return content


def _parse_version(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])
