"""The shortest edges that hold a graph together, found without a copy of the graph."""

from __future__ import annotations

import numpy as np
from numba import njit

FAR = 1.0
"""Distance of a pair that is not stored."""


@njit(nogil=True)
def spanning_forest(starts, members, distances, cores):  # type: ignore[no-untyped-def]
    """Choose edges that connect at every distance what all edges connect, and no more than needed (Boruvka, 1926).

    Round by round each component takes its shortest edge to another, so at most log2 N times. No edge is copied: memory
    grows with the images alone. Of edges of one length any will do, as long as none closes a circle.

    Args:
        starts: `(N + 1,)`, rows of a symmetric sparse matrix.
        members: The column of each entry.
        distances: Of each entry; those of `FAR` or more connect nothing.
        cores: `(N,)`: no edge of an image is shorter than this.

    Returns:
        The two images and the length of each edge; all are shorter than `FAR`.
    """
    number = len(cores)
    owners = np.arange(number)  # the image that stands for a component
    ways, lengths = np.empty((number, 2), dtype=np.int64), np.empty(number)  # the shortest edge out of it
    alone = np.zeros(number, dtype=np.bool_)  # there is none
    edges, edge_lengths = np.empty((number, 2), dtype=np.int64), np.empty(number)
    chosen, before = 0, -1
    while chosen > before:
        before = chosen
        _shortest_ways(starts, members, distances, cores, owners, alone, ways, lengths)
        for owner in range(number):
            alone[owner] = lengths[owner] == FAR
            if not alone[owner]:
                left, right = root(owners, ways[owner, 0]), root(owners, ways[owner, 1])
                if left != right:
                    owners[max(left, right)] = min(left, right)
                    edges[chosen], edge_lengths[chosen] = ways[owner], lengths[owner]
                    chosen += 1
        for image in range(number):
            owners[image] = root(owners, image)
    return edges[:chosen].copy(), edge_lengths[:chosen].copy()


@njit(nogil=True)
def _shortest_ways(starts, members, distances, cores, owners, alone, ways, lengths):  # type: ignore[no-untyped-def]
    """Find each component's shortest edge to another, lengthened to the core distances of its ends."""
    lengths[:] = FAR
    for row in range(len(cores)):
        owner = owners[row]
        if alone[owner] or cores[row] >= lengths[owner]:
            continue
        for entry in range(starts[row], starts[row + 1]):
            if distances[entry] < lengths[owner] and owners[members[entry]] != owner:
                length = max(distances[entry], cores[row], cores[members[entry]])
                if length < lengths[owner]:
                    lengths[owner] = length
                    ways[owner, 0], ways[owner, 1] = row, members[entry]


@njit(nogil=True)
def root(above, node):  # type: ignore[no-untyped-def]
    """Follow `above`, in which roots stand above themselves, and halve the way for the next time."""
    while above[node] != node:
        above[node] = above[above[node]]
        node = above[node]
    return node
