"""`trainer sign`: signs a bundle for distribution by a web server."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge.contract import UserError, load_bundle
from edge.contract.manifest import MANIFEST_FILE
from edge.contract.signature import SIGNATURE_FILE, public_key, sign
from trainer.commands.output import Console
from trainer.disk import atomic_replace


def run(arguments: argparse.Namespace) -> int:
    """Writes the signature next to the manifest, prints what to serve, and returns 0."""
    bundle = load_bundle(arguments.bundle)
    signing_key = _read_key(arguments.key)
    signature = sign((arguments.bundle / MANIFEST_FILE).read_bytes(), signing_key)
    _write(arguments.bundle / SIGNATURE_FILE, f"{signature}\n")
    manifest = bundle.manifest
    console = Console()
    console.print(
        f"Signed {arguments.bundle}: {manifest.name} {manifest.version}, release {manifest.release}. Serve this folder "
        f"on the update server: devices that trust {public_key(signing_key)} and run a lower release install it."
    )
    return 0


def _read_key(path: Path) -> str:
    try:
        signing_key = path.read_text(encoding="utf-8").strip()
        public_key(signing_key)
    except OSError as error:
        raise UserError(f"the key cannot be read ({error.strerror})", where=path,
                        remedy="Generate a key pair with trainer keygen") from error  # fmt: skip
    except ValueError as error:
        raise UserError("is not a private key", where=path, remedy="Give the file written by trainer keygen") from error
    return signing_key


def _write(path: Path, text: str) -> None:
    try:
        with atomic_replace(path) as fresh:
            fresh.write_text(text)
    except OSError as error:
        raise UserError(f"the signature cannot be written ({error.strerror})", where=path,
                        remedy="Copy the bundle to a writable folder and sign the copy") from error  # fmt: skip
