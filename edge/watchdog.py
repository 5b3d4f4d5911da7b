"""Ends a process whose loop hangs: with status 1, so that a service manager starts it again.

Native code that never returns cannot be interrupted from Python. What can be done from another thread is done: say
which stage it is, tell that the tracks are over, let the outputs write what they hold, and leave.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

LOOK_SECONDS = 0.25
STOP_SECONDS = 3.5
"""Until the loop has to be done once it was asked to stop."""
LAST_WORDS_SECONDS = 1.0
"""For what is done then in its place."""

log = logging.getLogger(__name__)


class WatchdogConfig(BaseModel, frozen=True, extra="forbid"):
    """When a loop that does not go on counts as stuck."""

    seconds: float | None = Field(60.0, gt=0)
    """In one stage, before the process is ended with status 1; null never ends it."""


class Watchdog(threading.Thread):
    """Watches the thread that made it; use it in a `with` around everything that may hang.

    Args:
        config: How patient it is.
        stop: Set when the run is to end; it then has to within `STOP_SECONDS`.
        leave: Ends the process.
    """

    def __init__(
        self, config: WatchdogConfig, stop: threading.Event, *, leave: Callable[[int], object] = os._exit
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.last_words: Callable[[], object] = lambda: None
        """What is done before the process is ended; it may hang as well."""
        self.stage = "start"
        """What the loop is at."""
        self._config = config
        self._stop_asked = stop
        self._leave = leave
        self._watched = threading.get_ident()
        self._beat_at: float | None = None
        self._over = threading.Event()

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def beat(self, stage: str) -> None:
        """Note that the loop goes on, and with what. The first one arms the watchdog: starting may take long."""
        self.stage, self._beat_at = stage, time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """Since the last beat; 0 before the first."""
        return 0.0 if self._beat_at is None else time.monotonic() - self._beat_at

    def run(self) -> None:
        """Look every quarter of a second.

        The silence is added up look by look: had this process itself been stopped for a minute, the loop would seem
        to hang.
        """
        stop_at: float | None = None
        looked_at, heard_at, silence = time.monotonic(), self._beat_at, 0.0
        while not self._over.wait(LOOK_SECONDS):
            now, beat_at = time.monotonic(), self._beat_at
            passed = min(now - looked_at, 2 * LOOK_SECONDS)
            silence = silence + passed if beat_at is not None and beat_at == heard_at else 0.0
            looked_at, heard_at = now, beat_at
            if self._stop_asked.is_set():
                stop_at = time.monotonic() + STOP_SECONDS if stop_at is None else stop_at
                if time.monotonic() >= stop_at:
                    self._end(0, f"the run does not end {STOP_SECONDS:g} s after it was asked to")
                    return
            elif self._config.seconds is not None and silence > self._config.seconds:
                self._end(1, f"the loop is stuck for {silence:.0f} s")
                return

    def _end(self, status: int, what: str) -> None:
        log.error("%s (stage %s, %s). The process ends here with status %d.", what, self.stage, self._where(), status)
        helper = threading.Thread(target=self.last_words, name="last-words", daemon=True)
        helper.start()
        helper.join(LAST_WORDS_SECONDS)
        if not self._over.is_set():
            self._leave(status)

    def _where(self) -> str:
        """The line of code at which the watched thread is."""
        frame = sys._current_frames().get(self._watched)
        if frame is None:
            return "its thread is gone"
        call = traceback.extract_stack(frame)[-1]
        return f"{Path(call.filename).name}:{call.lineno} in {call.name}"
