"""A camera that is live: a stream or a device, connected again whenever it is lost."""

# H, W = height and width

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from reidge.edge.backoff import Backoff
from reidge.edge.camera import Camera, CameraConfig
from reidge.edge.clock import CLOCK_SET, CameraClock, Moment
from reidge.edge.errors import InputError
from reidge.edge.frame import Frame
from reidge.edge.redact import redact, redact_text
from reidge.edge.region import paint_over
from reidge.edge.sources import Damaged, Refused, open_source
from reidge.edge.sources.reach import ASK_EVERY, answers

if TYPE_CHECKING:
    import threading

    from reidge.edge.sources import Picture

BEHIND, BEHIND_FOR = 0.5, 2.0
"""Seconds of lag, and for how long, from which on pictures are left out undecoded. A stall of the network is made up
for in less, and leaving out costs all pictures up to the next key frame."""
HURRY = 1.5
"""Seconds that an attempt may take at a source that was asked and did not answer, ..."""
HURRY_FOR = 30.0
"""... in so many seconds after it was lost."""
HELD_UP = 0.01
"""Seconds between two looks at the clocks from which on they say nothing of each other: this thread had to wait."""
BLIND = 30.0
"""Seconds for which data may come without a picture, as before the first key frame, until a stream counts as lost."""
TELL_AGAIN = 60.0
"""Seconds after which a camera that is down tells another reason, if it has one by then."""


class LiveStream(Camera):
    """Keeps a source connected, and hands on its pictures with the time when they were taken."""

    def __init__(self, config: CameraConfig, *, start_at: float, wake: threading.Event, size: int) -> None:
        super().__init__(config, start_at=start_at, wake=wake, size=size)
        self._backoff = Backoff()
        self._answered: bool | None = False
        self._reason = self._told = ""
        self._told_at = -TELL_AGAIN
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
            self._reason = f"{redact(self.config.source)}: {reason}"
            if self.up is not False:
                self.mailbox.clear()
                self._told, self._told_at = "", -TELL_AGAIN
            self.up = False
            self._tell_why()
            self._wait(self._backoff.failed(time.monotonic(), refused=refused))

    def _wait(self, pause: float) -> None:
        """Wait before the next attempt, at most until the source begins to answer again."""
        deadline = time.monotonic() + pause
        while (left := deadline - time.monotonic()) > 0:
            self.beat_at = time.monotonic()
            self._tell_why()
            if self._stop_asked.wait(min(ASK_EVERY, left)):
                return
            answered, self._answered = self._answered, answers(self.config.source)
            if self._answered and not answered:
                return

    def _tell_why(self) -> None:
        """Say why it is down: at once, then again where the reason is another, once a minute at most.

        A server that comes back may refuse the password by then, and nobody would look for that otherwise.
        """
        now = time.monotonic()
        if self._reason != self._told and now - self._told_at >= TELL_AGAIN:
            self._say(up=False, reason=self._reason)
            self._told, self._told_at = self._reason, now

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
        epoch = _read_epoch()
        step = 0.0 if epoch is None else epoch - self._epoch
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


def _read_epoch() -> float | None:
    """What to add to `time.monotonic()` to get seconds since the epoch; None where that cannot be told just now."""
    before = time.monotonic()
    epoch = time.time() - before
    return epoch if time.monotonic() - before < HELD_UP else None


def _explain(error: Exception) -> str:
    """Say why a source was lost; the libraries' own text may hold its address with the password."""
    known = str(error) if isinstance(error, InputError) else type(error).__name__
    return redact_text(getattr(error, "strerror", None) or known)
