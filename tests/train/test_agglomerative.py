from __future__ import annotations

import tracemalloc

import numpy as np
from scipy.sparse import csr_matrix

from reidge.train.agglomerative import average_linkage


def test_all_pairs_of_two_clusters_count() -> None:
    # 0 and 1 are near, 2 is near to 1 only: on average 0.65 away from the two.
    distances = csr_matrix(([0.1, 0.1, 0.3, 0.3], ([0, 1, 1, 2], [1, 0, 2, 1])), shape=(3, 3))
    assert average_linkage(distances, eps=0.64).tolist() == [0, 0, 2]
    assert average_linkage(distances, eps=0.66).tolist() == [0, 0, 0]


def test_copies_are_joined() -> None:
    copies = csr_matrix((np.zeros(16), (np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4))), shape=(4, 4))
    assert average_linkage(copies, eps=0.1).tolist() == [0, 0, 0, 0]


def test_the_distances_stay_as_they_were() -> None:
    distances = csr_matrix(np.full((5, 5), 0.25))
    assert average_linkage(distances, eps=0.3).tolist() == [0] * 5
    np.testing.assert_array_equal(distances.toarray(), np.full((5, 5), 0.25))


def test_images_alone_stay_alone() -> None:
    assert average_linkage(csr_matrix((3, 3)), eps=0.9).tolist() == [0, 1, 2]
    assert average_linkage(csr_matrix((0, 0)), eps=0.9).tolist() == []


def test_a_pair_takes_eight_bytes_beside_the_distances() -> None:
    distances = csr_matrix(np.full((500, 500), 0.25, dtype=np.float32))
    average_linkage(distances[:2, :2], eps=0.3)  # compiled
    tracemalloc.start()
    average_linkage(distances, eps=0.3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 9 * distances.nnz
