"""Average linkage on a sparse graph of distances, exactly, without the N x N matrix."""

# N = images

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from reidge.edge.errors import InputError
from reidge.train.forest import root
from reidge.train.sparse import as_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


def average_linkage(distances: csr_matrix, *, eps: float = 0.6) -> NDArray[np.int64]:
    """Join the two clusters whose members are nearest on average, again and again, while that is at most `eps`.

    Memory grows with the stored pairs alone, 8 bytes each beside `distances`, and time with little more.

    Args:
        distances: `(N, N)`, symmetric; pairs that are not stored are at distance 1.
        eps: Largest average distance at which clusters are joined, below 1.

    Returns:
        `(N,)`: for each image the number of an image of its cluster; alone, its own.

    Raises:
        InputError: The matrix is not sparse and square, a distance is no number, or `eps` is not 0 to 1.
    """
    if not 0 <= eps <= 1:
        raise InputError(f"got eps {eps}: wants a distance from 0 to 1.")
    distances = as_graph(distances)
    closeness = np.subtract(1, distances.data, dtype=np.float32)
    return np.asarray(_join(distances.indptr, distances.indices.astype(np.int32), closeness, 1 - eps))


@njit(nogil=True)
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
    waiting = np.zeros(number, dtype=np.bool_)  # in the chain
    for first in range(number):
        chain[0], length = root(owners, first), 1
        while True:
            top = chain[length - 1]
            waiting[top] = True
            met = _gather(starts, ends, members, closeness, top, owners, after, last, sums, touched)
            nearest, best = -1, min_closeness
            if length > 1:
                nearest, best = chain[length - 2], links[length - 2]
            nearest, best = _nearest(touched[:met], sums, sizes, waiting, top, nearest, best)
            sums[touched[:met]] = 0
            if nearest == -1:
                waiting[top] = False
                break  # nothing is near enough, nor will be after others have joined
            if length == 1 or nearest != chain[length - 2]:
                links[length - 1] = best
                chain[length] = nearest
                length += 1
                continue
            waiting[top] = waiting[nearest] = False
            whole, part = min(top, nearest), max(top, nearest)
            owners[part] = whole
            sizes[whole] += sizes[part]
            after[last[whole]], last[whole] = part, last[part]
            length -= 2
            if length == 0:
                chain[0], length = whole, 1
    for image in range(number):
        owners[image] = root(owners, image)
    return owners


@njit(nogil=True)
def _nearest(touched, sums, sizes, waiting, top, nearest, best):  # type: ignore[no-untyped-def]
    """Look for a cluster nearer than the one that is nearest so far, and say how close it is.

    Of those waiting in the chain only the one before can be nearest. Another may seem to be, as the two directions of
    a pair are rounded differently, and would lead round in a circle.
    """
    for other in touched:
        close = sums[other] / (sizes[top] * sizes[other])
        if not waiting[other] and (close > best or (close == best and nearest == -1)):
            nearest, best = other, close
    return nearest, best


@njit(nogil=True)
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
            other = root(owners, members[a])
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
