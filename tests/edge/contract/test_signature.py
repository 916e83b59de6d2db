"""Signatures: a test vector of the standard, and forgeries."""

from __future__ import annotations

import base64

import pytest

from edge.contract import UserError
from edge.contract.signature import check_public_key, new_signing_key, public_key, sign, verify_signature


def in_base64(text: str) -> str:
    """Converts hexadecimal digits, as used in the standard, to base64."""
    return base64.b64encode(bytes.fromhex(text)).decode()


def test_signatures_are_ed25519() -> None:
    """Keys and signature match the third test vector of RFC 8032, section 7.1."""
    private = "private-key:" + in_base64("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    public = in_base64("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    signature = in_base64(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert public_key(private) == public
    assert sign(b"\xaf\x82", private) == signature


def test_a_signature_is_valid_only_for_its_bytes_and_its_key() -> None:
    """Changed bytes, another key and a missing signature are rejected; the error contains the location."""
    key, other_key = new_signing_key(), new_signing_key()
    signature = sign(b"{}", key).encode()
    verify_signature(b"{}", signature + b"\n", [public_key(other_key), public_key(key)], where="here")
    forgeries = [
        (b"{} ", signature, key),
        (b"{}", signature, other_key),
        (b"{}", sign(b"{}", other_key).encode(), key),
        (b"{}", b"", key),
        (b"{}", b"\xff not base64", key),
        (b"{}", signature[:20], key),
    ]
    for manifest, signature_bytes, trusted in forgeries:
        with pytest.raises(UserError, match=r"^here: is not signed with a trusted key\. Sign the bundle"):
            verify_signature(manifest, signature_bytes, [public_key(trusted)], where="here")
    with pytest.raises(UserError, match="not signed"):
        verify_signature(b"{}", signature, [], where="here")


@pytest.mark.parametrize("text", ["", "no key", "c2hvcnQ=", "é" * 44, "A" * 40])
def test_an_invalid_key_is_rejected(text: str) -> None:
    """Invalid keys are rejected in the configuration and for signing."""
    with pytest.raises(ValueError, match="is not a key: must be 32 bytes in base64, as written by `trainer keygen`"):
        check_public_key(text)
    for use in (public_key, lambda key: sign(b"", key)):
        with pytest.raises(ValueError, match="is not a private key"):
            use(text)
        with pytest.raises(ValueError, match="is not a key"):
            use(f"private-key:{text}")


def test_private_and_public_keys_are_not_interchangeable() -> None:
    """A private key in a device's configuration is rejected, and so is a public key for signing."""
    private = new_signing_key()
    with pytest.raises(ValueError, match="is a private key, which must not be stored on a device"):
        check_public_key(private)
    with pytest.raises(ValueError, match="is not a private key"):
        sign(b"", public_key(private))
