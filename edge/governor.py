"""How often each camera is looked at when the box is too slow for all of them.

Without it, the loop would work on the newest frame of every camera all the time: nothing piles up, but each answer
waits for the whole round before it, and frames are made ready only to be thrown away. So under load every camera is
given the same rate, and those that ask for less keep what they ask for (max-min fairness). The rate is chosen such
that the loop has some time left, which is what keeps the wait for it short.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reidge.edge.camera import CameraCounts

MAX_LOST = 0.02
"""Share of frames that may be lost in bursts before a busy loop counts as overloaded."""
SATURATED = 0.97
"""A loop that works this share of the time is overloaded, whether frames were lost yet or not."""
SMALLEST_CHANGE = 0.1
"""A rate is left alone unless it would change by more than this share."""
LARGEST_RISE = 1.25
"""A rate rises step by step: what the next frames cost is known only once they came."""
RISE_AFTER = 5.0
"""Seconds after any change before a rate rises."""
MEMORY = 0.5
"""Weight of the window before in the cost of a frame."""


class LoadConfig(BaseModel, frozen=True, extra="forbid"):
    """What happens when there are more frames than the box can handle."""

    max_busy: float = Field(0.85, gt=0, le=1)
    """Share of the time in which the loop may work; the rest keeps waits short."""
    min_fps: float = Field(1.0, gt=0)
    """Frames per second that every camera gets whatever the load; tracks suffer below 3 to 5."""
    window: float = Field(2.0, gt=0)
    """Seconds over which the load is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one window showed."""

    seconds: float
    """Its length."""
    busy: float
    """Seconds of it in which the loop worked."""
    handled: int
    """Frames that the loop took in."""
    lost: int
    """Frames that were made ready and never taken, because a newer one had come."""
    wanted: Mapping[str, float]
    """Frames per second that each camera would give by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """A change of rates."""

    level: float | None
    """Frames per second that each camera may give; None when none is held back."""
    camids: tuple[str, ...]
    """All cameras: one that gives less just now, or nothing, may give more in the next moment."""


class Governor:
    """Chooses the rates, window by window."""

    def __init__(self, config: LoadConfig) -> None:
        self.config = config
        self.level: float | None = None
        self.cost: float | None = None
        """Seconds of the loop that a frame takes, smoothed."""
        self._since_change = 0.0

    def judge(self, load: Load) -> Ruling | None:
        """Take in a window; returns the rates from now on, or None when they stay."""
        self._since_change += load.seconds
        if not load.handled or not load.wanted:
            return None
        cost = load.busy / load.handled
        self.cost = cost if self.cost is None else MEMORY * self.cost + (1 - MEMORY) * cost
        level = self._level(load, capacity=self.config.max_busy / max(self.cost, 1e-9))
        if level == self.level:
            return None
        self.level, self._since_change = level, 0.0
        return Ruling(level=level, camids=tuple(load.wanted))

    def _level(self, load: Load, *, capacity: float) -> float | None:
        fair = water_level(load.wanted.values(), capacity)
        fair = None if fair is None else max(fair, self.config.min_fps)
        if self.level is None:
            share = load.busy / load.seconds
            losing = share > self.config.max_busy and load.lost > MAX_LOST * (load.handled + load.lost)
            return fair if losing or share > SATURATED else None
        target = max(load.wanted.values()) if fair is None else fair
        if target < self.level * (1 - SMALLEST_CHANGE):
            # Cameras that give less by themselves, or nothing for a moment, are no reason to hold them back further.
            return self.level if fair is None else target
        if self._since_change < RISE_AFTER:
            return self.level
        risen = min(target, LARGEST_RISE * self.level)
        if fair is None and risen >= target:
            return None
        return risen if risen > self.level * (1 + SMALLEST_CHANGE) else self.level


class LoadMeter:
    """Cuts totals that only grow into windows."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._at: float | None = None
        self._busy, self._handled = 0.0, 0
        self._counts: Mapping[str, CameraCounts] = {}

    def due(self, now: float) -> bool:
        """Whether a window has ended."""
        return self._at is None or now - self._at >= self._window

    def read(
        self,
        now: float,
        *,
        busy: float,
        handled: int,
        counts: Mapping[str, CameraCounts],
        limits: Mapping[str, float | None],
    ) -> Load | None:
        """Give the window that has just ended; None where it is the beginning of the first.

        Args:
            now: Seconds of any clock.
            busy: Seconds that the loop has worked since the start.
            handled: Frames that it has taken in.
            counts: What each camera has done since the start.
            limits: Frames per second that the settings allow each camera.
        """
        load = None
        if self._at is not None:
            seconds = now - self._at
            before = {camid: self._counts.get(camid, found) for camid, found in counts.items()}
            lost = sum(found.dropped - before[camid].dropped for camid, found in counts.items())
            rates = {camid: (found.decoded - before[camid].decoded) / seconds for camid, found in counts.items()}
            load = Load(
                seconds=seconds,
                busy=busy - self._busy,
                handled=handled - self._handled,
                lost=lost,
                wanted={camid: min(rate, limits.get(camid) or rate) for camid, rate in rates.items()},
            )
        self._at, self._busy, self._handled, self._counts = now, busy, handled, counts
        return load


def water_level(wanted: Iterable[float], capacity: float) -> float | None:
    """Share a capacity so that whoever gets less than it wants gets as much as any other; None when all fits.

    Water that fills vessels of different heights stands equally high in all it has not filled.

    Args:
        wanted: What each asks for.
        capacity: What there is.
    """
    heights = sorted(wanted)
    for place, height in enumerate(heights):
        share = capacity / (len(heights) - place)
        if height > share:
            return share
        capacity -= height
    return None
