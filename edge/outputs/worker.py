"""A thread and a bounded queue for each output, so that its trouble stays its own."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from reidge.edge.redact import redact_text

if TYPE_CHECKING:
    from reidge.edge.events import Event
    from reidge.edge.metrics import Metrics

BATCH = 256
"""Lines that are delivered together at most."""
RETRY_SECONDS = 1.0
REMIND_SECONDS = 60.0
"""How often trouble that goes on is said again."""

log = logging.getLogger(__name__)


class Output(threading.Thread, ABC):
    """Takes lines at once and delivers them in order, later where that does not work now.

    Args:
        label: Its name in logs and metrics.
        max_waiting: Lines that wait at most; beyond it the oldest are lost and counted.
        metrics: Where losses and failures are counted.
    """

    def __init__(self, label: str, *, max_waiting: int, metrics: Metrics | None) -> None:
        super().__init__(name=f"output-{label}", daemon=True)  # one that hangs in a system call ends with the process
        self.label = label
        self.lost = 0
        """Lines that were given up."""
        self.trouble: str | None = None
        """Why nothing is delivered at the moment; redacted."""
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._waiting: deque[bytes] = deque()
        self._batch: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._said = 0.0

    @abstractmethod
    def open(self) -> None:
        """Get ready, in the caller's thread, so that what can never work is refused at the start.

        Raises:
            OSError: It cannot be written to.
            InputError: Its settings are wrong.
        """

    @abstractmethod
    def deliver(self, lines: deque[bytes]) -> None:
        """Deliver lines from the left and take off what is delivered; whatever is left is tried again."""

    def idle(self) -> None:
        """Look around; called about once a second when nothing is to be delivered."""

    def put(self, event: Event, line: bytes) -> None:
        """Take an event in; never blocks for longer than another thread needs to append to a list."""
        with self._changed:
            if len(self._waiting) >= self._max_waiting:
                self._waiting.popleft()
                self._lose(1)
            self._waiting.append(line)
            self._changed.notify_all()

    def run(self) -> None:
        """Deliver until closed."""
        while self._take():
            try:
                self.deliver(self._batch) if self._batch else self.idle()
            except Exception as error:  # of any kind: it may stop neither this output nor another
                self._failed(error)
                if self._closing.wait(RETRY_SECONDS):
                    break  # the last attempt was made
            else:
                if self._batch:
                    continue
                self._works()

    def flush(self, deadline: float) -> bool:
        """Wait until all that was put is delivered, at most until `deadline` (`time.monotonic()`)."""
        with self._changed:
            return self._changed.wait_for(self._empty, max(0.0, deadline - time.monotonic()))

    def close(self, deadline: float) -> None:
        """Deliver what can be delivered until `deadline` (`time.monotonic()`), then let go."""
        self.flush(deadline)
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self.is_alive():
            self.join(max(0.1, deadline - time.monotonic()))
        with self._changed:
            left = len(self._waiting) + len(self._batch)
            self._lose(left)
        if left:
            log.warning("output %s: closed with %d events not delivered (%s)", self.label, left, self.trouble or "slow")

    def _empty(self) -> bool:
        return not self._waiting and not self._batch

    def _take(self) -> bool:
        """Wait for lines, a second at most; False when closed and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._empty() or self._closing.is_set(), 1.0)
            while self._waiting and len(self._batch) < BATCH:
                self._batch.append(self._waiting.popleft())
            return bool(self._batch) or not self._closing.is_set()

    def _failed(self, error: Exception) -> None:
        self.trouble = redact_text(f"{type(error).__name__}: {' '.join(str(error).split())}")
        self._count("output_failures", 1)
        if time.monotonic() - self._said >= REMIND_SECONDS:
            log.warning("output %s: %s. Events wait, at most %d", self.label, self.trouble, self._max_waiting)
            self._said = time.monotonic()

    def _works(self) -> None:
        if self.trouble is not None:
            log.warning("output %s: works again; %d events were lost in all", self.label, self.lost)
            self.trouble, self._said = None, 0.0
        with self._changed:
            self._changed.notify_all()  # whoever waits in flush

    def _lose(self, lines: int) -> None:
        self.lost += lines
        self._count("output_lost", lines)

    def _count(self, name: str, n: int) -> None:
        if self._metrics is not None and n:
            self._metrics.count(name, n=n, output=self.label)
