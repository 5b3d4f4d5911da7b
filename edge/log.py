"""The log: one line per event of interest on stderr, without secrets, and what repeats said once a minute.

Modules write with `logging.getLogger(__name__)`, and so do libraries; `logging_to` gives all of them one handler. Lines
are written by a thread of their own: a reader of stderr that stands still must not stop a camera.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import sys
import threading
import time
import traceback
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal

from reidge.edge.redact import redact_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType

Form = Literal["text", "json"]
FOLD_SECONDS = 60.0
MAX_FOLDS = 500
"""Different lines that are remembered; the oldest make room."""
MAX_WAITING = 1000
"""Lines that wait for a stderr that stands still; further ones are dropped and counted."""
MAX_LENGTH = 8000
"""Characters of a line; what a library adds beyond is cut off."""
MAX_CHANGES = 6
"""Changes of one thing, such as a camera that comes and goes, that are said at once in a minute."""
WRITE_SECONDS = 0.5
"""How long an error, after which the process may end, is waited for."""
PLAIN = {"plain": True}
"""As `extra`: the line without time and level, for the last word of a command."""


@dataclass(slots=True)
class _Fold:
    said_at: float
    newest: dict[str, str]
    """Level, text and logger: what is said later is to be true then."""
    said: int = 1
    more: int = 0


class LineHandler(logging.Handler):
    """Makes a line of each record and queues it; use it through `logging_to`.

    Warnings and errors with the same text are one line a minute, and so is whatever `fold_as` gives the same key; how
    often it was said meanwhile comes with the next one, or with the newest when the minute is over. Changes of one
    thing, told by `change_of`, are said at once and in order, `MAX_CHANGES` of them a minute, and then the newest.
    """

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.dropped = 0
        self._folds: dict[object, _Fold] = {}
        self._guard = threading.Lock()
        self._lines: queue.Queue[tuple[str, threading.Event] | None] = queue.Queue(MAX_WAITING)
        self._busy_since: float | None = None
        self._writer: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record's line, unless it repeats what was just said."""
        try:
            text = one_line(redact_text(record.getMessage()))
        except Exception as error:  # arguments that do not fit their format must not end what is being logged
            text = f"{record.name}: a line that cannot be written ({type(error).__name__})"
        with self._guard:
            more = self._fold(record, text)
        if more is None:
            return
        written = self._queue(self._line(record, text, more))
        stuck = self._busy_since is not None and time.monotonic() - self._busy_since > WRITE_SECONDS
        if record.levelno >= logging.ERROR and not stuck:
            written.wait(WRITE_SECONDS)

    def flush(self) -> None:
        """Wait, for a moment at most, until all that was said is written."""
        if self._writer is not None:
            self._queue("").wait(WRITE_SECONDS)

    def close(self) -> None:
        """Say what is left and end the thread; one that hangs in stderr is left behind."""
        with self._guard:
            for fold in self._folds.values():
                self._say_more(fold)
            self._folds.clear()
        if self._writer is not None:
            with suppress(queue.Full):
                self._lines.put(None, timeout=WRITE_SECONDS)
                self._writer.join(WRITE_SECONDS)
        super().close()

    def _fold(self, record: logging.LogRecord, text: str) -> int | None:
        """How often this was said unheard since the last time; None when it is to be unheard again."""
        key = getattr(record, "fold", None)
        if record.levelno < logging.WARNING and key is None:
            return 0
        key, now = (record.name, record.levelno, text) if key is None else key, time.monotonic()
        newest = {"level": record.levelname.lower(), "text": text, "logger": record.name}
        before = self._folds.pop(key, None)
        if before is not None and now - before.said_at < FOLD_SECONDS:
            self._folds[key] = before
            if before.said < getattr(record, "most", 1):
                before.said += 1
                return 0
            before.newest, before.more = newest, before.more + 1
            return None
        self._folds[key] = _Fold(said_at=now, newest=newest)
        while len(self._folds) > MAX_FOLDS:
            self._say_more(self._folds.pop(next(iter(self._folds))))
        return 0 if before is None else before.more

    def _say_more(self, fold: _Fold) -> None:
        if fold.more:
            self._queue(self._render(time.time(), fold.newest | {"text": f"{fold.newest['text']} ({fold.more} more)"}))
            fold.more = 0

    def _say_due(self) -> None:
        """Say what was folded more than a minute ago and has not come again since."""
        now = time.monotonic()
        with self._guard:
            for key, fold in list(self._folds.items()):
                if now - fold.said_at >= FOLD_SECONDS:
                    self._say_more(self._folds.pop(key))

    def _line(self, record: logging.LogRecord, text: str, more: int) -> str:
        fields: dict[str, Any] = {"level": record.levelname.lower(), "text": text + (f" ({more} more)" if more else "")}
        if self.form == "json":
            fields["logger"] = record.name
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = redact_text("".join(traceback.format_exception(record.exc_info[1])).rstrip())
        return self._render(None if getattr(record, "plain", False) else record.created, fields)

    def _render(self, created: float | None, fields: dict[str, Any]) -> str:
        if self.form == "json":
            return json.dumps({"time": moment(time.time() if created is None else created), **fields})
        head = "" if created is None else f"{moment(created)} {fields['level']}: "
        tail = f"\n{fields['traceback']}" if "traceback" in fields else ""
        return f"{head}{fields['text']}{tail}"

    def _queue(self, line: str) -> threading.Event:
        written = threading.Event()
        if self._writer is None or not self._writer.is_alive():  # the first line, or the first one after a fork
            self._writer = threading.Thread(target=self._write, name="log", daemon=True)
            self._writer.start()
        try:
            self._lines.put_nowait((line, written))
        except queue.Full:
            self.dropped += 1
            written.set()
        return written

    def _write(self) -> None:
        looked_at = time.monotonic()
        while True:
            if time.monotonic() - looked_at >= FOLD_SECONDS / 12:
                self._say_due()
                looked_at = time.monotonic()
            try:
                item = self._lines.get(timeout=FOLD_SECONDS / 12)
            except queue.Empty:
                continue
            if item is None:
                return
            line, written = item
            self._busy_since = time.monotonic()
            if self.dropped and line:
                lost = f"{self.dropped} lines of the log were lost: stderr stood still"
                line, self.dropped = f"{line}\n{self._render(time.time(), {'level': 'warning', 'text': lost})}", 0
            # Where stderr is closed, or its reader is gone, there is nobody to tell.
            with suppress(OSError, ValueError), _beside_a_bar():
                sys.stderr.write(f"{line}\n" if line else "")
                sys.stderr.flush()
            self._busy_since = None
            written.set()


def fold_as(*key: object) -> dict[str, object]:
    """As `extra` of a line whose text differs each time: which lines are the same, e.g. `fold_as("down", camid)`."""
    return {"fold": key}


def change_of(*key: object) -> dict[str, object]:
    """As `extra` of a line that says how something is from now on, e.g. `change_of("camera", camid)`."""
    return {"fold": key, "most": MAX_CHANGES}


def tell(text: str) -> None:
    """Say how far something is: in the form of the log where `logging_to` gives one, else as it is, on stderr."""
    if any(isinstance(handler, LineHandler) for handler in logging.getLogger().handlers):
        logging.getLogger(__name__).info("%s", text, extra=PLAIN)
    else:
        print(text, file=sys.stderr, flush=True)


@contextmanager
def logging_to(form: Form = "text", *, level: int = logging.INFO) -> Iterator[LineHandler]:
    """Send the log of this process, warnings, and exceptions that nobody caught to stderr.

    Args:
        form: Lines of text, or one JSON object a line.
        level: The least of our own; of libraries, warnings.
    """
    handler = LineHandler(form)
    root, ours = logging.getLogger(), logging.getLogger("reidge")
    before = ours.level, threading.excepthook, sys.unraisablehook
    ours.setLevel(level)
    root.addHandler(handler)
    logging.captureWarnings(True)
    threading.excepthook = _of_thread
    sys.unraisablehook = _of_finaliser
    try:
        yield handler
    finally:
        level_before, threading.excepthook, sys.unraisablehook = before
        ours.setLevel(level_before)
        logging.captureWarnings(False)
        root.removeHandler(handler)
        handler.close()


def redact_tracebacks() -> None:
    """Print the traceback that ends the process, a mistake of our own, without the secrets in its exceptions."""

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(redact_text("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = show


def one_line(text: str) -> str:
    """A text without line breaks and other control characters, by which a camera could forge lines or colours."""
    return re.sub(r"\s*[\x00-\x1f\x7f-\x9f\u2028\u2029]+\s*", " ", text).strip()[:MAX_LENGTH]


def moment(seconds: float) -> str:
    """Seconds since the epoch as `2025-06-01T08:00:00.250Z`."""
    return datetime.fromtimestamp(seconds, tz=timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _of_thread(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None and not isinstance(failure.exc_value, SystemExit):
        name = failure.thread.name if failure.thread is not None else "unknown"
        logging.getLogger(__name__).error("the thread %s failed", name, exc_info=failure.exc_value)


def _of_finaliser(failure: Any) -> None:
    what = failure.err_msg or "exception ignored"
    logging.getLogger(__name__).warning("%s: %s", what, redact_text(repr(failure.exc_value)))


def _beside_a_bar() -> AbstractContextManager[object]:
    """Lets a line stand above a progress bar; where there is none, nothing is done."""
    if "tqdm" not in sys.modules or not sys.stderr.isatty():
        return nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stderr)
