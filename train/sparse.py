"""Sparse rows of numbers, made a block at a time by several threads and within a bound."""

# N = rows, E = entries

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit
from scipy.sparse import csr_matrix, issparse

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Block = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]

ROWS_AT_ONCE = 1024
"""Rows that a thread takes at a time, or more, so that there are no more blocks than `MAX_BLOCKS`."""
MAX_BLOCKS = 512
"""Each block begins with clearing a few numbers for every column."""


class TooManyEntries(Exception):
    """More entries than there is room for."""


def as_graph(matrix: csr_matrix, what: str = "distances") -> csr_matrix:
    """Return a sparse matrix of all images by all images in rows.

    Raises:
        InputError: It is something else, or not all of its entries are finite.
    """
    if not issparse(matrix) or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        got = f"shape {getattr(matrix, 'shape', '?')} and type {type(matrix).__name__}"
        raise InputError(f"got {what} of {got}: wants a square matrix of scipy.sparse.")
    rows = csr_matrix(matrix)
    if not math.isfinite(rows.data.sum(dtype=np.float64)):
        raise InputError(f"got {what} that are not finite: wants numbers.")
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseRows:
    """As a `csr_matrix`, but with indices of four bytes however many entries there are."""

    starts: NDArray[np.int64]
    """`(N + 1,)`: row i has the entries `starts[i] .. starts[i + 1] - 1`."""
    columns: NDArray[np.int32]
    """`(E,)`."""
    values: NDArray[np.float32]
    """`(E,)`."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self.starts.nbytes + self.columns.nbytes + self.values.nbytes

    def from_row(self, first: int) -> SparseRows:
        """Return the rows from `first` on, without a copy of their entries."""
        start = self.starts[first]
        return SparseRows(starts=self.starts[first:] - start, columns=self.columns[start:], values=self.values[start:])

    def transposed(self, number: int) -> SparseRows:
        """Turn rows into columns, `number` of them; in each the rows ascend."""
        starts = np.zeros(number + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.columns, minlength=number), out=starts[1:])
        columns, values = np.empty_like(self.columns), np.empty_like(self.values)
        _transpose(self.starts, self.columns, self.values, starts[:-1].copy(), columns, values)
        return SparseRows(starts=starts, columns=columns, values=values)


def make_rows(compute: Callable[[int, int, int], Block], number: int, *, max_entries: int) -> SparseRows:
    """Make rows by several threads.

    Args:
        compute: From the first and the last row (not included) of a block, and the entries it may have, to the number
            of entries of each row, their columns and their values. Where there are more it may stop at some more.
        number: Rows.
        max_entries: Of all rows together. Each takes 12 bytes while the blocks are joined, and 8 afterwards.

    Raises:
        TooManyEntries: There would be more.
    """
    size, threads = max(ROWS_AT_ONCE, -(-number // MAX_BLOCKS)), torch.get_num_threads()
    lock, alone, made = Lock(), Lock(), 0

    def block(first: int) -> Block:
        nonlocal made
        last, share = min(first + size, number), (max_entries - made) // threads
        parts = compute(first, last, share)
        if len(parts[1]) > share:  # all threads at once must not take more than there is: once more, one at a time
            del parts
            with alone:
                parts = compute(first, last, max_entries - made)
        with lock:
            made += len(parts[1])
            if made > max_entries:
                raise TooManyEntries
        return parts

    # The compiled loops let go of the GIL.
    with ThreadPoolExecutor(threads) as pool:
        blocks = list(pool.map(block, range(0, number, size)))
    counts, columns, values = (list(parts) for parts in zip(*blocks, strict=True))
    del blocks
    starts = np.zeros(number + 1, dtype=np.int64)
    np.cumsum(np.concatenate(counts), out=starts[1:])
    return SparseRows(starts=starts, columns=_joined(columns), values=_joined(values))


def _joined(parts: list[NDArray[np.int32]] | list[NDArray[np.float32]]) -> NDArray:  # type: ignore[type-arg]
    whole = np.concatenate(parts)
    parts.clear()  # before the next ones are joined
    return whole


@njit(nogil=True)
def _transpose(starts, columns, values, next_entries, rows_out, values_out):  # type: ignore[no-untyped-def]
    for row in range(len(starts) - 1):
        for entry in range(starts[row], starts[row + 1]):
            place = next_entries[columns[entry]]
            next_entries[columns[entry]] += 1
            rows_out[place] = row
            values_out[place] = values[entry]
