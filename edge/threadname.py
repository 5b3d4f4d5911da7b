"""What the system calls a thread: Python before 3.14 keeps its own names to itself."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

LONGEST = 15
"""Bytes that Linux keeps of a name."""


def name_thread() -> None:
    """Give the calling thread its Python name in the system too, where `top -H` and the like show it.

    Threads that it starts in a library, such as a decoder's, inherit the name. Elsewhere than on Linux nothing happens.
    """
    with suppress(OSError):
        Path("/proc/thread-self/comm").write_bytes(threading.current_thread().name.encode()[:LONGEST])
