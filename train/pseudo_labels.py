"""Where the labels of an epoch come from: tracklets in the warm-up, clusters after it."""

# N = images, D = embedding

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from reidge.edge.errors import ReidgeError
from reidge.train.cluster import OUTLIER, ClusterConfig, dbscan, num_clusters
from reidge.train.jaccard import jaccard_distances

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.run import Run
    from reidge.train.run_folder import Progression

MAX_FAILURES = 3
"""Clusterings in a row that may find too little before the run stops."""
MIN_CLUSTERS = 2
"""With fewer there is nothing to contrast."""
MIN_K1 = 4
"""Smallest neighbourhood a small set is clamped to."""


def pseudo_labels(run: Run, progression: Progression, features_ND: Tensor) -> NDArray[np.int64]:
    """Label every image of the epoch about to begin.

    Where clustering finds too little, the last labels or the tracklets stand in, but not for long.

    Raises:
        ReidgeError: Clustering has failed `MAX_FAILURES` times in a row, or nothing can stand in.
    """
    if len(progression.history) < run.recipe.warmup_epochs:
        assert run.images.tracklets is not None
        return run.images.tracklets
    config = clamp(run.recipe.cluster, len(features_ND))
    if config != run.recipe.cluster and len(progression.history) == run.recipe.warmup_epochs:
        _warn(f"{len(features_ND)} crops are few: k1 is {config.k1} instead of {run.recipe.cluster.k1}, k2 {config.k2}")
    distances = jaccard_distances(features_ND, k1=config.k1, k2=config.k2, max_distance=config.eps)
    labels_N = dbscan(distances, eps=config.eps, min_samples=config.min_samples)
    if num_clusters(labels_N) < MIN_CLUSTERS:
        return _stand_in(run, progression, labels_N)
    progression.labels_N, progression.failures = labels_N, 0
    return labels_N


def clamp(config: ClusterConfig, images: int) -> ClusterConfig:
    """Keep neighbourhoods a fraction of a small set: k1 at most a tenth of it (but 4), k2 at most a fifth of k1."""
    k1 = min(config.k1, max(MIN_K1, images // 10))
    return config if k1 == config.k1 else config.model_copy(update={"k1": k1, "k2": min(config.k2, max(1, k1 // 5))})


def _stand_in(run: Run, progression: Progression, labels_N: NDArray[np.int64]) -> NDArray[np.int64]:
    progression.failures += 1
    name, last_N = _last_labels(run, progression)
    outliers = int((labels_N == OUTLIER).sum())
    what = f"clustering found {num_clusters(labels_N)} clusters among {len(labels_N)} crops ({outliers} outliers)"
    if progression.failures >= MAX_FAILURES or last_N is None:
        raise ReidgeError(
            f"{what}, {progression.failures} times in a row. Change --set cluster.eps (larger joins more, smaller "
            "splits more), or harvest more footage."
        )
    _warn(f"{what}; this epoch goes on with {name}")
    return last_N


def _last_labels(run: Run, progression: Progression) -> tuple[str, NDArray[np.int64] | None]:
    if progression.labels_N is None:
        return "the tracklets", run.images.tracklets
    return "the last clusters", progression.labels_N


def _warn(message: str) -> None:
    print(f"warning: {message}.", file=sys.stderr, flush=True)
