"""How long a camera that is down is left alone."""

from __future__ import annotations

import random

FIRST, LONGEST = 1.0, 60.0
"""Seconds of the first and of the longest pause."""
SHARE = 1 / 3
"""Longest pause, as a share of the time the camera has been down: a short outage is not made much longer."""
STEADY = 5.0
"""Seconds that a connection has to last for the next pause to begin at a second again."""
FLICKER = 2.0
"""Longest first pause of a camera whose connections do not last: it is not to come and go every second."""
JITTER = 0.2
"""Share by which a pause varies: cameras that fell together rise apart."""


class Backoff:
    """Pauses that double from a second to a minute."""

    def __init__(self) -> None:
        self._down_since: float | None = None
        self._failures = 0
        self._least = FIRST

    def failed(self, now: float, *, refused: bool = False) -> float:
        """Give the seconds to wait after a failure.

        Args:
            now: Seconds of `time.monotonic()`.
            refused: The password was wrong. Many cameras lock an account after a few of these, so the pause doubles
                however short the time was.
        """
        if self._down_since is None:
            self._down_since = now
        pause = min(self._least * 2.0**self._failures, LONGEST)
        if not refused:
            pause = min(pause, max(self._least, SHARE * (now - self._down_since)))
        self._failures = min(self._failures + 1, 16)
        return pause * random.uniform(1 - JITTER, 1 + JITTER)

    def down_for(self, now: float) -> float:
        """Seconds since the first failure in a row; 0 without one."""
        return 0.0 if self._down_since is None else now - self._down_since

    def lasted(self, seconds: float) -> bool:
        """Begin anew after a connection that gave pictures; tells whether it lasted long enough to be trusted."""
        steady = seconds > STEADY
        self._down_since, self._failures = None, 0
        self._least = FIRST if steady else min(2 * self._least, FLICKER)
        return steady
