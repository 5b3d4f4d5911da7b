"""Events as JSON lines: in a file that is rotated, or on stdout."""

from __future__ import annotations

import os
import stat
import sys
from io import UnsupportedOperation
from typing import TYPE_CHECKING, TextIO

from pydantic import BaseModel, Field

from reidge.edge.folder import NO_ROOM, make_own_folder
from reidge.edge.outputs.lines import open_lines, write_all
from reidge.edge.outputs.worker import Output

if TYPE_CHECKING:
    from collections import deque
    from pathlib import Path

    from reidge.edge.metrics import Metrics


class RotationConfig(BaseModel, frozen=True, extra="forbid"):
    """When a file of events is put aside as `<name>.1`, `<name>.2` and so on."""

    max_mib: float = Field(64.0, gt=0, allow_inf_nan=False)
    """Size beyond which a new file begins."""
    keep: int = Field(8, ge=1)
    """Files put aside; older ones are deleted."""


class JsonLines(Output):
    """Appends lines to a file. A full disk keeps them in memory, in order, until there is space again."""

    def __init__(self, path: Path, rotation: RotationConfig, *, max_waiting: int, metrics: Metrics | None) -> None:
        super().__init__("events", max_waiting=max_waiting, metrics=metrics)
        self.path = path
        self._rotation = rotation
        self._max_bytes = int(rotation.max_mib * 2**20)
        self._rotate_at = self._max_bytes
        self._fd: int | None = None
        self._size = 0

    def open(self) -> None:
        """Make folder and file; a disk that is full by now may have space later."""
        try:
            self._reopen()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise

    def deliver(self, lines: deque[bytes]) -> None:
        """Append lines; one that did not fit whole is cut off and written again."""
        fd = self._ready(sum(map(len, lines)))
        data = b"".join(lines)
        written, error = write_all(fd, data)
        self._size += written
        for _ in range(data.count(b"\n", 0, written)):
            lines.popleft()
        if error is not None:
            self._let_go()  # opening it again cuts the torn line
            raise error

    def close(self, deadline: float) -> None:
        """Let go of the file too."""
        super().close(deadline)
        if not self.is_alive():
            self._let_go()

    def _ready(self, more: int) -> int:
        """The open file, new where the old one is full or was moved away by another hand."""
        if self._fd is not None and self._moved():
            self._let_go()
        if self._size and self._size + more > self._rotate_at:
            self._rotate()
        return self._reopen() if self._fd is None else self._fd

    def _reopen(self) -> int:
        make_own_folder(self.path.parent)
        self._fd = open_lines(self.path)
        self._size = os.fstat(self._fd).st_size
        return self._fd

    def _moved(self) -> bool:
        assert self._fd is not None
        try:
            here = self.path.stat()
        except FileNotFoundError:
            return True
        ours = os.fstat(self._fd)
        return (here.st_dev, here.st_ino) != (ours.st_dev, ours.st_ino)

    def _rotate(self) -> None:
        if not stat.S_ISREG(self.path.stat().st_mode):
            return
        try:
            for number in range(self._rotation.keep - 1, 0, -1):
                aside = self._aside(number)
                if aside.exists():
                    aside.replace(self._aside(number + 1))
            self.path.replace(self._aside(1))
        except OSError:
            self._count("rotation_failures", 1)
            self._rotate_at = self._size + self._max_bytes  # one file that is too long is better than none
            return
        self._rotate_at = self._max_bytes
        self._let_go()

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._size = None, 0


class Stdout(Output):
    """Writes lines to stdout; a reader that went away or stopped reading costs events, never time."""

    def __init__(self, *, max_waiting: int, metrics: Metrics | None) -> None:
        super().__init__("stdout", max_waiting=max_waiting, metrics=metrics)
        self._text: TextIO = sys.stdout
        self._fd: int | None = None

    def open(self) -> None:
        """Take a descriptor of its own: a thread that hangs in Python's stdout would keep the process from ending."""
        self._text = sys.stdout
        try:
            self._fd = os.dup(self._text.fileno())
        except (UnsupportedOperation, OSError):  # a text stream that stands in for stdout
            self._fd = None

    def deliver(self, lines: deque[bytes]) -> None:
        """Write one line after the other."""
        while lines:
            if self._fd is None:
                self._text.write(lines[0].decode())
                self._text.flush()
            else:
                written, error = write_all(self._fd, lines[0])
                if error is not None:
                    lines[0] = lines[0][written:]
                    raise error
            lines.popleft()
