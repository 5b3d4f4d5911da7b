"""Cameras: each decodes in its own thread and hands frames to one loop.

Recordings at full speed go through a short queue and lose nothing; their frames come out in the order of their
clocks, so that no camera runs ahead of another. Live streams, and recordings paced to real time, go through a mailbox
of one frame: the loop gets the newest, and what it was too slow for is dropped and counted.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import av
from av.video.frame import VideoFrame
from pydantic import BaseModel, Field, field_validator

from reidge.edge.errors import InputError
from reidge.edge.footage import Span, check_footage, is_live, read_footage, shared_start, to_image
from reidge.edge.frame import Frame
from reidge.edge.redact import redact, redact_text
from reidge.edge.settings import parse_time

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from av.container import InputContainer

LOOKAHEAD = 1
"""Frames of a full-speed recording that wait decoded; more would only make them older."""
SAME_MOMENT = 0.04
"""Frames of different cameras less than this many seconds apart are handled together."""
BACKOFF = (0.5, 30.0)
"""Seconds before the first and at most before any later attempt to reach a live stream."""
RTSP_OPTIONS = {"rtsp_transport": "tcp", "analyzeduration": "200000", "probesize": "100000", "fflags": "nobuffer"}


class CameraConfig(BaseModel, frozen=True, extra="forbid"):
    """One camera of a site."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    """Its camid."""
    source: str = Field(min_length=1)
    """rtsp:// address or path of a recording."""
    pace: Literal["full", "realtime"] = "full"
    """How fast a recording is read; live streams come as they come."""
    start: float | None = None
    """When a recording began: ISO 8601 or seconds since the epoch. None takes the time of the site's oldest file."""
    since: float = Field(0.0, ge=0)
    """Seconds of a recording to skip."""
    until: float | None = Field(None, gt=0)
    """Seconds of a recording after which to stop."""
    max_fps: float | None = Field(None, gt=0)
    """Frames per second to use at most; None uses all."""
    region: tuple[tuple[float, float], ...] | None = Field(None, min_length=3)
    """Corners of the polygon in which people's feet count, as shares (0 to 1) of the frame's width and height."""
    overlaps: tuple[str, ...] = ()
    """Cameras that see part of the same place; only they can see the same person at the same moment."""
    timeout: float = Field(5.0, gt=0)
    """Seconds a live stream may be silent before it counts as lost."""

    @field_validator("start", mode="before")
    @classmethod
    def _parse_start(cls, value: object) -> object:
        return value if value is None else parse_time(str(value), what="start")

    @property
    def live(self) -> bool:
        """Whether the source is a stream rather than a recording."""
        return is_live(self.source)

    @property
    def span(self) -> Span:
        """The part of the recording to use."""
        return Span(since=self.since, until=self.until, max_fps=self.max_fps)


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraState:
    """A camera came up or went down."""

    camid: str
    up: bool
    at: float
    """Seconds since the epoch, UTC."""
    reason: str = ""
    """Why it went down; redacted."""


class Camera(threading.Thread, ABC):
    """Decodes one source; what it finds is read by the loop through `frames` (a bounded queue)."""

    def __init__(self, config: CameraConfig, *, start_at: float, wake: threading.Event, size: int) -> None:
        super().__init__(name=f"camera-{config.name}", daemon=True)
        self.config = config
        self.dropped = 0
        self.frames: queue.Queue[Frame] = queue.Queue(maxsize=size)
        self.states: queue.SimpleQueue[CameraState] = queue.SimpleQueue()
        self.ended = threading.Event()
        self._start_at = start_at
        self._wake = wake
        self._stop_asked = threading.Event()

    def stop(self) -> None:
        """Ask the thread to end; it does within a frame or the source's timeout."""
        self._stop_asked.set()

    def run(self) -> None:
        """Decode until the source ends or `stop` is called."""
        try:
            self._decode()
        except Exception as error:  # a camera's failure of any kind must not reach the others
            self._say(up=False, reason=redact_text(" ".join(str(error).split())))
        finally:
            self.ended.set()
            self._wake.set()

    @abstractmethod
    def _decode(self) -> None:
        """Read the source until it ends."""

    def _say(self, *, up: bool, reason: str = "", at: float | None = None) -> None:
        self.states.put(CameraState(camid=self.config.name, up=up, at=time.time() if at is None else at, reason=reason))
        self._wake.set()

    def _put_newest(self, frame: Frame) -> None:
        """Replace what the loop has not taken yet."""
        while True:
            try:
                self.frames.put_nowait(frame)
                break
            except queue.Full:
                with suppress(queue.Empty):
                    self.frames.get_nowait()
                    self.dropped += 1
        self._wake.set()


class Recording(Camera):
    """A file, at full speed or paced to real time."""

    def _decode(self) -> None:
        config = self.config
        began, at = time.monotonic(), self._start_at
        frames = read_footage(config.source, camid=config.name, start=self._start_at, span=config.span)
        for number, frame in enumerate(frames):
            if number == 0:
                self._say(up=True, at=frame.captured_at)
            at = frame.captured_at
            if config.pace == "realtime":
                due = began + frame.captured_at - self._start_at - config.since
                if self._stop_asked.wait(max(0.0, due - time.monotonic())):
                    break
                self._put_newest(_decoded_now(frame))
            elif not self._put_all(frame):
                break
        self._say(up=False, reason="the recording ended", at=at)

    def _put_all(self, frame: Frame) -> bool:
        """Wait for room in the queue; False when asked to stop."""
        while not self._stop_asked.is_set():
            try:
                self.frames.put(frame, timeout=0.1)
            except queue.Full:
                continue
            self._wake.set()
            return True
        return False


class LiveStream(Camera):
    """A stream over the network, connected again whenever it is lost."""

    def _decode(self) -> None:
        pause, index = BACKOFF[0], 0
        up: bool | None = None  # not yet known
        while not self._stop_asked.is_set():
            try:
                for frame in self._connection(index):
                    if not up:
                        self._say(up=True)
                    up, pause, index = True, BACKOFF[0], frame.index + 1
                    self._put_newest(frame)
                reason = "the stream ended"
            except Exception as error:  # of many kinds, and none of them may be the camera's last word
                # The library's text holds the whole address with the password.
                known = str(error) if isinstance(error, InputError) else type(error).__name__
                reason = redact_text(getattr(error, "strerror", None) or known)
            if self._stop_asked.is_set():
                break
            if up is not False:
                self._say(up=False, reason=f"{redact(self.config.source)}: {reason}")
            up = False
            self._stop_asked.wait(pause * random.uniform(0.8, 1.2))  # cameras that fell together rise apart
            pause = min(2 * pause, BACKOFF[1])

    def _connection(self, first_index: int) -> Iterator[Frame]:
        with self._open() as container:
            if not container.streams.video:
                raise InputError("it carries no video")
            stream = container.streams.video[0]
            stream.thread_type = "SLICE"  # threads over frames would add a delay of as many frames
            index, next_due = first_index, 0.0
            for picture in container.decode(stream):
                if self._stop_asked.is_set():
                    return
                now = time.monotonic()
                index += 1
                if not isinstance(picture, VideoFrame) or now < next_due:
                    continue
                if self.config.max_fps is not None:
                    # A quarter of an interval of tolerance for jitter of the network.
                    next_due = max(next_due + 1 / self.config.max_fps, now - 0.25 / self.config.max_fps)
                yield Frame(
                    camid=self.config.name,
                    index=index - 1,
                    captured_at=time.time(),
                    decoded_at=time.monotonic(),
                    image=to_image(picture),
                )

    def _open(self) -> InputContainer:
        options = RTSP_OPTIONS if self.config.source.lower().startswith(("rtsp://", "rtsps://")) else {}
        timeout = (self.config.timeout, self.config.timeout)
        return av.open(self.config.source, options=dict(options), timeout=timeout)


class Cameras:
    """All cameras of a site; use it in a `with`.

    Raises:
        InputError: A recording is missing or unreadable, or paces are mixed.
    """

    def __init__(self, configs: Sequence[CameraConfig]) -> None:
        for config in configs:
            check_footage(config.source)
        full = [config for config in configs if not config.live and config.pace == "full"]
        if full and len(full) < len(configs):
            raise InputError(
                f"{full[0].name} is read at full speed beside cameras in real time. Set its pace to realtime."
            )
        self.in_step = bool(full)
        self._wake = threading.Event()
        paced = any(config.pace == "realtime" for config in configs if not config.live)
        common = time.time() if paced else shared_start(config.source for config in configs)
        self.cameras = [self._build(config, common) for config in configs]

    def _build(self, config: CameraConfig, common_start: float) -> Camera:
        kind = LiveStream if config.live else Recording
        start_at = common_start if config.start is None else config.start
        return kind(config, start_at=start_at, wake=self._wake, size=LOOKAHEAD if self.in_step else 1)

    def __enter__(self) -> Cameras:
        for camera in self.cameras:
            camera.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for camera in self.cameras:
            camera.stop()
        for camera in self.cameras:
            camera.join(timeout=1.0)  # one that hangs in its timeout is a daemon and ends with the process

    @property
    def dropped(self) -> int:
        """Frames that were decoded but never handled."""
        return sum(camera.dropped for camera in self.cameras)

    def states(self) -> list[CameraState]:
        """What came up or went down since the last call."""
        found = []
        for camera in self.cameras:
            with suppress(queue.Empty):
                while True:
                    found.append(camera.states.get_nowait())
        return found

    def moments(self, stop: threading.Event) -> Iterator[list[Frame]]:
        """Frames to handle together, at most one of each camera, until all have ended or `stop` is set.

        An empty list comes about every half second when there is nothing new, so that the loop can look around.
        """
        return self._in_step(stop) if self.in_step else self._newest(stop)

    def _in_step(self, stop: threading.Event) -> Iterator[list[Frame]]:
        heads: dict[str, Frame] = {}
        while not stop.is_set():
            for camera in self.cameras:
                if camera.config.name not in heads and (frame := _next(camera, stop)) is not None:
                    heads[camera.config.name] = frame
            if not heads:
                return
            now = min(frame.captured_at for frame in heads.values())
            names = [camera.config.name for camera in self.cameras]
            yield [heads.pop(n) for n in names if n in heads and heads[n].captured_at < now + SAME_MOMENT]

    def _newest(self, stop: threading.Event) -> Iterator[list[Frame]]:
        while not stop.is_set():
            ended = all(camera.ended.is_set() for camera in self.cameras)
            frames = []
            for camera in self.cameras:
                with suppress(queue.Empty):
                    frames.append(camera.frames.get_nowait())
            if ended and not frames:
                return
            if not frames:
                self._wake.wait(0.5)
                self._wake.clear()
            yield frames


def _next(camera: Camera, stop: threading.Event) -> Frame | None:
    """Wait for the next frame of a recording; None when it has ended."""
    while not stop.is_set():
        over = camera.ended.is_set()  # asked before the queue: a last frame may arrive in between
        try:
            return camera.frames.get_nowait() if over else camera.frames.get(timeout=0.05)
        except queue.Empty:
            if over:
                return None
    return None


def _decoded_now(frame: Frame) -> Frame:
    """A paced frame counts as decoded when it is due, as it would from a camera."""
    return Frame(
        camid=frame.camid,
        index=frame.index,
        captured_at=frame.captured_at,
        decoded_at=time.monotonic(),
        image=frame.image,
    )
