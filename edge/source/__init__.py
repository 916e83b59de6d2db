"""Frame sources: cameras, network streams, videos, images and folders of images."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edge.errors import SourceUnavailable
from edge.ports import Source
from edge.rate_limit import RateLimiter
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
    limiter: RateLimiter | None = None,
    open_timeout_s: float = 10.0,
    stall_timeout_s: float = 10.0,
) -> Source:
    """Creates a source, which is opened by entering it as a context manager.

    Args:
        spec: The number (`0`) or device (`/dev/video0`) of a camera, the address of a stream (`rtsp://`, `rtsps://`,
            `http://` or `https://`), `csi:0` for a Raspberry Pi camera, the path of a video, an image or a folder of
            images, or `demo` for a simulated camera.
        realtime: Play a recording at its own speed and drop frames that are not read in time, like a live source.
        loop: Repeat a recording endlessly.
        width: Width to request from a camera, in pixels. Ignored for streams and recordings.
        height: Height to request from a camera, in pixels.
        fps: Frames per second to request from a camera, or of a folder of images (default 1).
        limiter: How often frames will be read. Frames of a camera that are not due are not decoded; those of a stream
            always are, because later frames depend on them.
        open_timeout_s: Time limit for opening a live source.
        stall_timeout_s: Time without a frame after which a live source is lost; for a camera with `fps`, at least three
            frame periods.

    Raises:
        SourceUnavailable: The name is not valid. Whether the source exists is checked on entry.
        RuntimeMissing: The photographs of `demo` are not installed.
    """
    frame_timeout_s = max(stall_timeout_s, 3 / fps if fps else 0.0)
    match _kind(spec):
        case SourceKind.CAMERA:
            device = Path(f"/dev/video{spec}" if spec.isdecimal() else spec)
            return LiveSource(
                label=str(device),
                open_capture=partial(open_camera, device, width=width, height=height, fps=fps),
                limiter=limiter,
                open_timeout_s=open_timeout_s,
                stall_timeout_s=frame_timeout_s,
            )
        case SourceKind.CSI:
            return CsiSource(
                camera=int(spec.removeprefix("csi:")),
                width=width or 640,
                height=height or 480,
                fps=fps,
                open_timeout_s=open_timeout_s,
                stall_timeout_s=frame_timeout_s,
            )
        case SourceKind.DEMO:
            return DemoSource()
        case SourceKind.STREAM:
            return LiveSource(
                label=masked(spec),
                open_capture=partial(open_stream, spec, open_timeout_s=open_timeout_s, read_timeout_s=stall_timeout_s),
                limiter=limiter,
                open_timeout_s=open_timeout_s + 2,  # longer than FFmpeg's timeout, which then applies first
                stall_timeout_s=stall_timeout_s,
            )
        case SourceKind.RECORDING:
            recording = Recording(path=Path(spec).expanduser(), loop=loop, fps=fps)
            return RealTime(recording) if realtime else recording


def _kind(spec: str) -> SourceKind:
    try:
        return source_kind(spec)
    except ValueError as error:
        raise SourceUnavailable(str(error), where=masked(spec), remedy="Correct the source") from error
