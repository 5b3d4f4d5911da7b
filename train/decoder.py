"""Image files that are decoded again whenever they are needed, and may go bad while a run lasts."""

# B = batch, H, W = height and width of the result

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.crops import ResizeMethod, read_image, resize_crops
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class Decoder:
    """Decodes files of a list by a pool of threads that stays open, and keeps account of those it cannot read.

    Args:
        paths: Files that could be read at first.
        size: Height and width of the result.
        resize: How images are brought there.
        max_unreadable: Share of the files that may become unreadable.
        unreadable: Indices of those that already have.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        size: tuple[int, int],
        resize: ResizeMethod,
        max_unreadable: float,
        unreadable: frozenset[int] = frozenset(),
    ) -> None:
        self.unreadable = unreadable
        """Indices of the files that could not be read again."""
        self._paths = paths
        self._size = size
        self._max_unreadable = max_unreadable
        self._resize = resize
        # Its threads start with the first work and end when this object is no longer referred to.
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decoder")
        self._lock = threading.Lock()

    def read(self, indices_B: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode the files at these positions, `(B, H, W, 3)` BGR; one that cannot be read is black.

        Raises:
            ReidgeError: Too many have become unreadable.
        """
        crops_BHW3 = np.zeros((len(indices_B), *self._size, 3), dtype=np.uint8)
        for crop_HW3, index, decoded in zip(
            crops_BHW3, indices_B, self._threads.map(self._decode, indices_B), strict=True
        ):
            if decoded is None:
                self._leave_out(int(index))
            else:
                crop_HW3[:] = decoded
        return crops_BHW3

    def _decode(self, index: int) -> NDArray[np.uint8] | None:
        if index in self.unreadable:
            return None
        try:
            crops_1HW3 = resize_crops([read_image(self._paths[index])], size=self._size, method=self._resize)
        except InputError:
            return None
        return np.asarray(crops_1HW3[0])

    def _leave_out(self, index: int) -> None:
        with self._lock:
            if index in self.unreadable:
                return
            self.unreadable |= {index}
        count, total = len(self.unreadable), len(self._paths)
        what = f"{self._paths[index]} can no longer be read, {count} of {total} crops so far"
        if count > self._max_unreadable * total:
            raise ReidgeError(
                f"{what}: more than {self._max_unreadable:.0%}. Restore the folder and go on with --resume."
            )
        print(f"warning: {what}; it is left out from now on.", file=sys.stderr, flush=True)
