"""Whose bundle it is: an Ed25519 signature (RFC 8032) over the manifest, which holds the hash of every other file.

Public keys and signatures are the raw bytes in base64: 32 bytes a key, 64 a signature. A private key has a word before
it, so that nobody takes the one for the other. The signature lies beside the manifest, so that the bundle itself stays
what it was.
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
    """A random private key. Whoever has it can say what the devices run."""
    from nacl.signing import SigningKey

    return _PRIVATE + _text(bytes(SigningKey.generate()))


def public_key(signing_key: str) -> str:
    """The key by which others recognise what `signing_key` has signed.

    Raises:
        ValueError: That is no key.
    """
    from nacl.signing import SigningKey

    return _text(bytes(SigningKey(_private(signing_key)).verify_key))


def sign(manifest: bytes, signing_key: str) -> str:
    """The signature of a manifest's very bytes.

    Raises:
        ValueError: That is no key.
    """
    from nacl.signing import SigningKey

    return _text(SigningKey(_private(signing_key)).sign(manifest).signature)


def check_public_key(text: str) -> str:
    """Returns `text` if it has the form of a public key.

    Raises:
        ValueError: It has not.
    """
    if text.startswith(_PRIVATE):
        raise ValueError("is the private key, which belongs on no device; `trainer keygen` has told the public one")
    _key(text)
    return text


def require_signature(manifest: bytes, signature: bytes, public_keys: Sequence[str], *, where: str | Path) -> None:
    """Refuses a manifest that nobody has signed who is trusted.

    Args:
        manifest: Its very bytes.
        signature: Content of the file beside it.
        public_keys: Any one of these will do, so that a key can be replaced by another.
        where: Where the signature came from, for the error.

    Raises:
        BundleUntrusted: The signature is none of these keys' and this manifest's.
    """
    # Imported here and above, for it takes memory, and most agents check no signature.
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except binascii.Error:
        raw = b""
    for key in public_keys:
        try:
            VerifyKey(_key(key)).verify(manifest, raw)
        except (BadSignatureError, ValueError):  # of this key, or of no key at all
            continue
        return
    raise BundleUntrusted("is not signed by a key that is trusted here", where=where,
                          remedy="Sign the bundle with `trainer sign`, or trust the key that signed it")  # fmt: skip


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise ValueError("is no key: 32 bytes in base64, as `trainer keygen` writes them")
    return key


def _private(text: str) -> bytes:
    if not text.startswith(_PRIVATE):
        raise ValueError("is no private key, as `trainer keygen` writes them")
    return _key(text.removeprefix(_PRIVATE))


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
