"""Pseudo labels: DBSCAN on the sparse graph of Jaccard distances."""

# N = images

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field
from sklearn.cluster import DBSCAN
from sklearn.neighbors import sort_graph_by_row_values

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

OUTLIER = -1
"""Pseudo label of an image that belongs to no cluster."""


class ClusterConfig(BaseModel, frozen=True, extra="forbid"):
    """How embeddings become pseudo labels at the start of each epoch."""

    k1: int = Field(30, ge=2)
    """Neighbours that count as a neighbourhood, the image itself included."""
    k2: int = Field(6, ge=1)
    """Rows averaged in query expansion, the image itself included."""
    eps: float = Field(0.6, gt=0, lt=1)
    """Largest Jaccard distance between neighbours, 0 to 1."""
    min_samples: int = Field(4, ge=1)
    """Neighbours that make a core of a cluster, the image itself included."""


def dbscan(distances: csr_matrix, *, eps: float = 0.6, min_samples: int = 4) -> NDArray[np.int64]:
    """Cluster by density; pairs that are not stored are farther apart than `eps`.

    Args:
        distances: `(N, N)`, symmetric, holding at least every pair within `eps`.
        eps: Largest distance between neighbours.
        min_samples: Neighbours, the image itself included, that make a core.

    Returns:
        `(N,)`; clusters are 0, 1, ... in the order of their first core, `OUTLIER` is outside all.
    """
    if distances.shape[0] == 0:
        return np.empty(0, dtype=np.int64)
    graph = sort_graph_by_row_values(distances, copy=True, warn_when_not_sorted=False)
    labels_N = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(graph).labels_
    return np.asarray(labels_N, dtype=np.int64)


def num_clusters(labels_N: NDArray[np.int64]) -> int:
    """How many clusters the labels name; outliers are none."""
    return len(np.unique(labels_N[labels_N != OUTLIER]))
