"""The k-reciprocal neighbourhood of every image: who finds it among the nearest in return, and how near they are."""

# N = images, K = columns of the ranking, E = entries, D = embedding

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from reidge.train.pairs import pair_similarities
from reidge.train.sparse import SparseRows, make_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.sparse import Block

MIN_OVERLAP = 2 / 3
"""Share of a candidate's half-size set that must lie in the original set for it to join."""


def expanded_sets(ranking_NK: NDArray[np.int32], half: int, *, max_entries: int) -> SparseRows:
    """Give each image its k-reciprocal set, joined by the half-size sets of members that lie mostly within it.

    Args:
        ranking_NK: Nearest images, each one itself first.
        half: Columns that half-size sets come from.
        max_entries: Members of all sets together.

    Returns:
        A row for each image, its members ascending, its values still to be filled in.

    Raises:
        TooManyEntries: There are more.
    """
    mutual_NK = np.empty(ranking_NK.shape, dtype=np.bool_)
    mutual_half_NH = np.empty((len(ranking_NK), min(half, ranking_NK.shape[1])), dtype=np.bool_)
    _find_mutual(ranking_NK, mutual_NK)
    _find_mutual(ranking_NK[:, :half], mutual_half_NH)

    def compute(first: int, last: int, room: int) -> Block:
        counts, columns = _expand(ranking_NK, mutual_NK, mutual_half_NH, first, last)
        return counts, columns, np.empty(len(columns), dtype=np.float32)

    return make_rows(compute, len(ranking_NK), max_entries=max_entries)


def weigh(sets: SparseRows, features_ND: Tensor) -> None:
    """Fill in the softmax, over each row, of the negated squared distances to its members."""
    sets.values[:] = pair_similarities(features_ND, np.arange(len(sets)), sets.starts, sets.columns)
    _softmax(sets.starts, sets.values)


def averaged(rows: SparseRows, ranking_NK: NDArray[np.int32], *, max_entries: int) -> SparseRows:
    """Average, for each image, the rows of those in its ranking (query expansion).

    Args:
        rows: One for each image.
        ranking_NK: The image itself and its nearest.
        max_entries: Of all new rows together.

    Raises:
        TooManyEntries: There are more.
    """

    def compute(first: int, last: int, room: int) -> Block:
        block: Block = _average(rows.starts, rows.columns, rows.values, ranking_NK, first, last)
        return block

    return make_rows(compute, len(ranking_NK), max_entries=max_entries)


@njit(nogil=True)
def _find_mutual(ranking, mutual):  # type: ignore[no-untyped-def]
    for i in range(len(ranking)):
        for a in range(ranking.shape[1]):
            found = False
            for back in ranking[ranking[i, a]]:
                if back == i:
                    found = True
                    break
            mutual[i, a] = found


@njit(nogil=True)
def _expand(ranking, mutual, mutual_half, first, last):  # type: ignore[no-untyped-def]
    """Return how many members the rows first .. last - 1 have, and which."""
    counts = np.zeros(last - first, dtype=np.int64)
    original, joined = np.zeros(len(ranking), dtype=np.int32), np.zeros(len(ranking), dtype=np.int32)  # row that did
    columns, size = np.empty(64 * (last - first), dtype=np.int32), 0
    largest = ranking.shape[1] * (1 + mutual_half.shape[1])
    for i in range(first, last):
        mark = i - first + 1
        if size + largest > len(columns):
            columns = np.concatenate((columns, np.empty(len(columns) + largest, dtype=np.int32)))
        start = size
        for a in range(ranking.shape[1]):
            if mutual[i, a]:
                original[ranking[i, a]] = mark
                joined[ranking[i, a]] = mark
                columns[size] = ranking[i, a]
                size += 1
        for a in range(ranking.shape[1]):
            if mutual[i, a]:
                candidate = ranking[i, a]
                total = inside = 0
                for b in range(mutual_half.shape[1]):
                    if mutual_half[candidate, b]:
                        total += 1
                        inside += original[ranking[candidate, b]] == mark
                if inside > MIN_OVERLAP * total:
                    for b in range(mutual_half.shape[1]):
                        if mutual_half[candidate, b] and joined[ranking[candidate, b]] != mark:
                            joined[ranking[candidate, b]] = mark
                            columns[size] = ranking[candidate, b]
                            size += 1
        columns[start:size].sort()
        counts[i - first] = size - start
    return counts, columns[:size].copy()


@njit(nogil=True)
def _softmax(starts, similarities):  # type: ignore[no-untyped-def]
    """Turn cosines s into exp(-d), d = 2 - 2 s, over their sum in each row."""
    for row in range(len(starts) - 1):
        total = np.float32(0)
        for entry in range(starts[row], starts[row + 1]):
            similarities[entry] = np.exp(np.float32(2) * similarities[entry] - np.float32(2))
            total += similarities[entry]
        for entry in range(starts[row], starts[row + 1]):
            similarities[entry] /= total


@njit(nogil=True)
def _average(starts, columns, values, ranking, first, last):  # type: ignore[no-untyped-def]
    counts = np.zeros(last - first, dtype=np.int64)
    sums, touched = np.zeros(len(starts) - 1, dtype=np.float32), np.empty(len(starts) - 1, dtype=np.int32)
    kept, kept_values = np.empty(64 * (last - first), dtype=np.int32), np.empty(64 * (last - first), dtype=np.float32)
    size = 0
    for i in range(first, last):
        met = 0
        for row in ranking[i]:
            for entry in range(starts[row], starts[row + 1]):
                if sums[columns[entry]] == 0:
                    touched[met] = columns[entry]
                    met += 1
                sums[columns[entry]] += values[entry]
        if size + met > len(kept):
            kept = np.concatenate((kept, np.empty(len(kept) + met, dtype=np.int32)))
            kept_values = np.concatenate((kept_values, np.empty(len(kept_values) + met, dtype=np.float32)))
        touched[:met].sort()
        for column in touched[:met]:
            kept[size] = column
            kept_values[size] = sums[column] / np.float32(ranking.shape[1])
            sums[column] = 0
            size += 1
        counts[i - first] = met
    return counts, kept[:size].copy(), kept_values[:size].copy()
