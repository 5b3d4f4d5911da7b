from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.sparse import csr_matrix

from reidge.train.cluster import OUTLIER, ClusterConfig, dbscan, num_clusters
from reidge.train.jaccard import jaccard_distances


def test_outliers_are_not_a_cluster() -> None:
    assert num_clusters(np.array([0, 0, 1, OUTLIER])) == 2
    assert num_clusters(np.array([OUTLIER])) == 0
    assert num_clusters(np.array([], dtype=np.int64)) == 0


def test_pairs_that_are_not_stored_are_far_apart() -> None:
    near = np.array([[0, 0.1, 1], [0.1, 0, 1], [1, 1, 0]])
    stored = csr_matrix(np.where(near < 1, near, 0))
    assert dbscan(stored, eps=0.5, min_samples=2).tolist() == [0, 0, OUTLIER]


def test_copies_of_an_image_form_a_cluster() -> None:
    features = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 1, 2]]
    labels = dbscan(jaccard_distances(features, k1=3, k2=1, max_distance=0.6), min_samples=3)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, OUTLIER]


def test_no_images_have_no_labels() -> None:
    assert dbscan(jaccard_distances(np.empty((0, 4), dtype=np.float32))).tolist() == []


def test_distances_refuse_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r"\(3,\)"):
        jaccard_distances(np.ones(3, dtype=np.float32))


def test_eps_of_one_would_join_everything_and_is_refused() -> None:
    with pytest.raises(ValidationError):
        ClusterConfig(eps=1.0)
