from __future__ import annotations

import pytest

from edge.asyncapi import document
from edge.topics import Topics


def test_the_topics_match_the_published_interface() -> None:
    """The topics do not change, so that existing subscriptions keep working."""
    topics = Topics("home/emotion", "hall")
    assert topics.status == "home/emotion/hall/status"
    assert topics.info == "home/emotion/hall/info"
    assert topics.health == "home/emotion/hall/health"
    assert topics.probe == "home/emotion/hall/probe"
    assert topics.camera_status("door") == "home/emotion/hall/door/status"
    assert topics.emotion("door") == "home/emotion/hall/door/emotion"
    assert topics.event("door") == "home/emotion/hall/door/event"
    assert topics.response("pause") == "home/emotion/hall/cmd/pause/response"
    assert topics.fleet_command("shop", "pause") == "home/emotion/fleet/shop/cmd/pause"


def test_all_retained_topics_are_listed() -> None:
    """All topics that the AsyncAPI document marks as retained can be cleared when the device is renamed."""
    published = document()
    documented = {
        published["channels"][name]["address"].format(prefix="home", device="hall", camera="door")
        for name in published["channels"]
        if (operation := published["operations"].get(f"send_{name}")) and operation["bindings"]["mqtt"]["retain"]
    }
    assert set(Topics("home", "hall").retained(["door"], updates=True)) == documented


def test_a_device_without_updates_clears_the_update_topic() -> None:
    """Only a device with updates uses the topic; others clear it, or the broker would keep its last report."""
    topics = Topics("home", "hall")
    assert set(topics.retained(["door"], updates=True)) - set(topics.retained(["door"])) == {topics.update}


@pytest.mark.parametrize("name", ["", "Hall", "front door", "a/b", "a+", "#", "-a", "$sys", "küche", "x" * 65, "a\n"])
def test_a_name_that_is_not_a_topic_segment_is_rejected(name: str) -> None:
    """A space, a wildcard or an upper-case letter is an error at once, not a topic that cannot be subscribed to."""
    with pytest.raises(ValueError, match="cannot be part of a topic"):
        Topics("emotion", name)
    with pytest.raises(ValueError, match="cannot be part of a topic"):
        Topics(f"home/{name}/", "hall")
    with pytest.raises(ValueError, match="cannot be part of a topic"):
        Topics("emotion", "hall").event(name)


def test_a_leading_slash_is_rejected() -> None:
    """A prefix must not begin with an empty segment."""
    with pytest.raises(ValueError, match="cannot be part of a topic"):
        Topics("/emotion", "hall")


def test_reserved_names_are_rejected() -> None:
    """A camera named `cmd` or a device named `fleet` would receive its own messages as commands."""
    with pytest.raises(ValueError, match="'fleet' cannot be the name of a device"):
        Topics("emotion", "fleet")
    topics = Topics("emotion", "hall")
    device_topics = [getattr(topics, name) for name, kind in vars(Topics).items() if isinstance(kind, property)]
    names = {topic.split("/")[2] for topic in [*device_topics, topics.command("pause")] if topic != topics.root}
    assert {"cmd", "status", "update"} <= names
    for name in names:
        with pytest.raises(ValueError, match=f"'{name}' cannot be the name of a camera"):
            topics.emotion(name)
