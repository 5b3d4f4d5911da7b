"""What a camera's thread hands to the loop: frames and news of the camera, in the order in which they came."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reidge.edge.frame import Frame

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_NEWS = 64
"""News of one camera that wait at most; a loop that is this far behind has lost the thread anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraState:
    """A camera came up or went down, or is down for another reason than before."""

    camid: str
    up: bool
    at: float
    """Seconds since the epoch, UTC."""
    reason: str = ""
    """Why it is down; redacted."""


class Mailbox:
    """Holds `size` frames at most, and the news between them.

    One queue for both: a frame from before a loss must not be handled after the loss was told, or its tracks would
    never end.
    """

    def __init__(self, size: int, wake: threading.Event) -> None:
        """Begin; `wake` is set whenever something came."""
        self.size = size
        self.dropped = 0
        """Frames that nobody took."""
        self._wake = wake
        self._lock = threading.Condition()
        self._items: deque[Frame | CameraState] = deque()
        self._frames = 0

    def say(self, state: CameraState) -> None:
        """Add news; the oldest make room."""
        with self._lock:
            self._items.append(state)
            if len(self._items) - self._frames > MOST_NEWS:
                self._items.remove(next(item for item in self._items if isinstance(item, CameraState)))
        self._wake.set()

    def put_newest(self, frame: Frame, *, unless: Callable[[], bool] = bool) -> None:
        """Add a frame in place of what the loop has not taken yet.

        Args:
            frame: What was decoded.
            unless: Asked at the last moment, when nobody can clear the mailbox: whether to drop the frame instead.
        """
        with self._lock:
            if unless():
                self.dropped += 1
                return
            self._clear()
            self._items.append(frame)
            self._frames += 1
        self._wake.set()

    def put_all(self, frame: Frame, *, seconds: float) -> bool:
        """Add a frame when there is room, or give up after so many seconds."""
        with self._lock:
            if not self._lock.wait_for(lambda: self._frames < self.size, timeout=seconds):
                return False
            self._items.append(frame)
            self._frames += 1
            self._lock.notify_all()
        self._wake.set()
        return True

    def take(self) -> tuple[list[CameraState], Frame | None]:
        """Take the next frame and the news from before it; without a frame, all the news."""
        states: list[CameraState] = []
        with self._lock:
            while self._items:
                item = self._items.popleft()
                if isinstance(item, Frame):
                    self._frames -= 1
                    self._lock.notify_all()
                    return states, item
                states.append(item)
        return states, None

    def wait(self, seconds: float) -> bool:
        """Wait for a frame; tells whether there is one."""
        with self._lock:
            return self._lock.wait_for(lambda: self._frames > 0, timeout=seconds)

    def clear(self) -> None:
        """Drop the frames that wait."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self.dropped += self._frames
        self._frames = 0
        self._items = deque(item for item in self._items if isinstance(item, CameraState))
