"""Files of whole lines, also after a process was killed or a disk was full in the middle of one."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 64 * 1024


def open_lines(path: Path) -> int:
    """Open a file to append lines to, made if absent, and cut off a last line that was not finished.

    Raises:
        OSError: It cannot be opened or cut.
    """
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)  # events tell who was where
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            _cut_torn_line(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _cut_torn_line(fd: int) -> None:
    end = size = os.fstat(fd).st_size
    while end > 0:
        start = max(0, end - CHUNK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(fd, end)


def write_all(fd: int, data: bytes) -> tuple[int, OSError | None]:
    """Write as much as goes; returns how many bytes that was, and what stopped it."""
    written = 0
    with memoryview(data) as view:
        while written < len(data):
            try:
                written += os.write(fd, view[written:])
            except OSError as error:
                return written, error
    return written, None
