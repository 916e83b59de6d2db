"""An RTSP camera: Debian's gst-rtsp-server in a separate process that can be suspended and killed."""

from __future__ import annotations

import os
import subprocess
from typing import Self

_SYSTEM_PYTHON = "/usr/bin/python3"
_IMPORTS = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
assert Gst.ElementFactory.find("jpegenc") and Gst.ElementFactory.find("rtpjpegpay")
"""
_SERVER = f"""{_IMPORTS}
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=320,height=240,framerate=25/1"
    " ! jpegenc ! rtpjpegpay name=pay0 pt=26 )"
)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[1])
server.get_mount_points().add_factory("/live", factory)
server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


def missing_packages() -> str | None:
    """Returns the command that installs the required packages, or None if all are installed."""
    try:
        probe = subprocess.run([_SYSTEM_PYTHON, "-c", _IMPORTS], capture_output=True, check=False)
    except FileNotFoundError:
        probe = None
    if probe is not None and probe.returncode == 0:
        return None
    return "apt-get install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"


class RtspCamera:
    """Streams 320x240 pixels at 25 frames per second while the context is open.

    Args:
        port: The port to listen on; 0 for a free one.
    """

    def __init__(self, *, port: int = 0) -> None:
        self._service = str(port)

    def __enter__(self) -> Self:
        # Without the PYTHON* variables of the tests, because the bindings belong to the distribution.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        command = [_SYSTEM_PYTHON, "-c", _SERVER, self._service]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.url = f"rtsp://viewer:hunter2@127.0.0.1:{self.port}/live"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.communicate()
