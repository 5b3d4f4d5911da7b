"""One camera: a thread that decodes its source and hands what it finds to the loop."""

from __future__ import annotations

import errno
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt, WithJsonSchema, field_validator

from reidge.edge.backoff import Backoff
from reidge.edge.clock import CLOCK_SET, CameraClock, Moment
from reidge.edge.errors import InputError
from reidge.edge.footage import Span, is_live, read_footage
from reidge.edge.frame import Frame
from reidge.edge.mailbox import CameraState, Mailbox
from reidge.edge.redact import redact, redact_text
from reidge.edge.region import Polygon, paint_over
from reidge.edge.settings import parse_time
from reidge.edge.sources import Damaged, Refused, open_source
from reidge.edge.sources.reach import ASK_EVERY, answers
from reidge.edge.thinner import Thinner

if TYPE_CHECKING:
    from reidge.edge.sources import Picture

BEHIND, BEHIND_FOR = 0.5, 2.0
"""Seconds of lag, and for how long, from which on pictures are left out undecoded. A stall of the network is made up
for in less, and leaving out costs all pictures up to the next key frame."""
HURRY = 2.0
"""Seconds that an attempt may take at a source that was asked and did not answer, ..."""
HURRY_FOR = 30.0
"""... in so many seconds after it was lost."""
BLIND = 30.0
"""Seconds for which data may come without a picture, as before the first key frame, until a stream counts as lost."""


class CameraConfig(BaseModel, frozen=True, extra="forbid"):
    """One camera of a site."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
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
        self.up = False

    def stop(self) -> None:
        """Ask the thread to end; it does within a frame or the source's timeout."""
        self._stop_asked.set()

    def run(self) -> None:
        """Decode until the source ends or `stop` is called."""
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


class Recording(Camera):
    """A file or a folder of pictures, at full speed or paced to real time."""

    def _decode(self) -> None:
        config = self.config
        began, at = time.monotonic(), self._start_at
        frames = read_footage(config.source, camid=config.name, start=self._start_at, span=config.span)
        for number, frame in enumerate(frames):
            if number == 0:
                self._count(connections=1)
                self.up = True
                self._say(up=True, at=frame.captured_at)
            paint_over(frame.image, config.masks)
            at, self.beat_at = frame.captured_at, time.monotonic()
            if config.pace == "realtime":
                due = began + frame.captured_at - self._start_at - config.since
                if self._stop_asked.wait(max(0.0, due - time.monotonic())):
                    break
                now = time.monotonic()  # a paced frame counts as decoded when it is due, as it would from a camera
                self._offer(replace(frame, arrived_at=now - (frame.decoded_at - frame.arrived_at), decoded_at=now))
            else:
                self._offer(frame)
            if self._stop_asked.is_set():
                break
        self.up = False
        self._say(up=False, reason="the recording ended", at=at)

    def _offer(self, frame: Frame) -> None:
        self.decoded_at = time.monotonic()
        if self.config.pace == "realtime":
            due = self._is_due(frame.captured_at, self.rate)
            self._count(decoded=1, offered=int(due))
            if due:
                self.mailbox.put_newest(frame)
            return
        self._count(decoded=1, offered=1)
        while not self._stop_asked.is_set() and not self.mailbox.put_all(frame, seconds=0.1):
            self.beat_at = time.monotonic()


class LiveStream(Camera):
    """A stream or a device, connected again whenever it is lost."""

    def __init__(self, config: CameraConfig, *, start_at: float, wake: threading.Event, size: int) -> None:
        super().__init__(config, start_at=start_at, wake=wake, size=size)
        self._backoff = Backoff()
        self._answered: bool | None = False
        self._epoch = time.time() - time.monotonic()
        self._kept_up_at = time.monotonic()

    def _decode(self) -> None:
        while not self._stop_asked.is_set():
            began = self.beat_at = time.monotonic()
            refused = False
            try:
                self._watch()
                reason = "the stream ended"
            except Exception as error:  # of many kinds, and none of them may be the camera's last word
                reason, refused = _explain(error), isinstance(error, Refused)
            if self._stop_asked.is_set():
                break
            if self.up:
                # One that gives pictures and ends at once would answer too: only the pause keeps it from flickering.
                self._answered = not self._backoff.lasted(time.monotonic() - began)
            self._count(failures=1)
            if self.up is not False:
                self.mailbox.clear()
                self._say(up=False, reason=f"{redact(self.config.source)}: {reason}")
            self.up = False
            self._wait(self._backoff.failed(time.monotonic(), refused=refused))

    def _wait(self, pause: float) -> None:
        """Wait before the next attempt, at most until the source begins to answer again."""
        deadline = time.monotonic() + pause
        while (left := deadline - time.monotonic()) > 0:
            self.beat_at = time.monotonic()
            if self._stop_asked.wait(min(ASK_EVERY, left)):
                return
            answered, self._answered = self._answered, answers(self.config.source)
            if self._answered and not answered:
                return

    def _watch(self) -> None:
        """Hand over the pictures of one connection until it is lost."""
        with open_source(self.config, self._count, patience=self._patience()) as source:
            clock = CameraClock()
            self._kept_up_at = picture_at = time.monotonic()
            for picture in source.pictures():
                self.beat_at = time.monotonic()
                if self._stop_asked.is_set():
                    return
                if picture is None:
                    if self.beat_at - picture_at > BLIND:
                        raise TimeoutError(errno.ETIMEDOUT, f"no picture in all that came for {BLIND:g} s")
                    continue
                picture_at = self.beat_at
                self._tell_up()
                moment = clock.read(picture.seconds, arrived_at=picture.arrived_at, epoch=self._epoch)
                if self._is_behind(picture, moment):
                    source.catch_up()
                self._offer(picture, moment)

    def _patience(self) -> float | None:
        """Seconds that the next attempt may take; None leaves it to the settings.

        An attempt at a source that does not answer holds up the questions whether it does by now. After a while
        attempts are rare enough to be made in earnest: somebody may answer slowly and no questions.
        """
        hurried = self.up is False and self._answered is False and self._backoff.down_for(time.monotonic()) < HURRY_FOR
        return HURRY if hurried else None

    def _tell_up(self) -> None:
        """Say that pictures come, and begin anew where somebody set this machine's clock.

        Times never run backwards while a camera is up.
        """
        step = time.time() - time.monotonic() - self._epoch
        if abs(step) > CLOCK_SET:
            if self.up:
                self.mailbox.clear()
                reason = f"the clock of this machine was set by {step:+.1f} s"
                self._say(up=False, reason=reason, at=time.time() - step)
                self._say(up=True)
            self._epoch += step
        if not self.up:
            self._count(connections=1)
            self._say(up=True)
            self.up = True

    def _is_behind(self, picture: Picture, moment: Moment) -> bool:
        """Tell whether decoding does not keep up: for some time pictures were late and yet lay ready."""
        now = time.monotonic()
        if picture.waited or (moment.clock == "camera" and moment.lag < BEHIND):
            self._kept_up_at = now
        return now - self._kept_up_at > BEHIND_FOR

    def _offer(self, picture: Picture, moment: Moment) -> None:
        self._count(decoded=1)
        self.decoded_at = time.monotonic()
        if not self._is_due(moment.captured_at, self.config.max_fps, self.rate):
            return
        try:
            image_HW3 = picture.to_image()
        except Damaged:
            self._count(corrupt=1)
            return
        masks = self.config.masks
        paint_over(image_HW3, masks)
        self._count(offered=1)
        frame = Frame(
            camid=self.config.name,
            index=self.tally.decoded - 1,
            captured_at=moment.captured_at,
            arrived_at=picture.arrived_at,
            decoded_at=time.monotonic(),
            image=image_HW3,
            clock=moment.clock,
        )
        # Masks may change just now, and nobody may see what the new ones hide.
        self.mailbox.put_newest(frame, unless=lambda: self.config.masks != masks)


def _explain(error: Exception) -> str:
    """Say why a source was lost; the libraries' own text may hold its address with the password."""
    known = str(error) if isinstance(error, InputError) else type(error).__name__
    return redact_text(getattr(error, "strerror", None) or known)
