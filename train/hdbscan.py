"""HDBSCAN on a sparse graph of distances: clusters of unequal density, without an eps.

After Campello, Moulavi and Sander (PAKDD 2013). The hierarchy is that of the connected components of the graph as the
largest allowed distance grows. Jaccard distances tie often, so a component may fall into more than two parts at once;
all are taken together, and the result does not depend on the order of the edges.
"""

# N = images, E = edges of the spanning forest, C = clusters that were ever alive

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from reidge.edge.errors import InputError
from reidge.train.forest import FAR, root, spanning_forest
from reidge.train.labels import OUTLIER, number_clusters
from reidge.train.sparse import as_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

MIN_DISTANCE = 1e-6
"""Smaller distances are rounding; without a limit a few copies of an image would be infinitely stable."""


def hdbscan(distances: csr_matrix, *, min_samples: int = 4, min_cluster_size: int = 5) -> NDArray[np.int64]:
    """Cluster by density and keep the clusters that live longest ("excess of mass"); all images are never one cluster.

    Args:
        distances: `(N, N)`, symmetric, the diagonal stored as 0; pairs that are not stored are at distance 1.
        min_samples: Neighbours, the image itself included, within the core distance.
        min_cluster_size: Fewer images are no cluster but fall out of one; at least 2.

    Returns:
        `(N,)`; clusters are 0, 1, ... in the order of their first image. An image where clusters part, and whose core
        distance is that of the parting, is an outlier.

    Raises:
        InputError: The matrix is not sparse and square, a distance is no number, or a setting makes no sense.
    """
    if min_samples < 1 or min_cluster_size < 2:
        raise InputError(
            f"got min_samples {min_samples} and min_cluster_size {min_cluster_size}: wants 1 or more and 2 or more."
        )
    distances = as_graph(distances)
    number = distances.shape[0]
    if number < 2:
        return np.full(number, OUTLIER, dtype=np.int64)
    cores_N = _core_distances(distances.indptr, distances.data, min_samples)
    edges_E2, lengths_E = spanning_forest(distances.indptr, distances.indices, distances.data, cores_N)
    children, heights, sizes = _single_linkage(number, edges_E2, lengths_E, np.argsort(lengths_E, kind="stable"))
    found = _condense(number, children, heights, sizes, min_cluster_size)
    cluster_N, parents_C, stabilities_C, clusters = found
    chosen_C = _most_stable(parents_C[:clusters], stabilities_C[:clusters])
    return number_clusters(chosen_C[cluster_N])


@njit(nogil=True)
def _core_distances(starts, distances, min_samples):  # type: ignore[no-untyped-def]
    cores = np.full(len(starts) - 1, FAR)
    for row in range(len(cores)):
        near = distances[starts[row] : starts[row + 1]]
        if len(near) >= min_samples:
            cores[row] = np.partition(near, min_samples - 1)[min_samples - 1]
    return cores


@njit(nogil=True)
def _single_linkage(number, edges, lengths, order):  # type: ignore[no-untyped-def]
    """Join the nearest components until one is left; what no edge joins is `FAR` apart.

    Returns:
        The two children, the distance and the number of images of each node of the tree; images are 0 .. number - 1.
    """
    children = np.full((2 * number - 1, 2), -1, dtype=np.int64)
    heights, sizes = np.zeros(2 * number - 1), np.ones(2 * number - 1, dtype=np.int64)
    above = np.arange(2 * number - 1)  # a node nearer to the root, or the root itself
    top = number
    for step in range(len(order) + number - 1):
        # Past the edges, every image is joined with the first one.
        left, right, height = 0, step - len(order) + 1, FAR
        if step < len(order):
            left, right, height = edges[order[step], 0], edges[order[step], 1], lengths[order[step]]
        left, right = root(above, left), root(above, right)
        if left != right:
            children[top, 0], children[top, 1] = left, right
            heights[top], sizes[top] = height, sizes[left] + sizes[right]
            above[left] = above[right] = top
            top += 1
    return children, heights, sizes


@njit(nogil=True)
def _condense(number, children, heights, sizes, min_size):  # type: ignore[no-untyped-def]
    """Follow the clusters from the root down: where a component falls apart, parts of `min_size` live on.

    One such part is still the same cluster; of several each is a new one.

    Returns:
        For each image the last cluster it was in; for each cluster its parent (the root's is -1) and its stability:
        1 / distance, from where the cluster begins to where each image leaves it, summed over the images; and how
        many clusters there are.
    """
    cluster_of = np.zeros(number, dtype=np.int64)
    parents, births, stabilities = np.full(number, -1, dtype=np.int64), np.zeros(number), np.zeros(number)
    clusters = 1
    nodes, owners = np.empty(number, dtype=np.int64), np.empty(number, dtype=np.int64)  # still to be looked at
    nodes[0], owners[0], waiting = 2 * number - 2, 0, 1
    parts, images = np.empty(number, dtype=np.int64), np.empty(number, dtype=np.int64)
    while waiting:
        waiting -= 1
        node, owner = nodes[waiting], owners[waiting]
        density = 1 / max(heights[node], MIN_DISTANCE)
        found = _descend(node, heights[node], number, children, heights, parts)
        large = (sizes[parts[:found]] >= min_size).sum()
        for part in parts[:found]:
            if sizes[part] >= min_size and large == 1:
                heir = owner
            else:
                stabilities[owner] += sizes[part] * (density - births[owner])
                if sizes[part] < min_size:
                    cluster_of[images[: _descend(part, 0, number, children, heights, images)]] = owner
                    continue
                heir, clusters = clusters, clusters + 1
                parents[heir], births[heir] = owner, density
            nodes[waiting], owners[waiting] = part, heir
            waiting += 1
    return cluster_of, parents, stabilities, clusters


@njit(nogil=True)
def _descend(node, height, number, children, heights, found):  # type: ignore[no-untyped-def]
    """Write to `found` the images and the merges below `height` that a node consists of; say how many there are."""
    met, depth = 0, 1
    found[0] = node
    # The nodes that are done stand at the front, those to look at behind them.
    while depth > met:
        part = found[depth - 1]
        if part >= number and heights[part] >= height:
            found[depth - 1], found[depth] = children[part]
            depth += 1
        else:
            found[depth - 1], found[met] = found[met], part
            met += 1
    return met


@njit(nogil=True)
def _most_stable(parents, stabilities):  # type: ignore[no-untyped-def]
    """Choose the clusters, none within another and never the root, of the largest stability in all.

    Returns:
        For each cluster the chosen one that it lies in or is; `OUTLIER` where there is none.
    """
    best, below = stabilities.copy(), np.zeros(len(parents))
    chosen = np.zeros(len(parents), dtype=np.bool_)
    for cluster in range(len(parents) - 1, 0, -1):  # children have larger numbers
        chosen[cluster] = below[cluster] <= stabilities[cluster]
        best[cluster] = max(below[cluster], stabilities[cluster])
        below[parents[cluster]] += best[cluster]
    owners = np.full(len(parents), OUTLIER, dtype=np.int64)
    for cluster in range(1, len(parents)):
        owner = owners[parents[cluster]]
        owners[cluster] = cluster if owner == OUTLIER and chosen[cluster] else owner
    return owners
