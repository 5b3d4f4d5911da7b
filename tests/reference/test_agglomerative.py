"""Average linkage of the dense matrix and of the sparse graph."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import csr_matrix
from scipy.spatial.distance import squareform

from reidge.train.agglomerative import average_linkage
from reidge.train.labels import number_clusters


def sparse_distances(number: int, far: float, seed: int) -> tuple[csr_matrix, np.ndarray]:
    """Distances of points in the plane, those above `far` not stored; and the dense matrix they stand for."""
    points = np.random.default_rng(seed).random((number, 2))
    dense = np.linalg.norm(points[:, None] - points[None], axis=2)
    stored = dense <= far
    rows, columns = stored.nonzero()
    return csr_matrix((dense[stored], (rows, columns)), dense.shape), np.where(stored, dense, 1.0)


@pytest.mark.parametrize("eps", [0.1, 0.3, 0.6, 0.95])
@pytest.mark.parametrize(("number", "far"), [(1000, 0.9), (200, 0.15), (150, 0.5), (40, 0.99), (2, 0.9)])
def test_sparse_average_linkage_equals_scipys_dense_one(number: int, far: float, eps: float) -> None:
    sparse, dense = sparse_distances(number, far, seed=number)
    expected = fcluster(linkage(squareform(dense, checks=False), "average"), eps, "distance")
    np.testing.assert_array_equal(
        number_clusters(average_linkage(sparse, eps=eps)), number_clusters(expected.astype(np.int64))
    )
