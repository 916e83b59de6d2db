from __future__ import annotations

import pytest

from edge.asyncapi import document
from edge.topics import Topics


def test_the_topics_are_the_published_ones() -> None:
    """Subscriptions that people wrote keep working."""
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


def test_what_is_retained_is_known() -> None:
    """Whatever the published document calls retained can be cleared when the device gets another name."""
    published = document()
    documented = {
        published["channels"][name]["address"].format(prefix="home", device="hall", camera="door")
        for name in published["channels"]
        if (operation := published["operations"].get(f"send_{name}")) and operation["bindings"]["mqtt"]["retain"]
    }
    assert set(Topics("home", "hall").retained(["door"], updates=True)) == documented


def test_a_device_that_looks_for_no_updates_clears_what_it_said_of_them() -> None:
    """Or the broker would tell for ever of a model that it ran once."""
    topics = Topics("home", "hall")
    assert set(topics.retained(["door"], updates=True)) - set(topics.retained(["door"])) == {topics.update}


@pytest.mark.parametrize("name", ["", "Hall", "front door", "a/b", "a+", "#", "-a", "$sys", "küche", "x" * 65, "a\n"])
def test_a_name_that_breaks_topics_is_refused(name: str) -> None:
    """A name with a space, a wildcard or a capital is an error at once, not a topic that nobody can subscribe to."""
    with pytest.raises(ValueError, match="cannot be part of a topic"):
        Topics("emotion", name)
    with pytest.raises(ValueError, match="cannot be part of a topic"):
        Topics(f"home/{name}/", "hall")
    with pytest.raises(ValueError, match="cannot be part of a topic"):
        Topics("emotion", "hall").event(name)


def test_a_leading_slash_is_refused() -> None:
    """A prefix does not begin with an empty segment."""
    with pytest.raises(ValueError, match="cannot be part of a topic"):
        Topics("/emotion", "hall")


def test_no_camera_hides_a_topic_of_the_device() -> None:
    """A camera called `cmd` or a device called `fleet` would listen to itself."""
    with pytest.raises(ValueError, match="no device can be called 'fleet'"):
        Topics("emotion", "fleet")
    topics = Topics("emotion", "hall")
    own = [getattr(topics, name) for name, kind in vars(Topics).items() if isinstance(kind, property)]
    names = {topic.split("/")[2] for topic in [*own, topics.command("pause")] if topic != topics.root}
    assert {"cmd", "status", "update"} <= names
    for name in names:
        with pytest.raises(ValueError, match=f"no camera can be called '{name}'"):
            topics.emotion(name)
