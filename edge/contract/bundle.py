"""A model bundle on disk: its manifest, its files checked against their hashes, and its self-test."""

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

_REMEDY = "Copy the bundle again from where it came"


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A bundle whose every file is as its manifest promises.

    Attributes:
        path: Its folder.
        manifest: What it says of itself.
        files: Content of each file of the manifest.
    """

    path: Path
    manifest: Manifest
    files: dict[str, bytes]

    @property
    def model(self) -> bytes:
        """The .tflite file."""
        return self.files[self.manifest.model]

    @property
    def model_sha256(self) -> str:
        """Identity of the model in messages."""
        return self.manifest.files[self.manifest.model].sha256

    def self_test(self, model: EmotionModel) -> None:
        """Runs the golden inputs through `model`, which holds this bundle's file.

        Raises:
            BundleCorrupt: There are no golden vectors for this model, or a logit differs by more than the tolerance:
                the runtime computes something else here.
        """
        inputs, expected = self._golden()
        difference = float(np.abs(model.outputs(inputs) - expected).max())
        if not difference <= self.manifest.golden.tolerance:
            raise BundleCorrupt(
                f"self-test failed: a logit is off by {difference:.3f} (allowed: {self.manifest.golden.tolerance:.3f})",
                where=self.path, remedy="Install another version of the TFLite runtime, or export the bundle again",
            )  # fmt: skip

    def _golden(self) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Inputs uint8 (N, height, width) and their logits before calibration, float32 (N, labels), N at least 1."""
        name, size = self.manifest.golden.file, self.manifest.input
        try:
            with np.load(io.BytesIO(self.files[name]), allow_pickle=False) as arrays:
                inputs, logits = arrays["inputs"], arrays["logits"]
        except Exception as error:  # zipfile, zlib, tokenize and numpy each have errors of their own for a damaged file
            raise BundleCorrupt(f"holds no golden vectors ({error})", where=self.path / name, remedy=_REMEDY) from error
        count = inputs.shape[0] if inputs.ndim else 0
        shapes = (count, size.height_px, size.width_px), (count, len(self.manifest.labels))
        types = inputs.dtype, logits.dtype
        if count == 0 or (inputs.shape, logits.shape) != shapes or types != (np.uint8, np.float32):
            raise BundleCorrupt("holds golden vectors of another model", where=self.path / name, remedy=_REMEDY)
        return inputs, logits


def load_bundle(path: Path, *, agent_version: str | None = None) -> Bundle:
    """Reads a bundle and checks every file of it.

    Args:
        path: The bundle's folder.
        agent_version: `major.minor.patch` of the agent that is going to run it; None leaves that unchecked.

    Raises:
        BundleError: It is missing, corrupt, or made for another version.
    """
    manifest = read_manifest(path)
    if agent_version is not None:
        require_agent(manifest, agent_version, where=path)
    return Bundle(path, manifest, {name: _read_checked(path / name, entry) for name, entry in manifest.files.items()})


def require_agent(manifest: Manifest, agent_version: str, *, where: str | Path) -> None:
    """Refuses a bundle that is for a newer agent.

    Args:
        manifest: The bundle's.
        agent_version: `major.minor.patch` of the agent that is going to run it.
        where: Where the manifest came from, for the error.

    Raises:
        BundleIncompatible: It is.
    """
    if _numbers(agent_version) < _numbers(manifest.minimum_agent_version):
        raise BundleIncompatible(f"needs agent {manifest.minimum_agent_version}, this is {agent_version}",
                                 where=where, remedy="Update the agent")  # fmt: skip


def require_as_promised(content: bytes, promised: FileEntry, *, where: str | Path) -> None:
    """Refuses a file that is not the one of the manifest.

    Raises:
        BundleCorrupt: Its size or checksum is another.
    """
    if len(content) != promised.size:
        raise BundleCorrupt(f"has {len(content)} bytes, the manifest says {promised.size}", where=where, remedy=_REMEDY)
    found = hashlib.sha256(content).hexdigest()
    if found != promised.sha256:
        raise BundleCorrupt(f"has sha256 {found[:12]}..., the manifest says {promised.sha256[:12]}...",
                            where=where, remedy=_REMEDY)  # fmt: skip


def _read_checked(path: Path, promised: FileEntry) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise BundleMissing("is named by the manifest and not there", where=path, remedy=_REMEDY) from error
    except OSError as error:
        raise BundleError(f"cannot be read ({error.strerror})", where=path, remedy="Check its permissions") from error
    require_as_promised(content, promised, where=path)
    return content


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])
