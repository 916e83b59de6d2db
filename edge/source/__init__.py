"""Where frames come from: a camera, a network stream, a video, a picture or a folder of pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edge.errors import SourceUnavailable
from edge.pace import Pace
from edge.ports import Source
from edge.source.address import is_url, masked, scheme
from edge.source.csi import CsiSource
from edge.source.demo import DemoSource
from edge.source.live import LiveSource
from edge.source.opencv import open_camera, open_stream
from edge.source.recording import RealTime, Recording

__all__ = ["masked", "open_source"]

_STREAM_SCHEMES = ("rtsp", "rtsps", "http", "https")


def open_source(
    spec: str,
    *,
    realtime: bool = False,
    loop: bool = False,
    width: int | None = None,
    height: int | None = None,
    fps: float | None = None,
    pace: Pace | None = None,
    open_timeout_s: float = 10.0,
    stall_timeout_s: float = 10.0,
) -> Source:
    """Make the source of that name; entering it opens it.

    Args:
        spec: The number of a camera (`0`) or its device (`/dev/video0`), the address of a stream (`rtsp://`,
            `http://` and their kin with s), `csi:0` for a Raspberry Pi camera, the path of a video, a picture or a
            folder of pictures, or `demo` for photographs that are filmed.
        realtime: Play a recording at its own speed and drop what is not read in time; live sources do so always.
        loop: Play a recording again and again.
        width: Pixels to ask of a camera. Streams and recordings come as they are.
        height: The same.
        fps: Frames a second to ask of a camera, or pictures a second in a folder (1 if not given).
        pace: How often it will be read: a camera or stream decodes no frame that comes too early to be taken.
        open_timeout_s: How long a live source may take to open.
        stall_timeout_s: After how long without a frame a live source is lost.

    Raises:
        SourceUnavailable: No source can have that name. That one is not there shows on entry.
        RuntimeMissing: The photographs of `demo` are not installed.
    """
    if spec.isdecimal() or spec.startswith("/dev/"):
        device = Path(f"/dev/video{spec}" if spec.isdecimal() else spec)
        return LiveSource(
            label=str(device),
            open_capture=partial(open_camera, device, width=width, height=height, fps=fps),
            pace=pace,
            open_timeout_s=open_timeout_s,
            stall_timeout_s=stall_timeout_s,
        )
    if spec.startswith("csi:"):
        return CsiSource(
            camera=_csi_number(spec),
            width=width or 640,
            height=height or 480,
            fps=fps,
            open_timeout_s=open_timeout_s,
            stall_timeout_s=stall_timeout_s,
        )
    if spec == "demo":
        return DemoSource()
    if is_url(spec):
        return _stream(spec, pace=pace, open_timeout_s=open_timeout_s, stall_timeout_s=stall_timeout_s)
    recording = Recording(path=Path(spec).expanduser(), loop=loop, fps=fps)
    return RealTime(recording) if realtime else recording


def _csi_number(spec: str) -> int:
    number = spec.removeprefix("csi:")
    if not number.isdecimal():
        raise SourceUnavailable("no such camera", where=spec, remedy="Name the first one csi:0, the second csi:1")
    return int(number)


def _stream(url: str, *, pace: Pace | None, open_timeout_s: float, stall_timeout_s: float) -> LiveSource:
    if scheme(url) not in _STREAM_SCHEMES:
        raise SourceUnavailable(
            f"streams of the kind {scheme(url)}:// are not supported",
            where=masked(url),
            remedy=f"Give one of {', '.join(_STREAM_SCHEMES)}",
        )
    return LiveSource(
        label=masked(url),
        open_capture=partial(open_stream, url, open_timeout_s=open_timeout_s, read_timeout_s=stall_timeout_s),
        pace=pace,
        # Longer than FFmpeg's own limit, so that its answer comes first.
        open_timeout_s=open_timeout_s + 2,
        stall_timeout_s=stall_timeout_s,
    )
