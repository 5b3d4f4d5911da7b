"""A camera that was recorded: a file or a folder of pictures."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from reidge.edge.camera import Camera
from reidge.edge.footage import read_footage
from reidge.edge.region import paint_over

if TYPE_CHECKING:
    from reidge.edge.frame import Frame


class Recording(Camera):
    """Reads a recording at full speed, or paced to real time."""

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
