"""RTSP streams from a real server (gst-rtsp-server) that is frozen or killed."""

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
    """An RTSP camera with 25 frames per second."""
    if reason := rtsp.missing_packages():
        pytest.skip(reason)
    with RtspCamera() as camera:
        yield camera


@pytest.mark.parametrize("sent_signal", [signal.SIGSTOP, signal.SIGKILL])
def test_rtsp_camera_that_freezes_or_dies_is_lost_in_time(rtsp_camera: RtspCamera, sent_signal: signal.Signals) -> None:
    """A frozen or dead RTSP camera is detected, and the error does not contain its password."""
    with open_source(rtsp_camera.url, open_timeout_s=PATIENCE_S, stall_timeout_s=3.0) as source:
        assert read_frame(source).image_bgr.shape == (240, 320, 3)
        rtsp_camera.process.send_signal(sent_signal)
        with pytest.raises(SourceLost) as error:
            read_for(source, PATIENCE_S)
    assert str(error.value).startswith("rtsp://***@127.0.0.1:")
