"""HDBSCAN by its definition, components of a graph at every distance, and scikit-learn's dense one."""

# N = images

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import HDBSCAN

from reidge.train.hdbscan import hdbscan
from reidge.train.labels import OUTLIER, number_clusters


def components(reach_NN: np.ndarray, images: list[int], below: float) -> list[list[int]]:
    """Images that are connected by edges shorter than `below`."""
    labels = connected_components((reach_NN[np.ix_(images, images)] < below).astype(float), directed=False)[1]
    return [[images[i] for i in np.flatnonzero(labels == label)] for label in range(labels.max() + 1)]


def literal_hdbscan(dense_NN: np.ndarray, min_samples: int, min_cluster_size: int) -> np.ndarray:
    core = np.sort(dense_NN, axis=1)[:, min_samples - 1]
    reach_NN = np.maximum(dense_NN, np.maximum(core[:, None], core[None]))
    heights = sorted(set(reach_NN.ravel()), reverse=True)

    def follow(images: list[int], birth: float) -> tuple[float, list[list[int]]]:
        """Lower the distance until the cluster ends; the larger of its stability and what lies below, and the choice.

        The cluster may lose images on the way; `birth` is 1 / distance where it parted from others.
        """
        stability, alive = 0.0, images
        for height in (h for h in heights if h <= 1 / birth):
            parts = components(reach_NN, alive, height)
            large = [part for part in parts if len(part) >= min_cluster_size]
            if len(large) == 1:
                stability += (len(alive) - len(large[0])) * (1 / height - birth)
                alive = large[0]
                continue
            stability += len(alive) * (1 / height - birth)
            below = [follow(part, 1 / height) for part in large]
            if sum(value for value, _ in below) > stability:
                return sum(value for value, _ in below), [chosen for _, choice in below for chosen in choice]
            return stability, [images]
        raise AssertionError("the last height parts everything")

    labels = np.full(len(dense_NN), OUTLIER)
    alive = list(range(len(dense_NN)))
    for height in heights:  # the root: images fall out of it until it parts, and it is never chosen itself
        large = [part for part in components(reach_NN, alive, height) if len(part) >= min_cluster_size]
        if len(large) != 1:
            chosen = [cluster for part in large for cluster in follow(part, 1 / height)[1]]
            for label, members in enumerate(chosen):
                labels[members] = label
            break
        alive = large[0]
    return number_clusters(labels)


def distances(number: int, groups: int, spread: float, far: float, seed: int) -> tuple[csr_matrix, np.ndarray]:
    rng = np.random.default_rng(seed)
    points = rng.random((groups, 2))[rng.integers(0, groups, number)] + spread * rng.normal(size=(number, 2))
    dense = np.linalg.norm(points[:, None] - points[None], axis=2)
    stored = dense <= far
    rows, columns = stored.nonzero()
    return csr_matrix((dense[stored], (rows, columns)), dense.shape), np.where(stored, dense, 1.0)


CASES = [(60, 5, 0.04, 0.3), (60, 5, 0.04, 0.99), (70, 4, 0.1, 0.2), (60, 60, 0.1, 0.99), (30, 1, 0.1, 0.9)]


@pytest.mark.parametrize(("number", "groups", "spread", "far"), CASES)
@pytest.mark.parametrize(("min_samples", "min_cluster_size"), [(4, 5), (1, 2), (3, 12)])
def test_sparse_hdbscan_equals_its_literal_twin(
    number: int, groups: int, spread: float, far: float, min_samples: int, min_cluster_size: int
) -> None:
    sparse, dense = distances(number, groups, spread, far, seed=number + groups)
    found = hdbscan(sparse, min_samples=min_samples, min_cluster_size=min_cluster_size)
    np.testing.assert_array_equal(found, literal_hdbscan(dense, min_samples, min_cluster_size))


@pytest.mark.parametrize(("number", "groups", "spread", "far"), CASES)
@pytest.mark.parametrize("min_samples", [1, 4])
def test_sparse_hdbscan_finds_the_clusters_of_scikit_learns_dense_one(
    number: int, groups: int, spread: float, far: float, min_samples: int
) -> None:
    sparse, dense = distances(number, groups, spread, far, seed=number)
    found = hdbscan(sparse, min_samples=min_samples, min_cluster_size=5)
    model = HDBSCAN(min_cluster_size=5, min_samples=min_samples, metric="precomputed", copy=True)
    expected = model.fit(dense).labels_
    # Where distances tie, scikit-learn gives an image between two clusters to either one.
    clustered = found != OUTLIER
    assert (clustered != (expected != OUTLIER)).sum() <= 0.1 * number
    np.testing.assert_array_equal(number_clusters(found[clustered]), number_clusters(expected[clustered]))
