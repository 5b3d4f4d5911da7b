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

    Memory grows with the stored pairs alone, and time with little more.

    Args:
        distances: `(N, N)`, symmetric; pairs that are not stored are at distance 1.
        eps: Largest average distance at which clusters are joined, below 1.

    Returns:
        `(N,)`: for each image the number of an image of its cluster; alone, its own.
    """
    closeness = 1 - distances.data.astype(np.float64)
    return np.asarray(_join(distances.indptr, distances.indices.copy(), closeness, 1 - eps))


@njit
def _join(starts, members, closeness, min_closeness):  # type: ignore[no-untyped-def]
    """Follow nearest neighbours until two clusters are each other's, and join them (Murtagh, 1983).

    The order differs from taking the nearest pair of all each time, the result does not: joining two clusters never
    brings the result nearer to a third than the nearer of the two was.
    """
    number = len(starts) - 1
    owners, sizes = np.arange(number), np.ones(number, dtype=np.int64)
    # A cluster's row is that of its first image, followed by those of others as a linked list.
    ends, after, last = starts[1:].copy(), np.full(number, -1, dtype=np.int64), np.arange(number)
    sums, touched = np.zeros(number), np.empty(number, dtype=np.int64)
    chain, links = np.empty(number, dtype=np.int64), np.zeros(number)  # links[i]: how close chain[i] and [i + 1] are
    for first in range(number):
        chain[0], length = _owner(owners, first), 1
        while True:
            top = chain[length - 1]
            met = _gather(starts, ends, members, closeness, top, owners, after, last, sums, touched)
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
            owners[part] = whole
            sizes[whole] += sizes[part]
            after[last[whole]], last[whole] = part, last[part]
            length -= 2
            if length == 0:
                chain[0], length = whole, 1
    for image in range(number):
        owners[image] = _owner(owners, image)
    return owners


@njit
def _gather(  # type: ignore[no-untyped-def]
    starts, ends, members, closeness, cluster, owners, after, last, sums, touched
):
    """Add up in `sums` how close a cluster's members are to those of each other one; say how many are touched.

    The row is left with one entry for each of them, so that it does not get longer as the clusters grow.
    """
    met = 0
    row = cluster
    while row != -1:
        for a in range(starts[row], ends[row]):
            other = _owner(owners, members[a])
            if other != cluster and closeness[a] > 0:
                if sums[other] == 0:
                    touched[met] = other
                    met += 1
                sums[other] += closeness[a]
        row = after[row]
    written = 0
    row = cluster
    while True:
        taken = min(ends[row] - starts[row], met - written)
        ends[row] = starts[row] + taken
        members[starts[row] : ends[row]] = touched[written : written + taken]
        closeness[starts[row] : ends[row]] = sums[touched[written : written + taken]]
        written += taken
        if written == met:
            break
        row = after[row]
    after[row], last[cluster] = -1, row
    return met


@njit
def _owner(owners, image):  # type: ignore[no-untyped-def]
    """Find the first image of the cluster an image is in."""
    while owners[image] != image:
        owners[image] = owners[owners[image]]
        image = owners[image]
    return image
