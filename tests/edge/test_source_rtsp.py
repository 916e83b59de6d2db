"""RTSP: a real server (Debian's gst-rtsp-server) that freezes and dies."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from edge.errors import SourceLost
from edge.ports import Source
from edge.source import open_source

SYSTEM_PYTHON = "/usr/bin/python3"
IMPORTS = """
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
assert Gst.ElementFactory.find("jpegenc") and Gst.ElementFactory.find("rtpjpegpay")
"""
SERVER = f"""{IMPORTS}
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1"
    " ! jpegenc ! rtpjpegpay name=pay0 pt=26 )"
)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service("0")
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


class RtspCamera:
    """An RTSP camera in a process of its own."""

    def __init__(self) -> None:
        # Without the tests' own PYTHON settings: the bindings belong to the distribution.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self.process = subprocess.Popen([SYSTEM_PYTHON, "-c", SERVER], stdout=subprocess.PIPE, env=environment)
        assert self.process.stdout is not None
        self.url = f"rtsp://viewer:hunter2@127.0.0.1:{int(self.process.stdout.readline())}/live"

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def gst_rtsp_server_is_installed() -> bool:
    """Whether the distribution has the server, its Python bindings and its JPEG plugins."""
    try:
        probe = subprocess.run([SYSTEM_PYTHON, "-c", IMPORTS], capture_output=True, check=False, timeout=60)
    except FileNotFoundError:
        return False
    return probe.returncode == 0


@pytest.fixture
def rtsp_camera() -> Iterator[RtspCamera]:
    """An RTSP camera with 25 frames a second."""
    if not gst_rtsp_server_is_installed():
        pytest.skip("apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good")
    camera = RtspCamera()
    yield camera
    camera.close()


def read_for(source: Source, seconds: float) -> None:
    """Read as the agent does, whatever comes."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        source.read(0.1)


@pytest.mark.parametrize("blow", [signal.SIGSTOP, signal.SIGKILL])
def test_rtsp_camera_that_freezes_or_dies_is_lost_in_time(rtsp_camera: RtspCamera, blow: signal.Signals) -> None:
    """An RTSP camera works, and when it freezes or loses its power the agent knows and shows no password."""
    with open_source(rtsp_camera.url, stall_timeout_s=1.0) as source:
        frame = source.read(5.0)
        assert frame is not None
        assert frame.image_bgr.shape == (240, 320, 3)
        rtsp_camera.process.send_signal(blow)
        with pytest.raises(SourceLost) as error:
            read_for(source, 10.0)
    assert str(error.value).startswith("rtsp://***@127.0.0.1:")
