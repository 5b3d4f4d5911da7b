"""Lines that wait on disk until they are acknowledged: bounded, in order, whole after a kill.

A folder of segments, each a file of JSON lines named by the number of its first line. Lines are only ever appended,
acknowledged ones are taken off from the front, and every start and every failed write begins a new segment: so an
unfinished line can only stand at the end of one, where it is not read. While the disk takes nothing, lines are kept
in memory and written later; reading goes on meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reidge.edge.errors import ReidgeError
from reidge.edge.folder import make_own_folder, open_own
from reidge.edge.outputs.lines import CHUNK, write_all

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

SEGMENTS = 16
"""A spool's bound divided by this is a segment's: what is given up at once when the bound is reached."""
LARGEST_SEGMENT = 2**20
LITTERED = 2**16
"""Bytes of acknowledged lines that may stay on disk before they are deleted."""
UNREADABLE_SECONDS = 5.0
"""For which a segment that cannot be read is tried again before the lines behind it go on without it."""
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Of the process or the machine: the file may be well."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One line and its number, which grows by one from line to line."""

    number: int
    line: bytes


@dataclass(slots=True)
class _Segment:
    path: Path
    first: int
    count: int = 0
    size: int = 0
    failed_at: float | None = None
    """Seconds of `time.monotonic()` since when it cannot be read."""

    @property
    def end(self) -> int:
        """Number after its last line."""
        return self.first + self.count


class Spool:
    """Call it from any thread.

    Args:
        folder: Where the segments are; one run at a time.
        max_bytes: Size on disk beyond which the oldest segment is given up.
        max_kept: Lines kept in memory at most while the disk takes nothing.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_kept: int) -> None:
        self.folder = folder
        self.lost = 0
        """Lines that were given up before they were acknowledged."""
        self.trouble: OSError | None = None
        """Why the disk takes nothing at the moment."""
        self.acknowledged = 0
        """Number of the last line before the first that is not acknowledged."""
        self.pending = 0
        """Lines that are not acknowledged."""
        self.kept = 0
        """Those of them that are in memory alone."""
        self.size = 0
        """Bytes on disk."""
        self._max_bytes = max_bytes
        self._segment_bytes = min(LARGEST_SEGMENT, max(1, max_bytes // SEGMENTS))
        self._max_kept = max_kept
        self._segments: deque[_Segment] = deque()
        self._kept: deque[Record] = deque()
        self._next = 1
        self._fd: int | None = None
        self._lock_fd: int | None = None
        self._dirty = False
        self._marked = -1
        self._guard = threading.Lock()

    def open(self) -> None:
        """Take the folder and look what an earlier run left.

        Raises:
            OSError: The folder cannot be made or read.
            ReidgeError: Another run has it.
        """
        make_own_folder(self.folder)  # events tell who was where
        self._lock_fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock_fd)
            self._lock_fd = None
            raise ReidgeError(f"the spool {self.folder} is in use by another run. Give each its own folder.") from error
        with suppress(FileNotFoundError, ValueError):
            self.acknowledged = int((self.folder / "acknowledged").read_text())
        found = [_counted(path) for path in sorted(self.folder.glob("*.jsonl")) if path.stem.isdigit()]
        for segment in [segment for segment in found if not segment.count]:
            _delete(segment)  # killed before its first line; the next one will have its name
            found.remove(segment)
        self._segments = deque(sorted(found, key=lambda segment: segment.first))
        if self._segments:
            self.acknowledged = max(self.acknowledged, self._segments[0].first - 1)
            self._next = self._segments[-1].end
        self._next = max(self._next, self.acknowledged + 1)
        self._take_off()
        self._note()

    def append(self, lines: Iterable[bytes]) -> None:
        """Take lines in, on disk if that works, else in memory."""
        with self._guard:
            for line in lines:
                self._kept.append(Record(self._next, line))
                self._next += 1
            self._settle()
            while len(self._kept) > self._max_kept:
                self._kept.popleft()
                self.lost += 1
            self._note()

    def read(self, after: int, most: int) -> list[Record]:
        """The lines that follow number `after`, at most `most`; none when there are no more.

        A segment that cannot be read is waited for, and after `UNREADABLE_SECONDS` set aside and counted as lost.

        Raises:
            OSError: This process lacks memory or open files.
        """
        with self._guard:
            found: list[Record] = []
            for segment in tuple(self._segments):
                if len(found) < most and segment.end > after + 1:
                    try:
                        found += _lines_of(segment, after, most - len(found))
                    except FileNotFoundError:  # another hand deleted it
                        self._skip(segment)
                    except OSError as error:
                        if error.errno in SHORTAGES:
                            raise
                        if not _is_lasting(segment):
                            return found  # what follows may not go first
                        self._set_aside(segment, error)
                    else:
                        segment.failed_at = None
            found += [record for record in self._kept if record.number > after][: most - len(found)]
            return found

    def acknowledge(self, number: int) -> None:
        """Take off all lines up to and including `number`."""
        with self._guard:
            self.acknowledged = max(self.acknowledged, min(number, self._next - 1))
            self._take_off()
            self._note()

    def tend(self) -> None:
        """Write what memory keeps, remember what was acknowledged, and bring what was not onto the disk itself.

        Call it about once a second. What a power failure can take is the second before it; a kill takes nothing.
        """
        with self._guard:
            self._settle()
            try:
                if self._dirty and self._fd is not None and self.acknowledged < self._next - 1:
                    os.fsync(self._fd)
                    self._dirty = False
                self._mark()
            except OSError as error:  # the worst is that lines are delivered twice
                self.trouble = error
            else:
                self.trouble = self.trouble if self._kept else None
            self._note()

    def close(self) -> None:
        """Remember what was acknowledged and let the folder go."""
        self.tend()
        with self._guard:
            if self.acknowledged >= self._next - 1:
                while self._segments:
                    self._drop_first()
            self._end_segment()
            if self._lock_fd is not None:
                os.close(self._lock_fd)
                self._lock_fd = None

    def _note(self) -> None:
        """Bring the public numbers up to date; whoever reads them must not wait for a disk that hangs."""
        on_disk = sum(max(0, found.end - max(found.first, self.acknowledged + 1)) for found in self._segments)
        self.kept = len(self._kept)
        self.pending = on_disk + self.kept
        self.size = sum(segment.size for segment in self._segments)

    def _settle(self) -> None:
        """Move lines from memory to disk."""
        while self._kept:
            try:
                segment, fd = self._writable(self._kept[0].number)
            except OSError as error:
                self.trouble = error
                return
            data = bytearray()
            for record in self._kept:
                data += record.line
                if segment.size + len(data) >= self._segment_bytes:
                    break
            written, self.trouble = write_all(fd, bytes(data))
            whole = data.count(b"\n", 0, written)
            for _ in range(whole):
                self._kept.popleft()
            segment.count += whole
            segment.size += written
            self._dirty = True
            if self.trouble is not None:
                self._end_segment()
                return

    def _writable(self, number: int) -> tuple[_Segment, int]:
        """The segment that line `number` belongs into, open."""
        if self._fd is not None:
            last = self._segments[-1]
            if last.size < self._segment_bytes and last.end == number:
                return last, self._fd
            self._end_segment()
        while self._segments and sum(found.size for found in self._segments) > self._max_bytes - self._segment_bytes:
            self._drop_first()
        make_own_folder(self.folder)
        path = self.folder / f"{number:016d}.jsonl"
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        self._segments.append(_Segment(path=path, first=number))
        return self._segments[-1], self._fd

    def _end_segment(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            if not self._segments[-1].count:
                _delete(self._segments.pop())

    def _take_off(self) -> None:
        while self._kept and self._kept[0].number <= self.acknowledged:
            self._kept.popleft()
        while self._segments and self._segments[0].end <= self.acknowledged + 1:
            if len(self._segments) == 1 and self._fd is not None and self._segments[0].size < LITTERED:
                break  # it is written to, and small
            self._drop_first()

    def _set_aside(self, segment: _Segment, error: OSError) -> None:
        """Go on without a segment; its file stays, for whoever can read it yet."""
        aside = segment.path.with_suffix(".unreadable")
        log.warning("%s cannot be read (%s): it is kept as %s, not sent", segment.path, error.strerror, aside.name)
        with suppress(OSError):
            segment.path.rename(aside)
        self._skip(segment)

    def _skip(self, segment: _Segment) -> None:
        self.lost += segment.end - max(segment.first, self.acknowledged + 1)
        segment.first, segment.count = segment.end, 0
        if segment is self._segments[-1]:
            self._end_segment()  # what is written to it now goes nowhere
        self._note()

    def _drop_first(self) -> None:
        if len(self._segments) == 1 and self._fd is not None:
            os.close(self._fd)
            self._fd = None
        segment = self._segments.popleft()
        self.lost += max(0, segment.end - max(segment.first, self.acknowledged + 1))
        _delete(segment)

    def _mark(self) -> None:
        if self._marked == self.acknowledged:
            return
        partial = self.folder / ".acknowledged.partial"
        with open_own(partial, "w") as file:
            file.write(f"{self.acknowledged}\n")
        partial.replace(self.folder / "acknowledged")
        self._marked = self.acknowledged


def _delete(segment: _Segment) -> None:
    with suppress(OSError):  # if it cannot be deleted now, the next start does
        segment.path.unlink(missing_ok=True)


def _is_lasting(segment: _Segment) -> bool:
    """Note that a segment could not be read; tells whether that has been so for long."""
    now = time.monotonic()
    segment.failed_at = now if segment.failed_at is None else segment.failed_at
    return now - segment.failed_at >= UNREADABLE_SECONDS


def _counted(path: Path) -> _Segment:
    segment = _Segment(path=path, first=int(path.stem), size=path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            segment.count += chunk.count(b"\n")
    return segment


def _lines_of(segment: _Segment, after: int, most: int) -> list[Record]:
    """Lines of one segment with numbers above `after`."""
    found: list[Record] = []
    with segment.path.open("rb") as file:
        for number in range(segment.first, segment.end):
            line = file.readline()
            if number > after:
                found.append(Record(number, line))
                if len(found) == most:
                    break
    return found
