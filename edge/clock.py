"""When a picture of a live stream was taken: the camera's own spacing, set on this machine's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reidge.edge.frame import Clock

FORGET = 1e-3
"""Seconds per second by which the least delay seen is forgotten; quartz drifts by a tenth of that at most."""
LONGEST_LAG = 10.0
"""Seconds a picture may seem late at most; beyond that it is the camera's clock that is wrong."""
SUDDEN = 1.0
"""Seconds of lag that come at once are a stall or a clock that was set; slower growth is a clock that runs slow."""
CLOCK_SET = 0.1
"""Seconds by which this machine's clock has to leave its course to count as set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a picture was taken."""

    captured_at: float
    """Seconds since the epoch, UTC."""
    clock: Clock
    lag: float
    """Seconds from then to its arrival, beyond the least seen lately: jitter, a stall, or a backlog."""


class CameraClock:
    """Turns presentation times into times of day.

    Arrival minus presentation time is a constant plus whatever delayed the packet, so the least value seen comes
    nearest to the constant. It is followed downwards at once and forgotten upwards slowly: jitter of the network goes
    away, drift between the two clocks does not add up. Times never run backwards, and never ahead of the arrival.
    """

    def __init__(self) -> None:
        self._trusted = True
        self._base: float | None = None
        self._seconds = self._arrived_at = self._lag = 0.0

    def read(self, seconds: float | None, *, arrived_at: float, epoch: float) -> Moment:
        """Tell when a picture was taken.

        Args:
            seconds: Its presentation time; None where the stream gives none.
            arrived_at: Seconds of `time.monotonic()` when its packet was read.
            epoch: What to add to `time.monotonic()` to get seconds since the epoch.
        """
        if seconds is None or not self._trusted:
            return Moment(captured_at=arrived_at + epoch, clock="arrival", lag=0.0)
        delay = arrived_at - seconds
        if self._base is None or seconds <= self._seconds:  # first of a stream, or the camera's clock was set back
            base = delay
        else:
            base = min(self._base + FORGET * (arrived_at - self._arrived_at), delay)
        lag = delay - base
        if lag > LONGEST_LAG:
            self._trusted = lag - self._lag > SUDDEN
            base, lag = delay, 0.0
        self._base, self._seconds, self._arrived_at, self._lag = base, seconds, arrived_at, lag
        return Moment(captured_at=seconds + base + epoch, clock="camera", lag=lag)
