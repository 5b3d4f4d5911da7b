"""The dense k-reciprocal Jaccard distance, written as literally as the published algorithm, and the sparse one."""

# N = images, D = embedding, K = columns of the ranking

from __future__ import annotations

import numpy as np
import pytest

from reidge.train.cluster import dbscan
from reidge.train.jaccard import jaccard_distances
from reidge.train.neighbors import nearest_neighbors


def reciprocal(ranking: np.ndarray, i: int, k: int) -> set[int]:
    """Members of the first k + 1 columns of i that have i among theirs; the columns may be fewer."""
    return {int(j) for j in ranking[i, : k + 1] if i in ranking[j, : k + 1]}


def dense_jaccard(features_ND: np.ndarray, k1: int, k2: int) -> np.ndarray:
    number = len(features_ND)
    # The published ranking has k1 columns, so that [: k1 + 1] above means k1 with the image itself.
    ranking = nearest_neighbors(features_ND, min(k1, number)).indices_NK
    V = np.zeros((number, number))
    for i in range(number):
        original = reciprocal(ranking, i, k1)
        expanded = set(original)
        for candidate in original:
            half = reciprocal(ranking, candidate, round(k1 / 2))
            if len(half & original) > 2 / 3 * len(half):
                expanded |= half
        members = sorted(expanded)
        squared = ((features_ND[i] - features_ND[members]) ** 2).sum(axis=1)
        V[i, members] = np.exp(-squared) / np.exp(-squared).sum()
    if k2 > 1:
        V = np.stack([V[ranking[i, :k2]].mean(axis=0) for i in range(number)])
    distances = np.zeros((number, number))
    for i in range(number):
        for j in range(number):
            shared = np.minimum(V[i], V[j]).sum()
            distances[i, j] = 1 - shared / (2 - shared)
    return distances


def blobs(number: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(number // 10, 1), 16))
    points = centres[rng.integers(0, len(centres), number)] + 0.6 * rng.normal(size=(number, 16))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize(
    ("number", "k1", "k2"), [(120, 30, 6), (120, 20, 1), (90, 5, 3), (90, 7, 2), (12, 30, 6), (3, 2, 6), (2, 30, 6)]
)
def test_sparse_distances_equal_the_dense_ones(number: int, k1: int, k2: int) -> None:
    features = blobs(number, seed=number + k1)
    dense = dense_jaccard(features, k1, k2)
    sparse = jaccard_distances(features, k1=k1, k2=k2, max_distance=0.6)
    stored = np.zeros((number, number), dtype=bool)
    entries = sparse.tocoo()  # nonzero() would pass over copies, whose distance is 0
    stored[entries.row, entries.col] = True
    assert stored.diagonal().all()
    # Distances within rounding of the limit may fall on either side of it.
    assert not (stored & (dense > 0.6 + 1e-5)).any()
    assert not (~stored & (dense < 0.6 - 1e-5)).any()
    np.testing.assert_allclose(sparse.toarray()[stored], dense[stored], atol=1e-5)


def test_sparse_and_dense_distances_give_the_same_clusters() -> None:
    from sklearn.cluster import DBSCAN

    features = blobs(300, seed=4)
    dense = np.clip(dense_jaccard(features, 15, 4), 0, None)
    expected = DBSCAN(eps=0.5, min_samples=4, metric="precomputed").fit(dense).labels_
    found = dbscan(jaccard_distances(features, k1=15, k2=4, max_distance=0.5), eps=0.5, min_samples=4)
    assert len(set(expected)) > 5
    np.testing.assert_array_equal(found, expected)
