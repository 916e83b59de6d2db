"""The MQTT client id. It is not published: who knows it can take over the client's session."""

from __future__ import annotations

import hashlib
import secrets


def new_client_id() -> str:
    """Returns a random client id, within the 23 characters that every broker must accept."""
    return f"edge-{secrets.token_hex(8)}"


def fingerprint(client_id: str) -> str:
    """Returns a hash of a client id, which may be published to tell two clients apart."""
    return hashlib.sha256(client_id.encode()).hexdigest()[:16]
