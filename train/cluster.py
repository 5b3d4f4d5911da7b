"""Pseudo labels: images whose embeddings lie together."""

# N = images, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, Field

from reidge.edge.errors import InputError
from reidge.train.agglomerative import average_linkage
from reidge.train.dbscan import dbscan as dbscan
from reidge.train.hdbscan import hdbscan
from reidge.train.infomap import find_modules, neighbour_links
from reidge.train.jaccard import jaccard_distances
from reidge.train.kmeans import kmeans
from reidge.train.labels import OUTLIER as OUTLIER
from reidge.train.labels import num_clusters as num_clusters
from reidge.train.labels import number_clusters
from reidge.train.neighbors import SearchConfig, as_features, nearest_neighbors
from reidge.train.schedule import ScheduleConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

GIB = 2**30
RANKED = 14
"""Bytes of a neighbour: number and similarity, the number once more, and whether it is mutual."""
LINKED = 100
"""Bytes of a link while modules are looked for."""
IMAGES_PER_CLUSTER = 16
"""Of k-means where no number of clusters is given: about what a person has in the benchmarks."""


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
    max_distance: float = Field(0.95, gt=0, lt=1)
    """`hdbscan`, `agglomerative`: largest Jaccard distance of the pairs they look at; those beyond count as 1. They
    share next to nothing and are a hundred times as many as the others: up to 1, 13,000 images fill gigabytes."""
    min_cluster_size: int = Field(5, ge=2)
    """All but `dbscan`: the members of smaller clusters are outliers."""
    clusters: int | None = Field(None, ge=2)
    """`kmeans`: how many; None takes one for every 16 images, rounded."""
    neighbours: int = Field(15, ge=2)
    """`infomap`: neighbours an image is linked to, the image itself counted."""
    min_similarity: float = Field(0.5, ge=0, lt=1)
    """`infomap`: cosine similarity that a link takes at least."""
    search: SearchConfig = SearchConfig()
    """All but `kmeans`: how neighbours are searched."""
    memory_gib: float = Field(8.0, gt=0)
    """Memory in GiB that the step between two epochs may take: features, neighbours, distances. Features that would
    take more than half of it are kept on disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """What an epoch's clustering found."""

    labels_N: NDArray[np.int64]
    """Clusters 0, 1, ... in the order of their first core (`dbscan`) or image; `OUTLIER` is outside all."""
    distances: csr_matrix | None = None
    """Sparse Jaccard distances `(N, N)`, up to eps for `dbscan`; None where the method has no use for them."""
    recall: float | None = None
    """Share of the true neighbours that were found, on a sample; None where all pairs were compared, or none."""


def cluster(
    features_ND: Tensor,
    config: ClusterConfig,
    *,
    eps: float,
    seed: int,
    device: torch.device | None = None,
    searched: Callable[[int], object] | None = None,
) -> Clustering:
    """Cluster unit-length embeddings; the same seed gives the same labels.

    Args:
        features_ND: Two or more, on any device or in a file.
        config: Method and its settings; of N images at most N count as neighbours.
        eps: Of this epoch, in place of the one in `config`.
        seed: For the methods that draw: `kmeans` and `infomap`.
        device: To search neighbours and compute distances on; None is where the features are.
        searched: Called now and then with the number of images that have found their neighbours since.

    Raises:
        AllAlike: All features are the same.
        InputError: The features are unusable, more memory is needed than allowed, or the method is `labels`, which
            are not found here.
    """
    if config.method == "labels":
        raise InputError("cluster.method labels takes the labels of the data; there is nothing to cluster.")
    features_ND = as_features(features_ND)
    left_gib = config.memory_gib - _in_memory(features_ND) / GIB
    if config.method == "kmeans":
        clusters = _kmeans_clusters(config, len(features_ND))
        groups_N = kmeans(features_ND, clusters, seed=seed, memory_gib=left_gib)
        return Clustering(labels_N=number_clusters(groups_N, min_size=config.min_cluster_size))
    columns = config.neighbours if config.method == "infomap" else config.k1
    columns = min(columns, len(features_ND))
    neighbors = nearest_neighbors(
        features_ND,
        columns,
        config=config.search,
        device=device,
        memory_gib=left_gib,
        searched=searched,
    )
    left_gib -= neighbors.indices_NK.size * RANKED / GIB
    if config.method == "infomap":
        _check_links(neighbors.indices_NK.size, left_gib)
        groups_N = find_modules(neighbour_links(neighbors, min_similarity=config.min_similarity), seed=seed)
        labels_N = number_clusters(groups_N, min_size=config.min_cluster_size)
        return Clustering(labels_N=labels_N, recall=neighbors.recall)
    distances = jaccard_distances(
        features_ND,
        k1=config.k1,
        k2=config.k2,
        max_distance=eps if config.method == "dbscan" else config.max_distance,
        neighbors=neighbors,
        device=device,
        # Average linkage holds every pair once more.
        memory_gib=left_gib / 2 if config.method == "agglomerative" else left_gib,
    )
    return Clustering(labels_N=_by_distances(distances, config, eps), distances=distances, recall=neighbors.recall)


def _in_memory(features_ND: Tensor) -> int:
    """Bytes of features; those of a file, which are float16, need not stay in memory."""
    return 0 if features_ND.dtype == torch.float16 else features_ND.nbytes


def _check_links(links: int, memory_gib: float) -> None:
    needed = links * LINKED / GIB
    if needed > memory_gib:
        raise InputError(
            f"finding modules by {links} links takes {needed:.2g} GiB, {max(memory_gib, 0):.2g} are left for it. Set "
            "fewer cluster.neighbours, or raise cluster.memory_gib."
        )


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
