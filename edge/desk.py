"""Does what users ask of a gallery while a site runs on it, and forgets in time who is to be forgotten.

A thread of its own looks into the file, so that a slow disk holds up nobody. The work itself is done by the loop,
between two moments, because only the loop may touch the gallery. The answer is given when the change is on disk, and
after an erasure when nothing is left of whom it was about.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.postbox import ANSWER_SECONDS, Letter, Postbox
from reidge.edge.requests import Answer, Request, read_request, retain_now
from reidge.edge.retention import DAY, NEWEST, Calendar
from reidge.edge.threadname import name_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from types import TracebackType

    from reidge.edge.gallery import Gallery
    from reidge.edge.retention import RetentionConfig

LOOK_EVERY = 0.25
"""Seconds between two looks into the file; one costs some microseconds."""
RETAIN_EVERY = 3600.0
"""Seconds between two looks at who is too old."""
RETAIN_FIRST = 10.0
"""The same after the start: what was missed while nothing ran is made up for early, but not while cameras connect."""
FINISH_SECONDS = ANSWER_SECONDS - 1.0
"""For a request to be done and on disk; whoever asks waits not much longer."""

SCRUB_EVERY, SCRUB_SECONDS = 10.0, 0.05
"""How often it is tried again to empty the journal, and how long each time, for which the gallery is not written."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way through the loop."""

    request: Request
    answer: Answer = field(default_factory=dict)
    mark: int = 0
    """Of the gallery when it was done."""
    done: threading.Event = field(default_factory=threading.Event)


class Desk(threading.Thread):
    """Brings requests from the file to the loop and answers back; use it in a `with`.

    Args:
        gallery: Open; the thread reads from it what any thread may.
        retention: Who is to be forgotten.
        ages: Whether anybody is too old by this machine's clock; people in recordings are as old as those.
    """

    def __init__(self, gallery: Gallery, retention: RetentionConfig, *, ages: bool = True) -> None:
        super().__init__(name="desk", daemon=True)  # one that hangs in a system call ends with the process
        self.fulfilled = 0
        """Requests done, of users and of the retention."""
        self._gallery, self._retention, self._ages = gallery, retention, ages
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._scrub_at = math.inf
        """When the journal is to be emptied, on a clock that nobody sets."""
        self._newest: float | None = gallery.store.read(NEWEST, (time.time() + DAY,))[0][0]

    def __enter__(self) -> Desk:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self.join(1.0)

    def serve(self, in_view: Collection[int], tell: Callable[[Request, Answer], None]) -> None:
        """Do one thing that was asked, if any; to be called by the loop between two moments.

        Args:
            in_view: Identities of people who are seen at this moment.
            tell: Hears of every change that was made.
        """
        try:
            job = self._jobs.get_nowait()
        except queue.Empty:
            return
        try:
            job.answer = job.request.fulfil(self._gallery, in_view=in_view)
            tell(job.request, job.answer)
            self.fulfilled += 1
        except InputError as error:
            job.answer = {"refused": str(error)}
        except ReidgeError as error:
            job.answer = {"failed": str(error)}
        except Exception:  # what nobody thought of may cost one request, and not the run
            log.exception("a request for the gallery failed")
            job.answer = {"failed": "the site could not do it. See its log."}
        job.mark = self._gallery.mark()
        job.done.set()

    def run(self) -> None:
        """Look into the file until closed."""
        name_thread()
        retain_at = time.monotonic() + RETAIN_FIRST
        calendar = Calendar(self._newest)
        while not self._closing.wait(LOOK_EVERY):
            try:
                opened = self._gallery.store.opened
                with Postbox(self._gallery.store) as postbox:
                    while self._gallery.store.opened == opened and not self._closing.wait(LOOK_EVERY):
                        for letter in postbox.take():
                            postbox.answer(letter, self._work_on(letter))
                        believed = calendar.believes(time.time(), time.monotonic())
                        if self._ages and believed and time.monotonic() >= retain_at:
                            retain_at = time.monotonic() + RETAIN_EVERY
                            self._retain()
                        if time.monotonic() >= self._scrub_at:
                            self._scrub(SCRUB_SECONDS)
            except ReidgeError as error:  # the gallery's own thread says when the disk is in trouble
                log.debug("requests cannot be looked for: %s", error)
            except Exception:  # what nobody thought of may cost one request, and not all that come after it
                log.exception("a request for the gallery failed")

    def _work_on(self, letter: Letter) -> Answer:
        try:
            request = read_request(letter.text)
        except InputError as error:
            return {"refused": str(error)}
        return self._do(request)

    def _do(self, request: Request) -> Answer:
        """Have the loop do something, and wait until it is on disk."""
        deadline = time.monotonic() + FINISH_SECONDS
        job = Job(request)
        self._jobs.put(job)
        while not job.done.wait(0.05):
            if self._closing.is_set():
                return {"failed": "the site stops at this moment. See whether it was done: reidge gallery audit"}
        while not self._gallery.durable(job.mark):
            if time.monotonic() > deadline or self._closing.is_set():
                return {"failed": f"it is done, but not on disk yet: {self._gallery.trouble or 'the disk is slow.'}"}
            time.sleep(0.01)
        if request.erases and not self._scrub():
            return {
                "failed": "it is done; the journal still holds what was erased, and is emptied as soon as it can be."
            }
        return job.answer

    def _retain(self) -> None:
        more = True
        while more and not self._closing.is_set():
            answer = self._do(retain_now(self._retention))
            more = bool(answer.get("more"))
            if answer.get("erased") or answer.get("sightings"):
                log.info(
                    "forgotten because they were not seen for long: %d identities, %d sightings",
                    len(answer["erased"]),
                    len(answer["sightings"]),
                )

    def _scrub(self, seconds: float | None = None) -> bool:
        """Empty the journal; what cannot be done now is tried again."""
        self._scrub_at = time.monotonic() + SCRUB_EVERY
        with suppress(ReidgeError):
            self._gallery.scrub(seconds)
            self._scrub_at = math.inf
        return self._scrub_at == math.inf
