"""Whose bundle it is: against the vectors of the standard, and against those who would slip one in."""

from __future__ import annotations

import base64

import pytest

from edge.contract import UserError
from edge.contract.signature import check_public_key, new_signing_key, public_key, require_signature, sign


def in_base64(text: str) -> str:
    """Hexadecimal digits, as the standard writes keys, as we do."""
    return base64.b64encode(bytes.fromhex(text)).decode()


def test_it_is_ed25519() -> None:
    """The third test vector of RFC 8032, section 7.1: others can check these signatures with what they have."""
    private = "private-key:" + in_base64("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7")
    public = in_base64("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025")
    signature = in_base64(
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"
    )
    assert public_key(private) == public
    assert sign(b"\xaf\x82", private) == signature


def test_a_signature_holds_for_these_bytes_and_this_key_alone() -> None:
    """One byte more, another key, or no signature at all: it is refused, and the error says where."""
    mine, theirs = new_signing_key(), new_signing_key()
    signature = sign(b"{}", mine).encode()
    require_signature(b"{}", signature + b"\n", [public_key(theirs), public_key(mine)], where="here")
    forgeries = [
        (b"{} ", signature, mine),
        (b"{}", signature, theirs),
        (b"{}", sign(b"{}", theirs).encode(), mine),
        (b"{}", b"", mine),
        (b"{}", b"\xff not base64", mine),
        (b"{}", signature[:20], mine),
    ]
    for manifest, given, trusted in forgeries:
        with pytest.raises(UserError, match=r"^here: is not signed by a key that is trusted here\. Sign the bundle"):
            require_signature(manifest, given, [public_key(trusted)], where="here")
    with pytest.raises(UserError, match="not signed"):
        require_signature(b"{}", signature, [], where="here")


@pytest.mark.parametrize("text", ["", "no key", "c2hvcnQ=", "é" * 44, "A" * 40])
def test_what_is_no_key_is_refused(text: str) -> None:
    """In the configuration, and before anything is signed with it."""
    with pytest.raises(ValueError, match="is no key: 32 bytes in base64, as `trainer keygen` writes them"):
        check_public_key(text)
    for use in (public_key, lambda key: sign(b"", key)):
        with pytest.raises(ValueError, match="is no private key"):
            use(text)
        with pytest.raises(ValueError, match="is no key"):
            use(f"private-key:{text}")


def test_neither_key_is_taken_for_the_other() -> None:
    """A private key that is pasted into a device's configuration is told at once, before it lies on every device."""
    private = new_signing_key()
    with pytest.raises(ValueError, match="is the private key, which belongs on no device"):
        check_public_key(private)
    with pytest.raises(ValueError, match="is no private key"):
        sign(b"", public_key(private))
