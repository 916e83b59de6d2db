"""Check of the update server, if one is configured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from edge.adapters import newest_classifier, update_server
from edge.checks.check import Chain, Check
from edge.config import Config


def update(config: Config) -> Iterator[Chain]:
    """Checks that the server responds and has a bundle signed with a trusted key."""
    if config.update.url is not None:
        yield (Check("update server", partial(_server, config, config.update.url)),)


def _server(config: Config, url: str) -> str:
    server = update_server(config, url)
    latest = server.latest()
    running = newest_classifier(config).bundle.manifest
    comparison = "newer than" if server.is_newer(latest, running) else "not newer than"
    found = latest.manifest
    return (
        f"{url} has {found.name} {found.version} (release {found.release}), {comparison} release {running.release} "
        "in use here"
    )
