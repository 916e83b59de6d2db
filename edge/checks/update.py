"""Check of the server that newer models come from, where one is configured."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from edge.adapters import newest_classifier, update_server
from edge.checks.finding import Chain, Check
from edge.config import Config


def update(config: Config) -> Iterator[Chain]:
    """Whether the server answers, and has a bundle that is signed by somebody who is trusted here."""
    if config.update.url is not None:
        yield (Check("update server", partial(_server, config, config.update.url)),)


def _server(config: Config, url: str) -> str:
    server = update_server(config, url)
    offer = server.offer()
    running = newest_classifier(config).bundle.manifest
    newer = "newer than" if server.newer(offer, running) else "not newer than"
    found = offer.manifest
    return f"{url} has {found.name} {found.version} (release {found.release}), {newer} {running.release}, in use here"
