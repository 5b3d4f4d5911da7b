"""Fewer frames per second, evenly."""

from __future__ import annotations


class Thinner:
    """Takes the frames that are due at a rate.

    The tolerance keeps a rate whole: 10 of 30 frames per second must not become 7.5 because of rounded times or
    jitter of the network.
    """

    def __init__(self, fps: float | None) -> None:
        """Begin; `fps` frames per second at most, None takes all."""
        self.fps = fps
        self._due = float("-inf")

    def takes(self, seconds: float, *, tolerance: float) -> bool:
        """Tell whether the frame of this moment is due; a clock that jumps begins anew."""
        if self.fps is None:
            return True
        interval = 1 / self.fps
        if self._due - 2 * interval <= seconds < self._due - tolerance:
            return False
        late = seconds - self._due
        self._due = self._due + interval if 0 <= late + tolerance < interval else seconds + interval
        return True
