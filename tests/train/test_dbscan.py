from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN
from sklearn.neighbors import sort_graph_by_row_values

from reidge.train.dbscan import dbscan
from reidge.train.labels import OUTLIER


def graph(number: int, share: float, seed: int) -> csr_matrix:
    """Random distances between a share of the pairs, the diagonal stored."""
    rng = np.random.default_rng(seed)
    dense = np.triu(rng.random((number, number)) * (rng.random((number, number)) < share), 1).astype(np.float32)
    rows, columns = np.nonzero(dense)
    values = dense[rows, columns]
    diagonal = np.arange(number)
    return csr_matrix(
        (
            np.concatenate([values, values, np.zeros(number, dtype=np.float32)]),
            (np.concatenate([rows, columns, diagonal]), np.concatenate([columns, rows, diagonal])),
        ),
        shape=(number, number),
    )


@pytest.mark.parametrize("seed", range(12))
def test_labels_are_those_of_scikit_learn(seed: int) -> None:
    distances = graph(150, [0.01, 0.02, 0.04][seed % 3], seed)
    for eps in (0.2, 0.5, 0.9):
        for min_samples in (1, 2, 3, 5):
            sorted_graph = sort_graph_by_row_values(distances, copy=True, warn_when_not_sorted=False)
            expected = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(sorted_graph).labels_
            np.testing.assert_array_equal(dbscan(distances, eps=eps, min_samples=min_samples), expected)


def edges(*pairs: tuple[int, int]) -> csr_matrix:
    """Half the distance 1 between these images."""
    number = max(max(pair) for pair in pairs) + 1
    dense = np.zeros((number, number), dtype=np.float32)
    for a, b in pairs:
        dense[a, b] = dense[b, a] = 0.5
    return csr_matrix(dense)


def test_an_image_between_two_clusters_joins_the_first() -> None:
    groups = [(0, 1), (0, 2), (0, 3), (5, 6), (5, 7), (5, 8)]  # around 0 and 5, the only ones with three near
    between = edges((0, 4), (4, 5), *groups)
    assert dbscan(between, eps=0.5, min_samples=4).tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]


def test_a_distance_of_eps_is_near() -> None:
    two = csr_matrix(np.array([[0, 0.6], [0.6, 0]], dtype=np.float32))
    assert dbscan(two, eps=0.6, min_samples=2).tolist() == [0, 0]
    assert dbscan(two, eps=0.59, min_samples=2).tolist() == [OUTLIER, OUTLIER]


def test_no_images_have_no_labels() -> None:
    assert dbscan(csr_matrix(np.empty((0, 0), dtype=np.float32))).tolist() == []
