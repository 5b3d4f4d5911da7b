from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix

from reidge.train.hdbscan import hdbscan
from reidge.train.labels import OUTLIER


def on_a_line(positions: list[float]) -> csr_matrix:
    line = np.array(positions)
    dense = np.abs(line[:, None] - line[None])
    rows, columns = (dense < 1).nonzero()
    return csr_matrix((dense[rows, columns], (rows, columns)), dense.shape)


def test_clusters_of_unequal_density_are_found_at_once() -> None:
    tight, loose = [0.0, 0.01, 0.02, 0.03], [0.5, 0.6, 0.7, 0.8]
    found = hdbscan(on_a_line([*tight, *loose, 1.9]), min_samples=2, min_cluster_size=3)
    assert found.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, OUTLIER]


def test_what_no_edge_connects_is_apart() -> None:
    found = hdbscan(on_a_line([0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 9.0]), min_samples=2, min_cluster_size=3)
    assert found.tolist() == [0, 0, 0, 1, 1, 1, OUTLIER]


def test_an_image_as_far_from_two_clusters_is_in_neither() -> None:
    # Exact in binary, so that the two distances tie.
    left, right = [0.0, 0.0625, 0.125], [0.625, 0.6875, 0.75]
    found = hdbscan(on_a_line([*left, 0.375, *right]), min_samples=1, min_cluster_size=3)
    assert found.tolist() == [0, 0, 0, OUTLIER, 1, 1, 1]


def test_copies_of_an_image_are_a_cluster_like_others() -> None:
    found = hdbscan(on_a_line([0.0] * 4 + [0.5, 0.51, 0.52, 0.53]), min_samples=2, min_cluster_size=3)
    assert found.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_everything_is_never_one_cluster() -> None:
    assert set(hdbscan(on_a_line([0.0, 0.1, 0.2, 0.3]), min_samples=2, min_cluster_size=2)) <= {OUTLIER, 0, 1}
    assert hdbscan(on_a_line([0.25] * 6), min_samples=2, min_cluster_size=2).tolist() == [OUTLIER] * 6


def test_fewer_than_two_images_are_outliers() -> None:
    assert hdbscan(csr_matrix((1, 1))).tolist() == [OUTLIER]
    assert hdbscan(csr_matrix((0, 0))).tolist() == []
