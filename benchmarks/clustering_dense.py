"""Clustering as public code bases write it: everything is a matrix of all images by all images.

k-reciprocal Jaccard distances (Zhong et al., CVPR 2017) in the variant of unsupervised re-ID, vectorised row by row as
is usual, then scikit-learn's DBSCAN on the matrix. Written from the formulas; it is what the sparse distances are
measured against and must agree with. Nothing here is part of the library.
"""

# N = images, D = embedding, K = columns of the ranking

from __future__ import annotations

from typing import TYPE_CHECKING

import faiss
import numpy as np
from sklearn.cluster import DBSCAN

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rank(features_ND: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Find the k nearest images of each by comparing all pairs; of copies any may come first."""
    index = faiss.IndexFlatIP(features_ND.shape[1])
    index.add(features_ND)
    return np.asarray(index.search(features_ND, k)[1])


def jaccard(
    features_ND: NDArray[np.float32], ranking_NK: NDArray[np.int64], *, k1: int, k2: int
) -> NDArray[np.float32]:
    """Return all distances, `(N, N)`.

    Args:
        features_ND: Unit length.
        ranking_NK: k1 columns with the image itself, so that an image has k1 - 1 neighbours; of N images at most N.
        k1: Size of a neighbourhood.
        k2: Rows averaged in query expansion.
    """
    weights_NN = _neighbourhoods(features_ND, ranking_NK, k1)
    if k2 > 1:
        expanded_NN = np.zeros_like(weights_NN)
        for i, nearest in enumerate(ranking_NK[:, :k2]):
            expanded_NN[i] = weights_NN[nearest].mean(axis=0)
        weights_NN = expanded_NN
        del expanded_NN
    number = len(weights_NN)
    holders = [np.flatnonzero(weights_NN[:, column]) for column in range(number)]
    distances_NN = np.zeros_like(weights_NN)
    for i in range(number):
        shared_N = np.zeros(number, dtype=np.float32)
        for column in np.flatnonzero(weights_NN[i]):
            rows = holders[column]
            shared_N[rows] += np.minimum(weights_NN[i, column], weights_NN[rows, column])
        distances_NN[i] = 1 - shared_N / (2 - shared_N)
    distances_NN[distances_NN < 0] = 0  # by rounding
    return distances_NN


def _neighbourhoods(features_ND: NDArray[np.float32], ranking_NK: NDArray[np.int64], k1: int) -> NDArray[np.float32]:
    """Weigh the members of each image's expanded k-reciprocal set by the softmax of negated squared distances."""
    number = len(ranking_NK)
    sets = [_reciprocal(ranking_NK, i, k1) for i in range(number)]
    half_sets = [_reciprocal(ranking_NK, i, round(k1 / 2)) for i in range(number)]
    weights_NN = np.zeros((number, number), dtype=np.float32)
    for i, own in enumerate(sets):
        joining = [half_sets[j] for j in own if len(np.intersect1d(half_sets[j], own)) > 2 / 3 * len(half_sets[j])]
        members = np.unique(np.concatenate([own, *joining]))
        weights = np.exp(2 * (features_ND[members] @ features_ND[i]) - 2)
        weights_NN[i, members] = weights / weights.sum()
    return weights_NN


def _reciprocal(ranking_NK: NDArray[np.int64], i: int, k: int) -> NDArray[np.int64]:
    """Those of the first k + 1 columns of i that have i among theirs; the ranking may have fewer."""
    forward = ranking_NK[i, : k + 1]
    return np.asarray(forward[(ranking_NK[forward, : k + 1] == i).any(axis=1)])


def dbscan(distances_NN: NDArray[np.float32], *, eps: float, min_samples: int) -> NDArray[np.int64]:
    """Cluster by density."""
    return np.asarray(DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(distances_NN))
