"""Writes the gallery to disk, in a thread of its own: a slow, full or read-only disk never holds up the loop.

The gallery in memory is complete at any time, and what waits here are the changes by which the file is behind it, in
their order: a few kilobytes for each sighting, and its picture as long as not too much waits. Each write makes the file
whole: either it is as the gallery was at that moment, or as it was before.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from reidge.edge.errors import ReidgeError
from reidge.edge.threadname import name_thread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reidge.edge.records import Statement
    from reidge.edge.store import Store

RETRY_SECONDS = 1.0
MOST_WAITING = 64 * 2**20
"""Bytes of embeddings and pictures that wait, from which on pictures of sightings are left out."""
REMIND_SECONDS = 60.0
"""How often trouble that goes on is said again."""

log = logging.getLogger(__name__)


class Keeper(threading.Thread):
    """Writes what it is given as soon as it can, again and again until it is written."""

    def __init__(self, store: Store) -> None:
        super().__init__(name="gallery", daemon=True)  # one that hangs in a system call ends with the process
        self.failures = 0
        """Writes that failed; each is tried again."""
        self.trouble: str | None = None
        """Why nothing is written at the moment."""
        self.shed = 0
        """Pictures of sightings that were left out, because too much waited."""
        self._store = store
        self._waiting: list[Statement] = []
        self._writing: list[Statement] = []
        self._waiting_bytes = self._writing_bytes = 0
        self._shed_of_late = 0
        self._shed_said_at: float | None = None
        self._given = 0
        self._changed = threading.Condition()
        self._closing = self._last_attempt = False
        self._leave_by = 0.0
        self._said_at: float | None = None

    @property
    def pending(self) -> int:
        """Changes by which the file is behind the gallery."""
        with self._changed:
            return len(self._waiting) + len(self._writing)

    def put(self, statements: Sequence[Statement]) -> None:
        """Take in what changed; returns at once."""
        with self._changed:
            before = self.shed
            for statement in statements:
                size = statement.size
                if statement.is_picture_of_sighting and self._waiting_bytes + self._writing_bytes + size > MOST_WAITING:
                    self.shed += 1
                    continue
                self._waiting.append(statement)
                self._waiting_bytes += size
                self._given += 1
            shed = self.shed - before
            self._shed_of_late += shed
            self._changed.notify_all()
        if shed:
            self._say_shed()

    def mark(self) -> int:
        """A number for all that was put so far."""
        with self._changed:
            return self._given

    def durable(self, mark: int) -> bool:
        """Tell whether all that was put before a mark is in the file."""
        with self._changed:
            return self._given - len(self._waiting) - len(self._writing) >= mark

    def flush(self, seconds: float) -> bool:
        """Wait until the file is like the gallery; False when that takes longer, or does not work at present."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done() or self.trouble is not None, seconds) and self._done()

    def leave(self, seconds: float) -> None:
        """Ask the thread to try once more to write what waits, and to end within `seconds`; does not wait for that."""
        with self._changed:
            if not self._closing:
                self._leave_by = time.monotonic() + seconds
            self._closing = True
            self._changed.notify_all()

    def close(self) -> None:
        """After `leave`: wait for the thread until its time is over; a disk that hangs is left alone then."""
        self.join(max(0.0, self._leave_by - time.monotonic()))
        if self.pending:
            log.error(
                "%d changes of the gallery could not be written: %s", self.pending, self.trouble or "the disk hangs"
            )

    def run(self) -> None:
        """Write until closed."""
        name_thread()
        while self._take():
            try:
                if self.trouble is not None:
                    self._store.reopen()
                self._store.write(self._writing)
            except Exception as error:  # of any kind: what waits must not be lost with this thread
                self._failed(error)
            else:
                self._worked()

    def _done(self) -> bool:
        return not self._waiting and not self._writing

    def _take(self) -> bool:
        """Wait for something to write, after trouble a while longer; False when closed."""
        with self._changed:
            if self.trouble is not None:
                self._changed.wait_for(lambda: self._closing, RETRY_SECONDS)
            self._changed.wait_for(lambda: bool(self._waiting) or self._closing)
            if not self._waiting or self._last_attempt:
                return False
            self._last_attempt = self._closing
            self._writing, self._waiting = self._waiting, []
            self._writing_bytes, self._waiting_bytes = self._waiting_bytes, 0
            return True

    def _failed(self, error: Exception) -> None:
        with self._changed:
            self._waiting, self._writing = self._writing + self._waiting, []
            self._waiting_bytes, self._writing_bytes = self._writing_bytes + self._waiting_bytes, 0
            self.failures += 1
            self.trouble = " ".join(str(error).split())
            self._changed.notify_all()
        expected = isinstance(error, ReidgeError)
        now = time.monotonic()
        if self._said_at is None or now - self._said_at >= REMIND_SECONDS:
            self._said_at = now
            log.warning("%s It is kept in memory and tried again.", self.trouble, exc_info=None if expected else error)

    def _worked(self) -> None:
        with self._changed:
            self._writing, self._writing_bytes = [], 0
            recovered, self.trouble = self.trouble is not None, None
            shed, self._shed_of_late = self._shed_of_late, 0
            self._changed.notify_all()
        if recovered:
            self._said_at = None
            but = f", but for {shed} pictures of sightings" if shed else ""
            log.warning("the gallery is written again, and complete%s", but)

    def _say_shed(self) -> None:
        now = time.monotonic()
        if self._shed_said_at is None or now - self._shed_said_at >= REMIND_SECONDS:
            self._shed_said_at = now
            log.warning(
                "%d MB wait to be written to the gallery, so pictures of sightings are left out, %d so far; embeddings "
                "and decisions are kept. Look after its disk.",
                MOST_WAITING >> 20,
                self.shed,
            )
