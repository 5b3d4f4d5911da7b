from __future__ import annotations

import numpy as np

from reidge.train.labels import OUTLIER, num_clusters, number_clusters


def test_outliers_are_not_a_cluster() -> None:
    assert num_clusters(np.array([0, 0, 1, OUTLIER])) == 2
    assert num_clusters(np.array([OUTLIER])) == 0
    assert num_clusters(np.array([], dtype=np.int64)) == 0


def test_clusters_are_numbered_by_their_first_image() -> None:
    assert number_clusters(np.array([7, OUTLIER, 3, 7, 5, 3])).tolist() == [0, OUTLIER, 1, 0, 2, 1]


def test_the_members_of_small_clusters_are_outliers() -> None:
    assert number_clusters(np.array([4, 9, 9, 2, 2, 2]), min_size=3).tolist() == [OUTLIER] * 3 + [0, 0, 0]


def test_no_images_have_no_labels() -> None:
    assert number_clusters(np.array([], dtype=np.int64)).tolist() == []
