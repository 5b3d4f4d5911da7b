"""A thread and a bounded queue for each output, so that its trouble stays its own."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING

from reidge.edge.errors import reason_of
from reidge.edge.log import change_of
from reidge.edge.redact import redact_text
from reidge.edge.threadname import name_thread

if TYPE_CHECKING:
    from reidge.edge.events import Event
    from reidge.edge.metrics import Metrics

BATCH = 256
"""Lines that are delivered together at most."""
RETRY_SECONDS = 1.0
HANGS_SECONDS = 5.0
"""In one attempt, before an output counts as troubled; it goes on by itself once the system call returns."""
REMIND_SECONDS = 60.0
"""How often trouble that goes on is said again."""

log = logging.getLogger(__name__)


class Trouble:
    """Says what is wrong once, again every minute while it lasts, and when it is over."""

    def __init__(self, who: str, text: str | None = None) -> None:
        self.text = text
        """What is wrong; None when nothing is. Redacted."""
        self._who = who
        self._said: float | None = None

    def met(self, error: BaseException, note: str) -> None:
        """Something failed; `note` says what happens to the events."""
        self.text = redact_text(reason_of(error))
        now = time.monotonic()
        if self._said is None or now - self._said >= REMIND_SECONDS:
            log.warning("%s: %s. %s", self._who, self.text, note, extra=change_of("trouble", self._who))
            self._said = now

    def over(self) -> None:
        """It works; said only if trouble was."""
        self.text = None
        if self._said is not None:
            log.info("%s: works again", self._who, extra=change_of("trouble", self._who))
            self._said = None


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
        self._max_waiting = max_waiting
        self._metrics = metrics
        self._waiting: deque[bytes] = deque()
        self._batch: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._trouble = Trouble(f"output {label}")
        self._busy_since: float | None = None
        self._loss_said = -REMIND_SECONDS

    @property
    def trouble(self) -> str | None:
        """Why nothing is delivered at the moment, redacted; None when all is well."""
        since = self._busy_since
        if since is not None and time.monotonic() - since > HANGS_SECONDS:
            return f"hangs in a system call for {time.monotonic() - since:.0f} s"
        return self._trouble.text

    @property
    def waiting(self) -> int:
        """Lines that are not delivered yet."""
        return len(self._waiting) + len(self._batch)

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
        name_thread()
        while self._take():
            lines = len(self._batch)
            self._busy_since = time.monotonic()
            try:
                self.deliver(self._batch) if lines else self.idle()
            except Exception as error:  # of any kind: it may stop neither this output nor another
                self._busy_since = None
                self._count("output_failures", 1)
                self._trouble.met(error, f"Events wait, at most {self._max_waiting}")
                if self._closing.wait(RETRY_SECONDS):
                    break  # the last attempt was made
            else:
                self._busy_since = None
                self._trouble.over()
                with self._changed:
                    self._changed.notify_all()  # whoever waits in flush
            self.delivered(lines - len(self._batch))

    def delivered(self, lines: int) -> None:
        """Count lines that `deliver` took off."""
        self._count("output_delivered", lines)

    def flush(self, deadline: float) -> bool:
        """Wait until all that was put is delivered, at most until `deadline` (`time.monotonic()`)."""
        with self._changed:
            return self._changed.wait_for(self._empty, max(0.0, deadline - time.monotonic()))

    def leave(self) -> None:
        """Ask the thread to end once nothing waits, or after one more attempt."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()

    def close(self, deadline: float) -> None:
        """After `leave`: wait for the thread until `deadline` (`time.monotonic()`), and let go."""
        if self.is_alive():
            self.join(max(0.1, deadline - time.monotonic()))
        left = len(self._waiting) + len(self._batch)
        self._lose(left)
        if left:
            log.warning(
                "output %s: ends with %d events not delivered: %s", self.label, left, self.trouble or "too slow"
            )

    def _empty(self) -> bool:
        return not self._waiting and not self._batch

    def _take(self) -> bool:
        """Wait for lines, a second at most; False when closed and nothing is left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._empty() or self._closing.is_set(), 1.0)
            while self._waiting and len(self._batch) < BATCH:
                self._batch.append(self._waiting.popleft())
            return bool(self._batch) or not self._closing.is_set()

    def _lose(self, lines: int) -> None:
        """Count lines that are given up, and say so once a minute."""
        if not lines:
            return
        with self._changed:
            self.lost += lines
            due = time.monotonic() - self._loss_said >= REMIND_SECONDS
            self._loss_said = time.monotonic() if due else self._loss_said
        self._count("output_lost", lines)
        if due:
            reason = self.trouble or "they come faster than they are taken"
            log.warning("output %s: events are lost, %d so far: %s", self.label, self.lost, reason)

    def _count(self, name: str, n: int) -> None:
        if self._metrics is not None and n:
            self._metrics.count(name, n=n, output=self.label)
