"""Streams over the network, read by FFmpeg through PyAV."""

from __future__ import annotations

import errno
import time
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import av
from av.video.frame import VideoFrame

from reidge.edge.errors import InputError
from reidge.edge.footage import Converter
from reidge.edge.sources import Picture, Refused
from reidge.edge.sources.address import Address
from reidge.edge.sources.hardware import open_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from av.container import InputContainer

    from reidge.edge.camera import CameraConfig
    from reidge.edge.sources import Count

RTSP = ("rtsp://", "rtsps://")
RTSP_OPTIONS = {"analyzeduration": "200000", "probesize": "100000", "fflags": "nobuffer"}
"""A fifth of FFmpeg's defaults: a connection takes 0.4 s in place of 2 s."""
NO_TIMESTAMPS = 0x80
"""FFmpeg's AVFMT_NOTIMESTAMPS: times of such a format, MJPEG over HTTP first of all, are counted, not measured."""
SMALL = 1920 * 1080
"""Pixels up to which one thread decodes in real time; more threads a camera are more to switch between."""
READY = 0.002
"""Seconds below which a packet lay ready."""
REORDERED = 32
"""Packets whose arrival is remembered: a decoder that reorders gives the picture of an earlier one."""


@contextmanager
def open_network(config: CameraConfig, count: Count, patience: float | None = None) -> Iterator[NetworkSource]:
    """Connect; see `open_source`."""
    address = Address.parse(config.source)
    options = RTSP_OPTIONS | {"rtsp_transport": config.transport} if config.source.lower().startswith(RTSP) else {}
    with _explained(config):
        container = av.open(
            config.source if address is None else address.quoted,
            options=options,
            timeout=(min(config.timeout, patience or config.timeout), config.timeout),
            **open_options(config.decode),
        )
        with container:
            yield NetworkSource(container, count, config.timeout)


@contextmanager
def _explained(config: CameraConfig) -> Iterator[None]:
    """Give FFmpeg's errors names that say what happened, without the address that their text holds."""
    try:
        yield
    except (av.HTTPUnauthorizedError, av.HTTPForbiddenError) as error:
        raise Refused(error.errno, "it does not take this user and password") from None
    except av.ExitError as error:
        raise TimeoutError(error.errno, f"nothing came for {config.timeout:g} s") from None


class NetworkSource:
    """Decodes the first video stream of an open container."""

    def __init__(self, container: InputContainer, count: Count, timeout: float) -> None:
        """Begin.

        Raises:
            InputError: It carries no video.
        """
        if not container.streams.video:
            raise InputError("it carries no video")
        self._count = count
        self._timeout = timeout
        self._inter, self._skipping, self._waited = False, False, True
        self._container = container
        self._stream = container.streams.video[0]
        self._stream.thread_type = "SLICE"  # threads over frames would add a delay of as many frames
        self._stream.codec_context.thread_count = 1 if self._stream.width * self._stream.height <= SMALL else 0
        self._timed = not int(container.format.flags) & NO_TIMESTAMPS
        self._converter = Converter()
        self._arrivals: deque[tuple[int, float]] = deque(maxlen=REORDERED)

    def pictures(self) -> Iterator[Picture | None]:
        """Decode packet by packet; a damaged one is left out."""
        asked_at = came_at = time.monotonic()
        for packet in self._container.demux():
            arrived_at = time.monotonic()
            if packet.stream is not self._stream:  # sound, with each packet of which FFmpeg's own timeout begins anew
                if arrived_at - came_at > self._timeout:
                    raise TimeoutError(errno.ETIMEDOUT, f"nothing came for {self._timeout:g} s")
                yield None
                continue
            came_at = arrived_at
            self._waited = arrived_at - asked_at > READY
            if packet.pts is not None:
                self._arrivals.append((packet.pts, arrived_at))
            self._inter = self._inter or not packet.is_keyframe
            # Where all are key frames, as in MJPEG, only one that had to be waited for is the newest.
            self._skipping = self._skipping and not (packet.is_keyframe and (self._inter or self._waited))
            if self._skipping:
                self._count(skipped=1)
                yield None
                asked_at = time.monotonic()
                continue
            try:
                frames = packet.decode()
            except av.EOFError:
                return
            except av.FFmpegError:
                self._count(corrupt=1)
                frames = []
            yield None
            for frame in frames:
                if not isinstance(frame, VideoFrame) or frame.is_corrupt:
                    self._count(corrupt=1)
                    continue
                yield self._picture(frame, arrived_at)
            asked_at = time.monotonic()

    def catch_up(self) -> None:
        """Leave out packets up to the next key frame; only reading them costs next to nothing."""
        self._skipping = True

    def _picture(self, frame: VideoFrame, arrived_at: float) -> Picture:
        known = next((at for pts, at in self._arrivals if pts == frame.pts), arrived_at)
        return Picture(
            seconds=frame.time if self._timed else None,
            arrived_at=known,
            waited=self._waited,
            to_image=partial(self._converter.to_image, frame),
        )
