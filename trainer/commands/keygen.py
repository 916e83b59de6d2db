"""`trainer keygen`: makes the pair of keys with which bundles are signed and recognised."""

from __future__ import annotations

import argparse
import os

from edge.contract.errors import UserError
from edge.contract.signature import new_signing_key, public_key
from trainer.commands.output import Console


def run(arguments: argparse.Namespace) -> int:
    """Writes the private key to a file, prints the public one, and returns 0."""
    signing_key = new_signing_key()
    try:
        descriptor = os.open(arguments.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        remedy = "Name another file: devices that trust a key that is gone take no update"
        raise UserError("is there already", where=arguments.key, remedy=remedy) from error
    except OSError as error:
        raise UserError(f"cannot be written ({error.strerror})", where=arguments.key,
                        remedy="Name a file in a folder that you may write to") from error  # fmt: skip
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{signing_key}\n")
    except BaseException:  # a full disk: half a key would be neither a key nor room for one
        arguments.key.unlink()
        raise
    console = Console()
    console.print(f"{arguments.key}: the private key. Keep it where no device can read it, and a copy elsewhere.")
    console.print("For the devices:\n\n[update]")
    console.print(f'public_keys = ["{public_key(signing_key)}"]')
    return 0
