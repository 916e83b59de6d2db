"""Where frames come from: a camera, a network stream, a video, a picture or a folder of pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edge.errors import SourceUnavailable
from edge.pace import Pace
from edge.ports import Source
from edge.source.csi import CsiSource
from edge.source.demo import DemoSource
from edge.source.live import LiveSource
from edge.source.opencv import open_camera, open_stream
from edge.source.recording import RealTime, Recording
from edge.source_name import SourceKind, masked, source_kind

__all__ = ["open_source"]


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
        pace: How often it will be read: a camera's frames that come too early to be taken are not decoded. Those of a
            stream are, as each builds on those before it.
        open_timeout_s: How long a live source may take to open.
        stall_timeout_s: After how long without a frame a live source is lost; a camera that is asked for few frames
            has the time for three of them.

    Raises:
        SourceUnavailable: No source can have that name. That one is not there shows on entry.
        RuntimeMissing: The photographs of `demo` are not installed.
    """
    patience_s = max(stall_timeout_s, 3 / fps if fps else 0.0)
    match _kind(spec):
        case SourceKind.CAMERA:
            device = Path(f"/dev/video{spec}" if spec.isdecimal() else spec)
            return LiveSource(
                label=str(device),
                open_capture=partial(open_camera, device, width=width, height=height, fps=fps),
                pace=pace,
                open_timeout_s=open_timeout_s,
                stall_timeout_s=patience_s,
            )
        case SourceKind.CSI:
            return CsiSource(
                camera=int(spec.removeprefix("csi:")),
                width=width or 640,
                height=height or 480,
                fps=fps,
                open_timeout_s=open_timeout_s,
                stall_timeout_s=patience_s,
            )
        case SourceKind.DEMO:
            return DemoSource()
        case SourceKind.STREAM:
            return LiveSource(
                label=masked(spec),
                open_capture=partial(open_stream, spec, open_timeout_s=open_timeout_s, read_timeout_s=stall_timeout_s),
                pace=pace,
                open_timeout_s=open_timeout_s + 2,  # longer than FFmpeg's own limit, so that its answer comes first
                stall_timeout_s=stall_timeout_s,
            )
        case SourceKind.RECORDING:
            recording = Recording(path=Path(spec).expanduser(), loop=loop, fps=fps)
            return RealTime(recording) if realtime else recording


def _kind(spec: str) -> SourceKind:
    try:
        return source_kind(spec)
    except ValueError as error:
        raise SourceUnavailable(str(error), where=masked(spec), remedy="Give another source") from error
