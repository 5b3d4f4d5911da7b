"""Frames of a recording: a video file, decoded by PyAV, or a folder of pictures."""

# H, W = height and width

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from reidge.edge.errors import InputError
from reidge.edge.frame import Frame
from reidge.edge.redact import redact
from reidge.edge.sources.address import check_address
from reidge.edge.sources.images import check_pictures, read_pictures
from reidge.edge.thinner import Thinner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from av.container import InputContainer
    from av.video.stream import VideoStream
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

DEVICES = ("/dev/video", "/dev/v4l/")
LIVE_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://", "tcp://", "srt://")
FALLBACK_RATE = 25.0
# Two threads wait for each other on a busy machine: the median of converting 1280x720 is 4 ms, of one thread 0.4 ms.
ONE_THREAD: dict[str, Any] = {"threads": 1} if "threads" in (VideoReformatter.reformat.__doc__ or "") else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The part of a recording to use."""

    since: float = 0.0
    """Seconds from its first frame; earlier frames are left out."""
    until: float | None = None
    """Seconds from its first frame; this and later frames are left out."""
    max_fps: float | None = None
    """Frames per second at most; None uses every frame."""
    picture_fps: float = 10.0
    """Frames per second that the pictures of a folder stand for."""


def is_live(source: str) -> bool:
    """Tell whether a source is a stream or a device rather than a recording."""
    return source.lower().startswith(LIVE_SCHEMES) or source.startswith(DEVICES)


def shared_start(sources: Iterable[str]) -> float:
    """Give recordings without a known start one common clock: the time the oldest file was last written."""
    times = [Path(source).stat().st_mtime for source in sources if not is_live(source) and Path(source).exists()]
    return float(int(min(times, default=time.time())))


def check_footage(source: str) -> None:
    """Refuse a file that is missing, empty or not a video, a folder without pictures, or an address that cannot be one.

    It is done before work is spent on it.

    Raises:
        InputError: One line that says what is wrong.
    """
    check_address(source)
    if is_live(source):
        return
    if Path(source).is_dir():
        check_pictures(Path(source))
        return
    with _open(Path(source)):
        pass


def count_frames(source: str, span: Span | None = None) -> int | None:
    """Estimate how many frames `read_footage` will give, from the container's header; None when it does not say."""
    span = span or Span()
    duration: float | None
    if Path(source).is_dir():
        duration, rate = len(check_pictures(Path(source))) / span.picture_fps, span.picture_fps
    else:
        with _open(Path(source)) as container:
            stream = container.streams.video[0]
            duration, rate = _duration(container, stream), _rate(stream)
    if duration is None:
        return None
    end = duration if span.until is None else min(span.until, duration)
    return max(0, round((end - span.since) * min(rate, span.max_fps or float("inf"))))


def read_footage(source: str, *, camid: str, start: float = 0.0, span: Span | None = None) -> Iterator[Frame]:
    """Decode a file or a folder of pictures; damaged packets and pictures are skipped.

    A file that cannot be read to its end gives what comes before, and a warning.

    Args:
        source: Path of the file or folder.
        camid: Name of the camera.
        start: Seconds since the epoch of the first frame.
        span: The part to use.

    Raises:
        InputError: The file is missing, empty, not a video, or nothing of it can be decoded.
    """
    span = span or Span()
    thinner = Thinner(span.max_fps)
    for still in _read_folder(Path(source), span) if Path(source).is_dir() else _read_file(Path(source), span):
        if span.until is not None and still.seconds >= span.until - 1e-6:
            break
        tolerance = 0.5 / still.rate  # times are rounded
        if still.seconds < span.since - tolerance or not thinner.takes(still.seconds, tolerance=tolerance):
            continue
        image_HW3 = still.to_image()
        yield Frame(
            camid=camid,
            index=round(still.seconds * still.rate),
            captured_at=start + still.seconds,
            arrived_at=still.arrived_at,
            decoded_at=time.monotonic(),
            image=image_HW3,
            clock="file",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Still:
    """A picture of a recording, not converted yet."""

    seconds: float
    """From the first picture."""
    rate: float
    """Pictures per second."""
    arrived_at: float
    to_image: Callable[[], NDArray[np.uint8]]


def _read_folder(folder: Path, span: Span) -> Iterator[_Still]:
    for number, arrived_at, image_HW3 in read_pictures(folder):
        yield _Still(
            seconds=number / span.picture_fps,
            rate=span.picture_fps,
            arrived_at=arrived_at,
            to_image=partial(np.asarray, image_HW3),
        )


def _read_file(path: Path, span: Span) -> Iterator[_Still]:
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate, decoded, converter = _rate(stream), 0, Converter()
        if span.since > 0:
            with suppress(av.FFmpegError):  # not every container can be searched; decoding from the start works too
                container.seek(int(span.since * av.time_base))
        for picture, arrived_at in _pictures(container, stream):
            yield _Still(
                seconds=_seconds(picture, stream, fallback=decoded / rate),
                rate=rate,
                arrived_at=arrived_at,
                to_image=partial(converter.to_image, picture),
            )
            decoded += 1
        if not decoded:
            raise InputError(f"{redact(str(path))}: none of its frames can be decoded. Record or copy it again.")


class Converter:
    """Turns decoded pictures into images; keeps what libswscale prepares for a size."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def to_image(self, picture: VideoFrame) -> NDArray[np.uint8]:
        """Give `(H, W, 3)` BGR, upright."""
        image_HW3 = self._reformatter.reformat(picture, format="bgr24", **ONE_THREAD).to_ndarray()
        turns = round(getattr(picture, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(image_HW3, turns), dtype=np.uint8)


def _open(path: Path) -> InputContainer:
    name = redact(str(path))  # an address without its rtsp:// is taken for a file, password and all
    if not path.exists():
        raise InputError(f"{name} does not exist. Give a video file or an rtsp:// address.")
    if not path.is_file():
        raise InputError(f"{name} is not a file. Give a video file or an rtsp:// address.")
    if path.stat().st_size == 0:
        raise InputError(f"{name} is empty (0 bytes). Record or copy it again.")
    try:
        container = av.open(str(path))
    except PermissionError as error:
        raise InputError(f"{name} cannot be read: permission denied.") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"{name} cannot be read as video ({reason}). Record or copy it again.") from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{name} has no video in it. Give a video file or an rtsp:// address.")
    return container


def _pictures(container: InputContainer, stream: VideoStream) -> Iterator[tuple[VideoFrame, float]]:
    packets, reached = container.demux(stream), 0.0
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except (av.FFmpegError, OSError) as error:  # after one PyAV gives no more packets
            reason = getattr(error, "strerror", None) or type(error).__name__
            log.warning(
                "%s cannot be read beyond %.1f s (%s). What follows is missing; record or copy it again.",
                redact(container.name),
                reached,
                reason,
            )
            return
        arrived_at = time.monotonic()
        try:
            pictures = packet.decode()
        except av.EOFError:
            return
        except (av.FFmpegError, OSError):
            continue  # a damaged packet; the decoder goes on with the next
        for picture in pictures:
            if isinstance(picture, VideoFrame):
                reached = _seconds(picture, stream, fallback=reached)
                yield picture, arrived_at


def _seconds(picture: VideoFrame, stream: VideoStream, *, fallback: float) -> float:
    if picture.pts is None or picture.time_base is None:
        return fallback
    return float((picture.pts - (stream.start_time or 0)) * picture.time_base)


def _rate(stream: VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0) or FALLBACK_RATE


def _duration(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base
