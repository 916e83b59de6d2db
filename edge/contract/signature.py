"""Signatures of bundles: Ed25519 (RFC 8032) over the manifest, which contains the hash of every other file.

Public keys (32 bytes) and signatures (64 bytes) are encoded in base64. Private keys have a prefix, so that they are not
mistaken for public keys. The signature is a separate file, so that signing does not change the bundle.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edge.contract.errors import BundleUntrusted

SIGNATURE_FILE: Final = "manifest.json.sig"

_KEY_BYTES: Final = 32
_PRIVATE: Final = "private-key:"


def new_signing_key() -> str:
    """Generates a random private key. Its owner decides which models the devices run."""
    from nacl.signing import SigningKey

    return _PRIVATE + _encode(bytes(SigningKey.generate()))


def public_key(signing_key: str) -> str:
    """Returns the public key that verifies the signatures of `signing_key`.

    Raises:
        ValueError: `signing_key` is not a private key.
    """
    from nacl.signing import SigningKey

    return _encode(bytes(SigningKey(_private(signing_key)).verify_key))


def sign(manifest: bytes, signing_key: str) -> str:
    """Returns the signature of the exact bytes of a manifest.

    Raises:
        ValueError: `signing_key` is not a private key.
    """
    from nacl.signing import SigningKey

    return _encode(SigningKey(_private(signing_key)).sign(manifest).signature)


def check_public_key(text: str) -> str:
    """Returns `text` if it is a well-formed public key.

    Raises:
        ValueError: It is not.
    """
    if text.startswith(_PRIVATE):
        raise ValueError(
            "is a private key, which must not be stored on a device; use the public key that `trainer keygen` printed"
        )
    _key(text)
    return text


def verify_signature(manifest: bytes, signature: bytes, public_keys: Sequence[str], *, where: str | Path) -> None:
    """Verifies that a manifest is signed with a trusted key.

    Args:
        manifest: The exact bytes of the manifest.
        signature: Content of the signature file.
        public_keys: Trusted keys. One match is enough, so that keys can be replaced.
        where: Location of the manifest, for the error message.

    Raises:
        BundleUntrusted: The signature does not match the manifest with any of these keys.
    """
    # Imported only where needed: it takes memory, and most agents verify no signatures.
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except binascii.Error:
        raw = b""
    for key in public_keys:
        try:
            VerifyKey(_key(key)).verify(manifest, raw)
        except (BadSignatureError, ValueError):  # signed with another key, or an invalid key
            continue
        return
    raise BundleUntrusted(
        "is not signed with a trusted key",
        where=where,
        remedy="Sign the bundle with `trainer sign`, or add the signer's key to update.public_keys",
    )


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise ValueError("is not a key: must be 32 bytes in base64, as written by `trainer keygen`")
    return key


def _private(text: str) -> bytes:
    if not text.startswith(_PRIVATE):
        raise ValueError("is not a private key written by `trainer keygen`")
    return _key(text.removeprefix(_PRIVATE))


def _encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
