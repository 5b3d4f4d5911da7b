"""Pseudo labels as an array: clusters are 0, 1, ..., outliers are -1."""

# N = images

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTLIER = -1
"""Pseudo label of an image that belongs to no cluster."""


def num_clusters(labels_N: NDArray[np.int64]) -> int:
    """How many clusters the labels name; outliers are none."""
    return len(np.unique(labels_N[labels_N != OUTLIER]))


def number_clusters(groups_N: NDArray[np.int64], *, min_size: int = 1) -> NDArray[np.int64]:
    """Number the clusters 0, 1, ... in the order of their first image and leave out the small ones.

    Args:
        groups_N: Any integer for each cluster, `OUTLIER` for images that are in none.
        min_size: Clusters of fewer images become outliers.

    Returns:
        `(N,)`, a name that two partitions share only if they are the same.
    """
    names_K, first_K, group_of_N, sizes_K = np.unique(
        groups_N, return_index=True, return_inverse=True, return_counts=True
    )
    kept_K = (names_K != OUTLIER) & (sizes_K >= min_size)
    order = np.argsort(np.where(kept_K, first_K, len(groups_N)), kind="stable")[: kept_K.sum()]
    labels_K = np.full(len(names_K), OUTLIER, dtype=np.int64)
    labels_K[order] = np.arange(len(order))
    return labels_K[group_of_N.reshape(-1)]
