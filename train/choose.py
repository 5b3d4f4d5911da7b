"""Scores of a clustering without labels: what an epoch can be chosen by, where nobody knows who is who."""

# N = images, S = images drawn, K = clusters, D = embedding

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score
from torch.nn import functional

from reidge.train.features import take
from reidge.train.labels import OUTLIER
from reidge.train.memory import cluster_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

SAMPLE = 4096
"""Images that `silhouette` looks at, at most."""
CLUSTERS_AT_ONCE = 2048
"""Clusters they are compared with at a time: 32 MiB of distances."""


def agreement(labels_N: NDArray[np.int64], previous_N: NDArray[np.int64]) -> float | None:
    """Say how far two clusterings of the same images agree (Hubert and Arabie, 1985: adjusted Rand index).

    Returns:
        1 where they are the same but for the names, about 0 where they agree by chance, -0.5 at worst, over the images
        that both cluster; None where both cluster fewer than two.
    """
    both_N = (labels_N != OUTLIER) & (previous_N != OUTLIER)
    labels, previous = labels_N[both_N], previous_N[both_N]
    if len(labels) < 2:
        return None
    return float(adjusted_rand_score(previous, labels))


def silhouette(
    features_ND: Tensor,
    labels_N: NDArray[np.int64],
    *,
    rng: np.random.Generator,
    sample: int = SAMPLE,
    device: torch.device | None = None,
) -> float | None:
    """Say how much nearer images are to the centroid of their own cluster than to the next one's.

    The silhouette with centroids in place of members (Hruschka et al., 2004), of cosine distances; an image's own
    centroid is taken without it.

    Args:
        features_ND: Unit length.
        labels_N: Pseudo labels 0 .. K-1 or `OUTLIER`.
        rng: Draws the images where there are more than `sample`.
        sample: Images looked at.
        device: To compute on; None is where the features are.

    Returns:
        Mean of (b - a) / max(a, b), -1 to 1; None with fewer than two clusters or none of two images.
    """
    device = features_ND.device if device is None else device
    sums_KD = cluster_sums(features_ND, torch.from_numpy(labels_N), device)
    sizes_K = np.bincount(labels_N[labels_N != OUTLIER], minlength=len(sums_KD))
    paired = np.flatnonzero((labels_N != OUTLIER) & (sizes_K[labels_N] > 1)) if len(sizes_K) > 1 else np.empty(0, int)
    if not len(paired):
        return None
    drawn_S = torch.from_numpy(np.sort(rng.choice(paired, min(sample, len(paired)), replace=False)))
    x_SD = take(features_ND, drawn_S, device)
    own_S = torch.from_numpy(labels_N)[drawn_S].to(device)
    others_SD = functional.normalize(sums_KD[own_S] - x_SD, dim=1)
    within_S = 1 - (x_SD * others_SD).sum(dim=1)
    between_S = torch.full_like(within_S, torch.inf)
    for start in range(0, len(sums_KD), CLUSTERS_AT_ONCE):
        stop = min(start + CLUSTERS_AT_ONCE, len(sums_KD))
        distances_SK = 1 - x_SD @ functional.normalize(sums_KD[start:stop], dim=1).T
        distances_SK[own_S[:, None] == torch.arange(start, stop, device=device)] = torch.inf
        between_S = torch.minimum(between_S, distances_SK.min(dim=1).values)
    larger_S = torch.maximum(within_S, between_S).clamp_min(1e-12)
    return float(((between_S - within_S) / larger_S).mean())


def tracklet_consistency(labels_N: NDArray[np.int64], tracklets_N: NDArray[np.int64]) -> float | None:
    """Say how far images of one tracklet, who are one person, share a cluster, beyond what images of two do.

    Args:
        labels_N: Pseudo labels or `OUTLIER`, which shares a cluster with nobody.
        tracklets_N: Tracklet of each image.

    Returns:
        Share of the pairs within tracklets that share a cluster, minus the share of the pairs across them: 1 where
        tracklets stay whole and apart, 0 where one cluster holds all; None where no two images make such a pair.
    """
    tracklets_N = np.unique(tracklets_N, return_inverse=True)[1].reshape(-1)
    clustered_N = labels_N != OUTLIER
    cells = tracklets_N[clustered_N] * (labels_N.max() + 1) + labels_N[clustered_N]
    together = _pairs(np.unique(cells, return_counts=True)[1])
    sharing = _pairs(np.bincount(labels_N[clustered_N]))
    within = _pairs(np.bincount(tracklets_N))
    across = _pairs(np.array([len(labels_N)])) - within
    if within == 0 or across == 0:
        return None
    return together / within - (sharing - together) / across


def _pairs(sizes: NDArray[np.int64]) -> int:
    """How many pairs there are in groups of these sizes."""
    return int((sizes.astype(np.int64) * (sizes - 1) // 2).sum())
