"""Sparse rows of numbers on any device, and what it takes to work on them a block at a time."""

# N = rows, E = entries, L = lists, T = terms of sums, U = sums

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from reidge.train.sparse import TooManyEntries

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    Block = tuple[Tensor, Tensor, Tensor]

ONE = 2**36
"""What 1 is as a whole number: 2**27 terms of at most 1 can be added."""
ENTRY_BYTES = 8
"""Of an entry: its column and its value."""
TERM_BYTES = 96
"""Of a term, while it is found, sorted and added; what a GPU takes to sort included."""
MAX_KEYS = 2**31 - 1
"""Pairs of a row in a block and a column that keys of four bytes tell apart; they sort twice as fast as longer ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRows:
    """As `SparseRows`, on a device."""

    starts: Tensor
    """`(N + 1,)` int64: row i has the entries `starts[i] .. starts[i + 1] - 1`."""
    columns: Tensor
    """`(E,)` int32."""
    values: Tensor
    """`(E,)` float32."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def counts(self) -> Tensor:
        """`(N,)` int64: entries of each row."""
        return self.starts.diff()

    def blocks(self, entries: int) -> list[tuple[int, int]]:
        """Cut into blocks of rows with about so many entries."""
        return cut(self.counts, entries)

    def transposed(self, number: int, *, block_bytes: int) -> DeviceRows:
        """Turn rows into columns, `number` of them; in each the rows ascend."""
        rows_N = torch.arange(len(self), device=self.starts.device)
        starts = self.starts.new_zeros(number + 1)
        starts[1:] = torch.bincount(self.columns, minlength=number).cumsum(0)
        free_N, columns, values = starts[:-1].clone(), torch.empty_like(self.columns), torch.empty_like(self.values)
        for first, last in self.blocks(block_bytes // TERM_BYTES):
            entries = slice(int(self.starts[first]), int(self.starts[last]))
            columns_E, order_E = self.columns[entries].sort(stable=True)
            counts_N = torch.bincount(columns_E, minlength=number)
            places_E = ranges(free_N, counts_N)[1]
            columns[places_E] = rows_N[first:last].repeat_interleave(self.counts[first:last])[order_E].int()
            values[places_E] = self.values[entries][order_E]
            free_N += counts_N
        return DeviceRows(starts=starts, columns=columns, values=values)


def make_device_rows(
    compute: Callable[[int, int], Block], blocks: list[tuple[int, int]], *, max_entries: int
) -> DeviceRows:
    """Make rows a block at a time.

    Args:
        compute: From the first and the last row (not included) of a block to the number of entries of each row, their
            columns (int32) and their values.
        blocks: Of all rows, in turn.
        max_entries: Of all rows together. Each takes 12 bytes while the blocks are joined, and 8 afterwards.

    Raises:
        TooManyEntries: There would be more.
    """
    counts, columns, values = [], [], []
    made = 0
    for first, last in blocks:
        counts_R, columns_E, values_E = compute(first, last)
        made += len(columns_E)
        if made > max_entries:
            raise TooManyEntries
        counts.append(counts_R)
        columns.append(columns_E)
        values.append(values_E)
    starts = torch.cat([counts[0].new_zeros(1), torch.cat(counts).cumsum(0)])
    return DeviceRows(starts=starts, columns=_joined(columns), values=_joined(values))


def _joined(parts: list[Tensor]) -> Tensor:
    whole = torch.cat(parts)
    parts.clear()  # before the next ones are joined
    return whole


def cut(costs_N: Tensor, room: int, *, most: int | None = None) -> list[tuple[int, int]]:
    """Cut rows into blocks that cost no more than there is room for; a row that does is a block of its own.

    Args:
        costs_N: int64.
        room: For the rows of a block together.
        most: Rows of a block.

    Returns:
        The first and the last row (not included) of each.
    """
    ends_N = np.cumsum(costs_N.cpu().numpy())
    most = len(ends_N) if most is None else most
    blocks, first, spent = [], 0, 0
    while first < len(ends_N):
        fitting = int(np.searchsorted(ends_N, spent + room, side="right"))
        last = min(max(fitting, first + 1), first + most, len(ends_N))
        blocks.append((first, last))
        first, spent = last, int(ends_N[last - 1])
    return blocks


def ranges(starts_L: Tensor, counts_L: Tensor) -> tuple[Tensor, Tensor]:
    """Lay the ranges `starts[l] .. starts[l] + counts[l] - 1` end to end.

    Returns:
        Which list each number belongs to; the numbers. Both int64.
    """
    before_L = counts_L.cumsum(0) - counts_L
    lists_T = torch.arange(len(counts_L), device=counts_L.device).repeat_interleave(counts_L)
    numbers_T = torch.arange(len(lists_T), device=counts_L.device)
    return lists_T, numbers_T + (starts_L - before_L)[lists_T]


def whole(values_T: Tensor) -> Tensor:
    """Turn numbers up to 1 into whole ones, whose sums do not depend on the order."""
    return (values_T * ONE).round_().long()


def sums_by_key(keys_T: Tensor, terms_T: Tensor) -> tuple[Tensor, Tensor]:
    """Add the terms of each key.

    Args:
        keys_T: In any order.
        terms_T: int64; their total must be one too.

    Returns:
        The keys, ascending; the sums.
    """
    keys_T, order_T = keys_T.sort()
    keys_U, counts_U = torch.unique_consecutive(keys_T, return_counts=True)
    return keys_U, range_sums(terms_T[order_T], counts_U)


def range_sums(terms_T: Tensor, counts_U: Tensor) -> Tensor:
    """Add the first `counts[0]` whole numbers, the next `counts[1]`, and so on; together they are all."""
    totals = torch.cat([terms_T.new_zeros(1), terms_T.cumsum(0)])
    ends_U = counts_U.cumsum(0)
    return totals[ends_U] - totals[ends_U - counts_U]
