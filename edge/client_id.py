"""The MQTT client id: the name by which the broker knows a client, and who knows it can take the client's place."""

from __future__ import annotations

import hashlib
import secrets


def new_client_id() -> str:
    """A random one, within the 23 characters that every broker must accept."""
    return f"edge-{secrets.token_hex(8)}"


def fingerprint(client_id: str) -> str:
    """What others may know of a client id, to tell two clients apart."""
    return hashlib.sha256(client_id.encode()).hexdigest()[:16]
