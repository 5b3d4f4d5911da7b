"""Pseudo labels: images whose embeddings lie together."""

# N = images, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field
from sklearn.cluster import DBSCAN
from sklearn.neighbors import sort_graph_by_row_values

from reidge.edge.errors import InputError
from reidge.train.agglomerative import average_linkage
from reidge.train.hdbscan import hdbscan
from reidge.train.infomap import find_modules, neighbour_links
from reidge.train.jaccard import jaccard_distances
from reidge.train.kmeans import kmeans
from reidge.train.labels import OUTLIER as OUTLIER
from reidge.train.labels import num_clusters as num_clusters
from reidge.train.labels import number_clusters
from reidge.train.schedule import ScheduleConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

IMAGES_PER_CLUSTER = 16
"""Of k-means where no number of clusters is given: about what a person has in the benchmarks."""

SAME = 1e-6
"""Coordinates of embeddings that differ by less differ by rounding."""
MAX_DISTANCE = 0.95
"""Largest Jaccard distance of the pairs that `hdbscan` and `agglomerative` look at; those beyond count as 1. They share
next to nothing and are a hundred times as many as the others: up to 1, a set of 13,000 images fills gigabytes."""


class ClusterConfig(BaseModel, frozen=True, extra="forbid"):
    """How embeddings become pseudo labels at the start of each epoch."""

    method: Literal["dbscan", "hdbscan", "agglomerative", "kmeans", "infomap", "labels"] = "dbscan"
    """`dbscan`, `hdbscan` and `agglomerative` (average linkage) cluster the k-reciprocal Jaccard distances,
    `infomap` the graph of nearest neighbours, `kmeans` the embeddings. `labels` takes the identities that the data
    is labelled with."""
    k1: int = Field(30, ge=2)
    """Jaccard: neighbours that count as a neighbourhood, the image itself included."""
    k2: int = Field(6, ge=1)
    """Jaccard: rows averaged in query expansion, the image itself included."""
    eps: float = Field(0.6, gt=0, lt=1)
    """Largest Jaccard distance between neighbours (`dbscan`), on average between the members of two clusters that
    are joined (`agglomerative`); 0 to 1."""
    schedule: ScheduleConfig = ScheduleConfig()
    """How eps changes from epoch to epoch."""
    min_samples: int = Field(4, ge=1)
    """`dbscan`, `hdbscan`: neighbours that make a core of a cluster, the image itself included."""
    min_cluster_size: int = Field(5, ge=2)
    """All but `dbscan`: the members of smaller clusters are outliers."""
    clusters: int | None = Field(None, ge=2)
    """`kmeans`: how many; None takes one for every 16 images, rounded."""
    neighbours: int = Field(15, ge=2)
    """`infomap`: neighbours an image is linked to, the image itself counted."""
    min_similarity: float = Field(0.5, ge=0, lt=1)
    """`infomap`: cosine similarity that a link takes at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """What an epoch's clustering found."""

    labels_N: NDArray[np.int64]
    """Clusters 0, 1, ... in the order of their first core (`dbscan`) or image; `OUTLIER` is outside all."""
    distances: csr_matrix | None = None
    """Sparse Jaccard distances `(N, N)`, up to eps for `dbscan`; None where the method has no use for them."""


def cluster(features_ND: Tensor, config: ClusterConfig, *, eps: float, seed: int) -> Clustering:
    """Cluster unit-length embeddings; the same seed gives the same labels.

    Embeddings that are all the same are one cluster.

    Args:
        features_ND: On any device; neighbours are searched there.
        config: Method and its settings.
        eps: Of this epoch, in place of the one in `config`.
        seed: For the methods that draw: `kmeans` and `infomap`.

    Raises:
        InputError: The features are no matrix or not finite, or the method is `labels`, which are not found here.
    """
    if features_ND.ndim != 2 or not torch.isfinite(features_ND).all():
        shape = tuple(features_ND.shape)
        raise InputError(f"got features of shape {shape} to cluster: wants a matrix (N, D) of finite numbers.")
    if config.method == "labels":
        raise InputError("cluster.method labels takes the labels of the data; there is nothing to cluster.")
    if _all_alike(features_ND):
        smallest = config.min_samples if config.method == "dbscan" else config.min_cluster_size
        return Clustering(labels_N=number_clusters(np.zeros(len(features_ND), dtype=np.int64), min_size=smallest))
    if config.method == "kmeans":
        groups_N = kmeans(features_ND, _kmeans_clusters(config, len(features_ND)), seed=seed)
        return Clustering(labels_N=number_clusters(groups_N, min_size=config.min_cluster_size))
    if config.method == "infomap":
        links = neighbour_links(features_ND, neighbours=config.neighbours, min_similarity=config.min_similarity)
        groups_N = find_modules(links, seed=seed)
        return Clustering(labels_N=number_clusters(groups_N, min_size=config.min_cluster_size))
    max_distance = eps if config.method == "dbscan" else MAX_DISTANCE
    distances = jaccard_distances(features_ND, k1=config.k1, k2=config.k2, max_distance=max_distance)
    return Clustering(labels_N=_by_distances(distances, config, eps), distances=distances)


def _all_alike(features_ND: Tensor) -> bool:
    """Whether the encoder has collapsed: then all are each other's neighbours, and the graph would be N x N."""
    return len(features_ND) > 0 and bool((features_ND.amax(dim=0) - features_ND.amin(dim=0)).max() < SAME)


def _by_distances(distances: csr_matrix, config: ClusterConfig, eps: float) -> NDArray[np.int64]:
    if config.method == "hdbscan":
        return hdbscan(distances, min_samples=config.min_samples, min_cluster_size=config.min_cluster_size)
    if config.method == "agglomerative":
        return number_clusters(average_linkage(distances, eps=eps), min_size=config.min_cluster_size)
    return dbscan(distances, eps=eps, min_samples=config.min_samples)


def _kmeans_clusters(config: ClusterConfig, images: int) -> int:
    if config.clusters is not None and config.clusters > images:
        raise InputError(f"cluster.clusters is {config.clusters}, the images are {images}. Set fewer.")
    return config.clusters or max(1, round(images / IMAGES_PER_CLUSTER))


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
