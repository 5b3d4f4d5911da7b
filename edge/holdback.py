"""Events wait here until what they say is in the gallery's file: what the world was told survives a kill."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reidge.edge.events import Event
    from reidge.edge.gallery import Gallery
    from reidge.edge.metrics import Metrics
    from reidge.edge.reporter import Sink

LONGEST = 5.0
"""Seconds after which an event goes out whether the file says so or not: late news is worth more than none."""
REMIND_SECONDS = 60.0
"""How often it is said that events go out early."""
SAID_FIRST = ("sighting.ended", "sighting.decided")

log = logging.getLogger(__name__)


class Holdback:
    """Hands events on in their order, each once the file says what it says; nobody ever waits for that here.

    Args:
        sink: Where events go.
        gallery: Whose file has to say it first.
        metrics: Where events are counted that went out before.
    """

    def __init__(self, sink: Sink, gallery: Gallery, metrics: Metrics) -> None:
        self._sink, self._gallery, self._metrics = sink, gallery, metrics
        self._waiting: deque[tuple[Event, int, float]] = deque()
        self._said_at: float | None = None

    @property
    def written(self) -> int:
        """Events taken in so far."""
        return self._sink.written + len(self._waiting)

    def write(self, event: Event) -> None:
        """Take one event; it tells of what the gallery is now."""
        durable = event.event in SAID_FIRST or event.event.startswith("identity.")
        self._waiting.append((event, self._gallery.mark() if durable else 0, time.monotonic()))

    def release(self, *, at_once: bool = False) -> set[str]:
        """Hand on what may go, or all of it; returns the cameras it was about."""
        told, early = set(), 0
        trouble = self._gallery.trouble
        while self._waiting:
            event, mark, since = self._waiting[0]
            if not self._gallery.durable(mark):
                if trouble is None and not at_once and time.monotonic() - since < LONGEST:
                    break
                early += 1
            self._waiting.popleft()
            self._sink.write(event)
            if event.camid is not None:
                told.add(event.camid)
        if early:
            self._admit(early, trouble)
        return told

    def _admit(self, early: int, trouble: str | None) -> None:
        self._metrics.count("events_unsaved", n=early)
        now = time.monotonic()
        if self._said_at is None or now - self._said_at >= REMIND_SECONDS:
            self._said_at = now
            why = trouble or "the disk is slow."
            log.warning("events go out before the gallery's file says what they say: %s", why)
