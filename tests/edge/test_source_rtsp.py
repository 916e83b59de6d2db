"""RTSP: a real server (Debian's gst-rtsp-server) that freezes and dies."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from edge.errors import SourceLost
from edge.source import open_source
from tests import rtsp_camera as rtsp
from tests.mosquitto import PATIENCE_S
from tests.rtsp_camera import RtspCamera
from tests.sources import read_for, read_frame


@pytest.fixture
def rtsp_camera() -> Iterator[RtspCamera]:
    """An RTSP camera with 25 frames a second."""
    if reason := rtsp.why_not():
        pytest.skip(reason)
    with RtspCamera() as camera:
        yield camera


@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL])
def test_rtsp_camera_that_freezes_or_dies_is_lost_in_time(rtsp_camera: RtspCamera, blow: signal.Signals) -> None:
    """An RTSP camera works, and when it freezes or loses its power the agent knows and shows no password."""
    with open_source(rtsp_camera.url, open_timeout_s=PATIENCE_S, stall_timeout_s=3.0) as source:
        assert read_frame(source).image_bgr.shape == (240, 320, 3)
        rtsp_camera.process.send_signal(blow)
        with pytest.raises(SourceLost) as error:
            read_for(source, PATIENCE_S)
    assert str(error.value).startswith("rtsp://***@127.0.0.1:")
