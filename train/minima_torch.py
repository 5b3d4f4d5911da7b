"""Sums of elementwise minima of sparse rows on any device, for those pairs of rows whose sum is large enough.

As `minima`: an inverted index visits a pair of rows only where they share a column, and heavy columns, which nearly
all rows may share, are passed over where a pair is sure to share a light one.
"""

# N = rows, R = rows of a block, E = entries, A = entries visited, T = terms of sums, U = pairs, W = pairs wanted

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from reidge.train.minima import HEAVY
from reidge.train.sparse_torch import (
    MAX_KEYS,
    ONE,
    TERM_BYTES,
    DeviceRows,
    cut,
    range_sums,
    ranges,
    sums_by_key,
    whole,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSums:
    """What pairs of rows share, one row of each in a block."""

    first: int
    last: int
    """The block has the rows `first .. last - 1`."""
    rows_U: Tensor
    """Counted from the first of the block, ascending; int64."""
    others_U: Tensor
    """Of all rows, ascending for each row; int64."""
    sums_U: Tensor
    """float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceMinima:
    """Rows to compare with each other, and the columns by which they find each other."""

    rows: DeviceRows
    """In each, heavy columns last."""
    columns: DeviceRows
    light_stops_N: Tensor
    """Where the heavy columns of a row begin."""
    heavy_sums_N: Tensor
    """What a row holds in heavy columns, as a whole number."""
    terms: int
    """Of a block."""

    @classmethod
    def build(cls, rows: DeviceRows, *, block_bytes: int) -> DeviceMinima:
        """Index rows that are compared with each other; memory doubles.

        Args:
            rows: With positive values, their columns ascending; the order within a row changes in place.
            block_bytes: Memory that a block may take beside.
        """
        columns = rows.transposed(len(rows), block_bytes=block_bytes)
        stops_N, sums_N = rows.starts[1:].clone(), torch.zeros_like(rows.starts[1:])
        heavy_N = columns.counts > HEAVY
        if heavy_N.any():
            for first, last in rows.blocks(block_bytes // TERM_BYTES):
                _put_last(rows, heavy_N, first, last, stops_N, sums_N)
        terms = max(block_bytes // TERM_BYTES, 1)
        return cls(rows=rows, columns=columns, light_stops_N=stops_N, heavy_sums_N=sums_N, terms=terms)

    def near(self, min_shared: float) -> Iterator[PairSums]:
        """Yield the pairs of rows that share `min_shared` or more, a block of rows at a time."""
        least = int(min_shared * ONE)
        light_only_N = self.heavy_sums_N < least
        stops_N = torch.where(light_only_N, self.light_stops_N, self.rows.starts[1:])
        most = max(MAX_KEYS // len(self.rows), 1)
        for first, last in cut(self._costs(stops_N), self.terms, most=most):
            rows_U, others_U, sums_U = self._meet(first, last, stops_N)
            # What is missing yet: a pair shares no more in heavy columns than either row holds in them.
            missing_U = torch.minimum(self.heavy_sums_N[rows_U + first], self.heavy_sums_N[others_U])
            missing_U = missing_U * light_only_N[rows_U + first]
            hopeful = (sums_U + missing_U >= least).nonzero(as_tuple=True)
            rows_U, others_U, sums_U = rows_U[hopeful], others_U[hopeful], sums_U[hopeful]
            self._add_heavy(first, last, rows_U, others_U, sums_U, missing_U[hopeful] > 0)
            near = (sums_U >= least).nonzero(as_tuple=True)
            sums_U = sums_U[near].double() / ONE
            yield PairSums(first=first, last=last, rows_U=rows_U[near], others_U=others_U[near], sums_U=sums_U)

    def _costs(self, stops_N: Tensor) -> Tensor:
        """Count the terms of each row: the entries of the columns that it visits."""
        lengths_N, costs_N = self.columns.counts, torch.empty_like(stops_N)
        for first, last in self.rows.blocks(self.terms):
            counts_R = stops_N[first:last] - self.rows.starts[first:last]
            entries_A = ranges(self.rows.starts[first:last], counts_R)[1]
            costs_N[first:last] = range_sums(lengths_N[self.rows.columns[entries_A].long()], counts_R)
        return costs_N

    def _meet(self, first: int, last: int, stops_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add the minima that rows of a block share with all in the columns up to their stops."""
        starts_R = self.rows.starts[first:last]
        rows_A, entries_A = ranges(starts_R, stops_N[first:last] - starts_R)
        columns_A = self.rows.columns[entries_A].long()
        starts_A = self.columns.starts[columns_A]
        counts_A = self.columns.starts[columns_A + 1] - starts_A
        keys_U, sums_U = rows_A.new_zeros(0, dtype=torch.int32), rows_A.new_zeros(0)
        for begin, end in cut(counts_A, self.terms):  # more than one only where a single row has too many terms
            visited_T, places_T = ranges(starts_A[begin:end], counts_A[begin:end])
            visited_T += begin
            minima_T = torch.minimum(self.rows.values[entries_A[visited_T]], self.columns.values[places_T])
            keys_T = (rows_A[visited_T] * len(self.rows) + self.columns.columns[places_T]).int()
            keys_U, sums_U = sums_by_key(torch.cat([keys_U, keys_T]), torch.cat([sums_U, whole(minima_T)]))
        keys_U = keys_U.long()
        return keys_U // len(self.rows), keys_U % len(self.rows), sums_U

    def _add_heavy(
        self, first: int, last: int, rows_U: Tensor, others_U: Tensor, sums_U: Tensor, add_U: Tensor
    ) -> None:
        """Add in place what the wanted pairs share in heavy columns."""
        wanted_W = add_U.nonzero()[:, 0]
        if not len(wanted_W):
            return
        starts_R = self.light_stops_N[first:last]
        rows_A, entries_A = ranges(starts_R, self.rows.starts[first + 1 : last + 1] - starts_R)
        keys_A = rows_A * len(self.rows) + self.rows.columns[entries_A]  # ascending
        others_W = others_U[wanted_W]
        starts_W = self.light_stops_N[others_W]
        counts_W = self.rows.starts[others_W + 1] - starts_W
        for begin, end in cut(counts_W, self.terms):
            pairs = wanted_W[begin:end]
            lists_T, places_T = ranges(starts_W[begin:end], counts_W[begin:end])
            keys_T = rows_U[pairs][lists_T] * len(self.rows) + self.rows.columns[places_T]
            found_T = torch.searchsorted(keys_A, keys_T).clamp_(max=len(keys_A) - 1)
            minima_T = torch.minimum(self.rows.values[entries_A[found_T]], self.rows.values[places_T])
            sums_U[pairs] += range_sums(whole(minima_T) * (keys_A[found_T] == keys_T), counts_W[begin:end])


def _put_last(rows: DeviceRows, heavy_N: Tensor, first: int, last: int, stops_N: Tensor, sums_N: Tensor) -> None:
    """Put the heavy columns of the rows of a block last, the order kept otherwise; note where they begin, and sums."""
    entries, counts_R = slice(int(rows.starts[first]), int(rows.starts[last])), rows.counts[first:last]
    rows_E = torch.arange(last - first, device=counts_R.device).repeat_interleave(counts_R)
    heavy_E = heavy_N[rows.columns[entries].long()]
    order_E = (2 * rows_E + heavy_E).sort(stable=True).indices
    stops_N[first:last] -= range_sums(heavy_E.long(), counts_R)
    sums_N[first:last] = range_sums(whole(rows.values[entries]) * heavy_E, counts_R)
    rows.columns[entries] = rows.columns[entries][order_E]
    rows.values[entries] = rows.values[entries][order_E]
