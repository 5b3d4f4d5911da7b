"""Time and peak memory of a piece of work in this process, to the page; Linux only."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")
RESET_PEAK = "5"
"""What makes the kernel forget the peak when written to clear_refs."""


def memory(name: str) -> int:
    """Bytes of a line of /proc/self/status: VmRSS, VmHWM (the peak), RssFile (pages of mapped files)."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise ReidgeError(f"the kernel does not tell {name}: peak memory is measured on Linux only.")
    return int(found[1]) * 1024


@dataclass(frozen=True, slots=True)
class Meter:
    """What memory is compared with: this process when its data is loaded and its code compiled."""

    resident: int
    """Bytes."""
    mapped: int
    """Bytes of these that are pages of mapped files."""

    @classmethod
    def here(cls) -> Meter:
        """Begin with what is held now. Mapped files must be resident, or reading them would count."""
        _give_back()
        return cls(memory("VmRSS"), memory("RssFile"))

    def measure(self, work: Callable[[], Result]) -> tuple[Result, dict[str, float]]:
        """Do the work; also return its seconds and its peak in MiB, with all that was held before it and since `here`.

        Raises:
            ReidgeError: The kernel took pages of mapped files back meanwhile, so that the peak is not known.
        """
        _give_back()
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
        began = time.perf_counter()
        result = work()
        seconds, peak = time.perf_counter() - began, memory("VmHWM")
        if memory("RssFile") < 0.99 * self.mapped:
            raise ReidgeError("memory ran short, and the kernel took the features' pages back: the peak is not known.")
        return result, {"seconds": round(seconds, 3), "peak_mib": round((peak - self.resident) / 2**20, 1)}


def _give_back() -> None:
    """Return freed memory to the kernel; else later work would use it and seem to need less."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
    if trim is not None:
        trim(0)
