"""Average linkage on a sparse graph of distances, exactly, without the N x N matrix."""

# N = images

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

ROUNDING = 1e-7
"""Distances that differ by less are equal: the two directions of a pair are summed in different order."""


def average_linkage(distances: csr_matrix, *, eps: float = 0.6) -> NDArray[np.int64]:
    """Join the two clusters whose members are nearest on average, again and again, while that is at most `eps`.

    Memory grows with the stored pairs alone. A cluster never has more than 2 P / (1 - eps) members, P the most pairs
    stored in a row, because too many of its pairs would be at distance 1; that bounds the time as well.

    Args:
        distances: `(N, N)`, symmetric; pairs that are not stored are at distance 1.
        eps: Largest average distance at which clusters are joined, below 1.

    Returns:
        `(N,)`: for each image the number of an image of its cluster; alone, its own.
    """
    closeness = 1 - distances.data.astype(np.float64)
    return np.asarray(_join(distances.indptr, distances.indices, closeness, 1 - eps))


@njit
def _join(starts, members, closeness, min_closeness):  # type: ignore[no-untyped-def]
    """Follow nearest neighbours until two clusters are each other's, and join them (Murtagh, 1983).

    The order differs from taking the nearest pair of all each time, the result does not: joining two clusters never
    brings the result nearer to a third than the nearer of the two was.
    """
    number = len(starts) - 1
    owners, sizes = np.arange(number), np.ones(number, dtype=np.int64)
    after, last = np.full(number, -1, dtype=np.int64), np.arange(number)  # the members of a cluster as a linked list
    sums, touched = np.zeros(number), np.empty(number, dtype=np.int64)
    chain, links = np.empty(number, dtype=np.int64), np.zeros(number)  # links[i]: how close chain[i] and [i + 1] are
    for first in range(number):
        chain[0], length = owners[first], 1
        while True:
            top = chain[length - 1]
            met = _sum_closeness(starts, members, closeness, top, owners, after, sums, touched)
            # The one before counts as nearest unless another is nearer: else rounding could lead round in a circle.
            nearest, best = -1, min_closeness
            if length > 1:
                nearest, best = chain[length - 2], links[length - 2] + ROUNDING
            for other in touched[:met]:
                close = sums[other] / (sizes[top] * sizes[other])
                if close > best or (close == best and nearest == -1):
                    nearest, best = other, close
            sums[touched[:met]] = 0
            if nearest == -1:
                break  # nothing is near enough, nor will be after others have joined
            if length == 1 or nearest != chain[length - 2]:
                links[length - 1] = best
                chain[length] = nearest
                length += 1
                continue
            whole, part = min(top, nearest), max(top, nearest)
            member = part
            while member != -1:
                owners[member] = whole
                member = after[member]
            after[last[whole]], last[whole] = part, last[part]
            sizes[whole] += sizes[part]
            length -= 2
            if length == 0:
                chain[0], length = whole, 1
    return owners


@njit
def _sum_closeness(starts, members, closeness, cluster, owners, after, sums, touched):  # type: ignore[no-untyped-def]
    """Add up in `sums` how close the members of a cluster are to those of each other one; say how many are touched."""
    met = 0
    member = cluster
    while member != -1:
        for a in range(starts[member], starts[member + 1]):
            other = owners[members[a]]
            if other != cluster and closeness[a] > 0:
                if sums[other] == 0:
                    touched[met] = other
                    met += 1
                sums[other] += closeness[a]
        member = after[member]
    return met
