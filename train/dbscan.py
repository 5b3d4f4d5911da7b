"""DBSCAN on a sparse graph of distances, by joining the cores that are near each other."""

# N = images

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from reidge.edge.errors import InputError
from reidge.train.labels import OUTLIER
from reidge.train.sparse import as_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix


def dbscan(distances: csr_matrix, *, eps: float = 0.6, min_samples: int = 4) -> NDArray[np.int64]:
    """Cluster by density (Ester et al., 1996); pairs that are not stored are farther apart than `eps`.

    The labels are those of scikit-learn, which makes a Python object of every row's neighbours: at a million images
    that takes longer than their distances.

    Args:
        distances: `(N, N)`, symmetric, holding at least every pair within `eps`.
        eps: Largest distance between neighbours.
        min_samples: Neighbours, the image itself included, that make a core.

    Returns:
        `(N,)`; clusters are 0, 1, ... in the order of their first core, `OUTLIER` is outside all. An image that is no
        core belongs to the first cluster that has a core near it.

    Raises:
        InputError: The matrix is not sparse and square, a distance is no number, or a setting makes no sense.
    """
    if not eps >= 0 or min_samples < 1:
        raise InputError(f"got eps {eps} and min_samples {min_samples}: wants 0 or more and 1 or more.")
    rows = as_graph(distances)
    return np.asarray(_dbscan(rows.indptr, rows.indices, rows.data, rows.dtype.type(eps), min_samples))


@njit(nogil=True)
def _dbscan(starts, members, distances, eps, min_samples):  # type: ignore[no-untyped-def]
    number = len(starts) - 1
    cores = np.empty(number, dtype=np.bool_)
    for i in range(number):
        near = 1
        for entry in range(starts[i], starts[i + 1]):
            near += distances[entry] <= eps and members[entry] != i
        cores[i] = near >= min_samples
    first = np.arange(number)  # an earlier core of the same cluster; its first one has itself
    for i in range(number):
        if cores[i]:
            for entry in range(starts[i], starts[i + 1]):
                j = members[entry]
                if j < i and cores[j] and distances[entry] <= eps:
                    a, b = _find(first, i), _find(first, j)
                    first[max(a, b)] = min(a, b)
    labels = np.full(number, OUTLIER, dtype=np.int64)
    clusters = 0
    for i in range(number):
        if cores[i]:
            if first[i] == i:
                labels[i] = clusters
                clusters += 1
            else:
                labels[i] = labels[_find(first, i)]
    for i in range(number):
        if not cores[i]:
            for entry in range(starts[i], starts[i + 1]):
                j = members[entry]
                if cores[j] and distances[entry] <= eps and (labels[i] == OUTLIER or labels[j] < labels[i]):
                    labels[i] = labels[j]
    return labels


@njit(nogil=True)
def _find(first, i):  # type: ignore[no-untyped-def]
    while first[i] != i:
        first[i] = first[first[i]]
        i = first[i]
    return i
