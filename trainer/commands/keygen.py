"""`trainer keygen`: generates a key pair for signing bundles."""

from __future__ import annotations

import argparse
import os

from edge.contract.errors import UserError
from edge.contract.signature import new_signing_key, public_key
from trainer.commands.output import Console


def run(arguments: argparse.Namespace) -> int:
    """Writes the private key to a file, prints the public key and returns 0."""
    signing_key = new_signing_key()
    try:
        descriptor = os.open(arguments.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        remedy = "Choose another file: if a private key is lost, devices that trust it can no longer be updated"
        raise UserError("already exists", where=arguments.key, remedy=remedy) from error
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", where=arguments.key,
                        remedy="Choose a file in a writable folder") from error  # fmt: skip
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{signing_key}\n")
    except BaseException:  # e.g. a full disk: do not leave a partial key that blocks the next attempt
        arguments.key.unlink()
        raise
    console = Console()
    console.print(f"Private key written to {arguments.key}. Keep it off the devices, and keep a backup.")
    console.print("Configuration of the devices:\n\n[update]")
    console.print(f'public_keys = ["{public_key(signing_key)}"]')
    return 0
