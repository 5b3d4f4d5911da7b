"""k-means on unit-length embeddings, on the device where they are.

In torch: a GPU takes a second for what takes a CPU minutes, and unlike scikit-learn's, whose threads add up their
shares in any order, the result is the same each time. That of faiss falls behind, for want of good first centroids:
with 16 images a cluster its labels agree with the truth by 0.75 to 0.83 (adjusted Rand index), these by 0.91 to 0.95.
"""

# N = images, K = clusters, D = embedding, R = rows at a time, T = tries

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from reidge.edge.errors import InputError
from reidge.train.features import ROWS_AT_ONCE, blocks
from reidge.train.neighbors import as_features, check_features

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

MAX_PAIRS = {"cpu": 2e9, "cuda": 2e11}
"""Images times clusters: some quarters of an hour. The first centroids alone take as many passes over all images as
there are clusters."""
MAX_ROUNDS = 30
"""Rounds after which the centroids stay as they are; most runs end sooner, with labels that no longer change."""


@torch.no_grad()
def kmeans(
    features_ND: Tensor | NDArray[np.floating[Any]], clusters: int, *, seed: int, memory_gib: float = 8.0
) -> NDArray[np.int64]:
    """Divide images among centroids, each the normalised mean of its images (Dhillon and Modha, 2001).

    Args:
        features_ND: Two or more of unit length, in memory or in a file.
        clusters: How many centroids, 1 to N; those that lose all their images stay without.
        seed: Of the first centroids, drawn by greedy k-means++ (Arthur and Vassilvitskii, 2007).
        memory_gib: That all this may take beside the features.

    Returns:
        `(N,)`: 0 .. clusters - 1.

    Raises:
        AllAlike: All features are the same.
        InputError: The features are unusable, or there are too many clusters for the images, the memory or the time.
    """
    features_ND = as_features(features_ND)
    check_features(features_ND)
    _check_cost(features_ND, clusters, memory_gib)
    centroids_KD = _first_centroids(features_ND, clusters, np.random.default_rng(seed))
    labels_N = _nearest(features_ND, centroids_KD)
    for _ in range(MAX_ROUNDS):
        centroids_KD = functional.normalize(_sums(features_ND, labels_N, clusters), dim=1)
        last_N, labels_N = labels_N, _nearest(features_ND, centroids_KD)
        if torch.equal(last_N, labels_N):
            break
    return labels_N.cpu().numpy()


def _check_cost(features_ND: Tensor, clusters: int, memory_gib: float) -> None:
    number = len(features_ND)
    if not 1 <= clusters <= number:
        raise InputError(f"got {clusters} clusters for {number} images: wants 1 to {number}.")
    instead = "Set fewer (cluster.clusters), or another cluster.method."
    if number * clusters > MAX_PAIRS.get(features_ND.device.type, MAX_PAIRS["cpu"]):
        raise InputError(f"k-means of {number} images into {clusters} clusters would take hours here. {instead}")
    tries = 2 + int(np.log(clusters))
    needed = (8 * clusters * features_ND.shape[1] + 4 * ROWS_AT_ONCE * clusters + 20 * tries * number) / 2**30
    if needed > memory_gib:
        raise InputError(
            f"k-means of {number} images into {clusters} clusters takes {needed:.2g} GiB, more than the {memory_gib:g} "
            f"allowed. {instead}"
        )


def _nearest(features_ND: Tensor, centroids_KD: Tensor) -> Tensor:
    return torch.cat([(x_RD @ centroids_KD.T).argmax(dim=1) for _, x_RD in blocks(features_ND, centroids_KD.device)])


def _sums(features_ND: Tensor, labels_N: Tensor, clusters: int) -> Tensor:
    """Add up the images of each cluster, always in the same order."""
    if features_ND.device.type == "cpu":
        sums_KD = torch.zeros(clusters, features_ND.shape[1])
        for rows, x_RD in blocks(features_ND, features_ND.device):
            sums_KD.index_add_(0, labels_N[rows], x_RD)
        return sums_KD
    # On a GPU index_add_ adds in any order; over sorted images the order is theirs.
    starts_K = torch.bincount(labels_N, minlength=clusters).cumsum(0).roll(1)
    starts_K[0] = 0
    return functional.embedding_bag(labels_N.argsort(stable=True), features_ND.float(), starts_K, mode="sum")


def _first_centroids(features_ND: Tensor, clusters: int, rng: np.random.Generator) -> Tensor:
    """Draw images in turn, with a chance in proportion to the squared distance to the nearest one drawn before.

    Of a few drawn at a time the one that leaves the smallest sum stays. With many small clusters a single draw often
    falls into one that has a centroid; a few cost hardly more, as the time goes into reading the features.
    """
    last = len(features_ND) - 1
    tries = 2 + int(np.log(clusters))
    candidates_T = rng.integers(len(features_ND), size=1)
    squares_N = np.full(len(features_ND), 4.0)
    chosen: list[int] = []
    while len(chosen) < clusters:
        x_TD = features_ND[candidates_T.tolist()].float()
        products_TN = torch.cat([x_TD @ x_RD.T for _, x_RD in blocks(features_ND, x_TD.device)], dim=1)
        squares_TN = (2 - 2 * products_TN).double().cpu().numpy().clip(min=0)
        squares_TN[np.arange(len(candidates_T)), candidates_T] = 0
        squares_TN = np.minimum(squares_TN, squares_N)
        best = int(squares_TN.sum(axis=1).argmin())
        chosen.append(int(candidates_T[best]))
        squares_N = squares_TN[best]
        totals_N = squares_N.cumsum()
        drawn_T = np.searchsorted(totals_N, rng.random(tries) * totals_N[-1], side="right")
        candidates_T = drawn_T.clip(max=last)  # where all are copies of the chosen, any one will do
    return features_ND[chosen].float()
