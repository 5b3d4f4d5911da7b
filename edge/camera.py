"""One camera of a site: what is said of it, what it counts, and the thread that every kind of camera is."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt, WithJsonSchema, field_validator

from reidge.edge.footage import Span, is_live
from reidge.edge.mailbox import CameraState, Mailbox
from reidge.edge.redact import redact_text
from reidge.edge.region import Polygon
from reidge.edge.settings import NAME_PATTERN, parse_time
from reidge.edge.thinner import Thinner
from reidge.edge.threadname import name_thread


class CameraConfig(BaseModel, frozen=True, extra="forbid"):
    """One camera of a site."""

    name: str = Field(pattern=NAME_PATTERN)
    """Its camid."""
    source: str = Field(min_length=1)
    """Address of a stream (rtsp:// and others), USB device (/dev/video0), path of a recording or of a folder of
    pictures."""
    reader: Literal["auto", "pyav", "gstreamer"] = "auto"
    """What reads a stream; auto takes GStreamer where it has the decoder of a Jetson."""
    decode: Literal["auto", "software", "hardware"] = "auto"
    """What decodes a stream; auto takes hardware where there is some and it works."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How RTSP carries pictures; UDP loses some on a bad network, TCP delays them."""
    pace: Literal["full", "realtime"] = "full"
    """How fast a recording is read; live sources come as they come."""
    start: Annotated[float, WithJsonSchema({"type": ["number", "string"]})] | None = None
    """When a recording began: ISO 8601 or seconds since the epoch. None takes the time of the site's oldest file."""
    since: float = Field(0.0, ge=0)
    """Seconds of a recording to skip."""
    until: float | None = Field(None, gt=0)
    """Seconds of a recording after which to stop."""
    size: tuple[PositiveInt, PositiveInt] | None = None
    """Width and height, pixels, that a USB device is asked for; None takes what it gives."""
    picture_fps: float = Field(10.0, gt=0)
    """Frames per second that the pictures of a folder stand for."""
    max_fps: float | None = Field(None, gt=0)
    """Frames per second to use at most; None uses all."""
    region: Polygon | None = None
    """Corners of the polygon in which people's feet count, as shares (0 to 1) of the frame's width and height."""
    masks: tuple[Polygon, ...] = ()
    """Polygons that are painted over before anything looks at the picture; what is behind them is seen by nobody."""
    overlaps: tuple[str, ...] = ()
    """Cameras that see part of the same place; only they can see the same person at the same moment."""
    moves: bool = False
    """Whether it sways or turns, as on a mast or a ship: its motion is then told from the picture, for about 4 ms a
    frame. The motion detector cannot work on it."""
    timeout: float = Field(5.0, gt=0)
    """Seconds a live source may be silent before it counts as lost."""

    @field_validator("start", mode="before")
    @classmethod
    def _parse_start(cls, value: object) -> object:
        return value if value is None else parse_time(str(value), what="start")

    @property
    def live(self) -> bool:
        """Whether the source is a stream or a device rather than a recording."""
        return is_live(self.source)

    @property
    def span(self) -> Span:
        """The part of the recording to use."""
        return Span(since=self.since, until=self.until, max_fps=self.max_fps, picture_fps=self.picture_fps)


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraCounts:
    """What a camera has done since the start."""

    decoded: int = 0
    """Pictures decoded."""
    offered: int = 0
    """Frames converted and offered to the loop."""
    dropped: int = 0
    """Frames offered and never handled, because a newer one came."""
    connections: int = 0
    """Times that a first picture came."""
    failures: int = 0
    """Attempts that failed and connections that were lost."""
    corrupt: int = 0
    """Packets and pictures that were damaged and left out."""
    skipped: int = 0
    """Packets left out undecoded, because decoding did not keep up."""
    abandoned: int = 0
    """Threads that hung in spite of their timeouts and were replaced."""

    def __add__(self, other: CameraCounts) -> CameraCounts:
        """Add them up."""
        return CameraCounts(**{name: getattr(self, name) + getattr(other, name) for name in self.__slots__})


class Camera(threading.Thread, ABC):
    """Decodes one source; the loop reads its `mailbox`."""

    def __init__(self, config: CameraConfig, *, start_at: float, wake: threading.Event, size: int) -> None:
        super().__init__(name=f"camera-{config.name}", daemon=True)
        self.config = config
        self.mailbox = Mailbox(size, wake)
        self.ended = threading.Event()
        self.rate: float | None = None
        """Frames per second at most, below the configuration's; None leaves it at that."""
        self.decoded_at: float | None = None
        """Seconds of `time.monotonic()` of the newest decoded picture."""
        self.added_at = time.monotonic()
        """When it, or the first of those before it, was added to the site."""
        self.beat_at = time.monotonic()
        """When the thread last showed that it lives."""
        self.up: bool | None = None
        """Whether pictures come; None until that is known."""
        self.tally = CameraCounts()
        self._thinner = Thinner(None)
        self._start_at = start_at
        self._wake = wake
        self._stop_asked = threading.Event()

    @property
    def counts(self) -> CameraCounts:
        """What it has done so far."""
        return self.tally + CameraCounts(dropped=self.mailbox.dropped)

    def succeed(self, other: Camera) -> None:
        """Go on from a thread that is given up, before this one starts."""
        self.rate, self.decoded_at, self.tally = other.rate, other.decoded_at, other.counts
        self.added_at = other.added_at
        self.up = False

    def stop(self) -> None:
        """Ask the thread to end; it does within a frame or the source's timeout."""
        self._stop_asked.set()

    def run(self) -> None:
        """Decode until the source ends or `stop` is called."""
        name_thread()
        try:
            self._decode()
        except Exception as error:  # a camera's failure of any kind must not reach the others
            self.up = False
            self._say(up=False, reason=redact_text(" ".join(str(error).split())))
        finally:
            self.ended.set()
            self._wake.set()

    @abstractmethod
    def _decode(self) -> None:
        """Read the source until it ends."""

    def _say(self, *, up: bool, reason: str = "", at: float | None = None) -> None:
        at = time.time() if at is None else at
        self.mailbox.say(CameraState(camid=self.config.name, up=up, at=at, reason=reason))

    def _count(self, **more: int) -> None:
        self.tally += CameraCounts(**more)

    def _is_due(self, captured_at: float, *rates: float | None) -> bool:
        """Tell whether a frame is to be handed on at the least of some rates, which may change at any time."""
        fps = min((rate for rate in rates if rate is not None), default=None)
        if self._thinner.fps != fps:
            self._thinner = Thinner(fps)
        # A quarter of an interval of tolerance for jitter of the network.
        return self._thinner.takes(captured_at, tolerance=0.25 / fps if fps else 0.0)
