"""Sums of elementwise minima of sparse rows, for those pairs of rows whose sum is large enough.

An inverted index visits a pair of rows only where they share a column. A column that nearly all rows share, as that
of an image near everything is, would still make every pair meet. Such heavy columns are therefore passed over in rows
that hold too little in them for a pair: two rows whose minima reach the least sum share a light column as well, unless
both hold that sum in heavy columns. For the pairs that are found the heavy columns are added afterwards.
"""

# N = rows, E = entries

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reidge.train.sparse import Block, SparseRows

HEAVY = 2048
"""Rows that a column may have before it is heavy: what a row costs is then at most that many times its entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MinimaIndex:
    """Rows to compare with each other, and the columns by which they find each other."""

    rows: SparseRows
    """In each, heavy columns last."""
    columns: SparseRows
    light_stops: NDArray[np.int64]
    """`(N,)`: where the heavy columns of a row begin."""
    heavy_sums_N: NDArray[np.float32]
    """What a row holds in heavy columns."""
    others: int
    """How many rows each is compared with."""

    @classmethod
    def build(cls, rows: SparseRows) -> MinimaIndex:
        """Index rows that are compared with each other; memory doubles.

        Args:
            rows: With positive values; the order within a row changes in place.
        """
        heavy_sums_N = np.zeros(len(rows), dtype=np.float32)
        light_stops = rows.starts[1:].copy()
        heavy = np.bincount(rows.columns, minlength=len(rows)) > HEAVY
        if heavy.any():
            _put_last(rows.starts, rows.columns, rows.values, heavy, light_stops, heavy_sums_N)
        columns = rows.transposed(len(rows))
        return cls(rows=rows, columns=columns, light_stops=light_stops, heavy_sums_N=heavy_sums_N, others=len(rows))

    @classmethod
    def of_last(cls, rows: SparseRows, first: int) -> MinimaIndex:
        """Index rows that are compared with those from `first` on, which count from 0; no column is heavy."""
        return cls(
            rows=rows,
            columns=rows.from_row(first).transposed(len(rows)),
            light_stops=rows.starts[1:],
            heavy_sums_N=np.zeros(len(rows), dtype=np.float32),
            others=len(rows) - first,
        )

    def near(self, first: int, last: int, *, min_shared: float, room: int) -> Block:
        """Compare the rows first .. last - 1 with all.

        Returns:
            For each how many rows share `min_shared` or more with it, itself always one of them; which, ascending;
            the sums. Where there are more than `room` in all, some more than that.
        """
        block: Block = _near(
            self.rows.starts, self.light_stops, self.rows.columns, self.rows.values, self.heavy_sums_N,
            self.columns.starts, self.columns.columns, self.columns.values, self.others,
            first, last, np.float32(min_shared), room,
        )  # fmt: skip
        return block


@njit(nogil=True)
def _put_last(starts, columns, values, heavy, light_stops, heavy_sums):  # type: ignore[no-untyped-def]
    """Put the heavy columns of each row last; the order is kept otherwise."""
    for row in range(len(starts) - 1):
        place = starts[row]
        own_columns, own_values = columns[place : starts[row + 1]].copy(), values[place : starts[row + 1]].copy()
        for wanted in (False, True):
            for entry in range(len(own_columns)):
                if heavy[own_columns[entry]] == wanted:
                    columns[place], values[place] = own_columns[entry], own_values[entry]
                    place += 1
                    heavy_sums[row] += own_values[entry] if wanted else np.float32(0)
            if not wanted:
                light_stops[row] = place


@njit(nogil=True)
def _near(  # type: ignore[no-untyped-def]
    starts,
    light_stops,
    columns,
    values,
    heavy_sums,
    column_starts,
    rows,
    row_values,
    others,
    first,
    last,
    min_shared,
    room,
):
    sums, touched = np.zeros(others, dtype=np.float32), np.empty(others, dtype=np.int32)
    counts = np.zeros(last - first, dtype=np.int64)
    kept, kept_sums = np.empty(32 * (last - first), dtype=np.int32), np.empty(32 * (last - first), dtype=np.float32)
    size = 0
    for i in range(first, last):
        met = 0
        light_only = heavy_sums[i] < min_shared
        for a in range(starts[i], light_stops[i] if light_only else starts[i + 1]):
            for b in range(column_starts[columns[a]], column_starts[columns[a] + 1]):
                j = rows[b]
                if sums[j] == 0:
                    touched[met] = j
                    met += 1
                sums[j] += min(values[a], row_values[b])
        found = 0
        for j in touched[:met]:
            if light_only and heavy_sums[i] > 0 and sums[j] + min(heavy_sums[i], heavy_sums[j]) >= min_shared:
                _add_heavy(starts, light_stops, columns, values, i, j, sums)
            if sums[j] >= min_shared or j == i:
                touched[found] = j
                found += 1
            else:
                sums[j] = 0
        if size + found > len(kept):
            kept = np.concatenate((kept, np.empty(len(kept) + found, dtype=np.int32)))
            kept_sums = np.concatenate((kept_sums, np.empty(len(kept_sums) + found, dtype=np.float32)))
        touched[:found].sort()
        for j in touched[:found]:
            kept[size], kept_sums[size] = j, sums[j]
            sums[j] = 0
            size += 1
        counts[i - first] = found
        if size > room:
            break
    return counts, kept[:size].copy(), kept_sums[:size].copy()


@njit(nogil=True)
def _add_heavy(starts, light_stops, columns, values, i, j, sums):  # type: ignore[no-untyped-def]
    """Add to the sum of i and j what they share in heavy columns, which ascend in both."""
    a, b = light_stops[i], light_stops[j]
    while a < starts[i + 1] and b < starts[j + 1]:
        if columns[a] == columns[b]:
            sums[j] += min(values[a], values[b])
        step_a, step_b = columns[a] <= columns[b], columns[b] <= columns[a]
        a, b = a + step_a, b + step_b
