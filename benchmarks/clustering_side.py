"""One side of the clustering benchmark, in a process of its own: `clustering_side.py TASK '{"key": value}'`.

So that a peak of memory is the work's and nobody else's, features are loaded and compiled code is warm before
anything is measured; memory is what the process holds above that. A task prints one JSON object.
"""

# N = images, D = embedding, K = neighbours, S = sampled images

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peak import Meter

from reidge.edge.errors import ReidgeError
from reidge.train.cluster import ClusterConfig, cluster
from reidge.train.dbscan import dbscan
from reidge.train.jaccard import jaccard_distances
from reidge.train.labels import OUTLIER, num_clusters
from reidge.train.neighbors import Neighbors, SearchConfig, float_blocks, nearest_neighbors

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from torch import Tensor

CONFIG = ClusterConfig()
"""k1 30, k2 6, eps 0.6, min_samples 4."""
WARM_IMAGES = 300
"""Enough to compile everything."""
ROUNDING = 1e-5
"""By how much two computations of a distance may differ."""
TIE = 2e-6
"""By how much two computations of the same similarity may differ."""
BLOCK = 4096
"""Rows converted or compared at a time."""
SAMPLE = 1000
"""Images whose neighbours are checked."""


def load(path: str) -> Tensor:
    """Load embeddings as training holds them: float32 in memory, or above its bound the float16 file itself."""
    file_ND = np.load(path, mmap_mode="c")  # torch has no read-only tensors; what were written would stay in memory
    if file_ND.size * 4 > CONFIG.memory_gib / 2 * 2**30:
        features_ND = torch.from_numpy(file_ND)
        for _, rows in float_blocks(features_ND, BLOCK):  # so that all its pages are resident from the start
            del rows
        return features_ND
    memory_ND = np.empty(file_ND.shape, dtype=np.float32)
    for start in range(0, len(file_ND), BLOCK):
        rows_RD = file_ND[start : start + BLOCK].astype(np.float32)
        memory_ND[start : start + BLOCK] = rows_RD / np.linalg.norm(rows_RD, axis=1, keepdims=True)
    return torch.from_numpy(memory_ND)


def run_dense(features: str) -> dict[str, Any]:
    """The whole step as published, each part measured."""
    import clustering_dense as dense  # brings scikit-learn, which our side does without

    features_ND = load(features).numpy()
    columns = min(CONFIG.k1, len(features_ND))
    few_ND = features_ND[:WARM_IMAGES]
    _dense_labels(_dense_distances(few_ND, dense.rank(few_ND, min(columns, len(few_ND)))))
    meter = Meter.here()
    ranking_NK, knn = meter.measure(lambda: dense.rank(features_ND, columns))
    distances_NN, jaccard = meter.measure(lambda: _dense_distances(features_ND, ranking_NK))
    labels_N, joined = meter.measure(lambda: _dense_labels(distances_NN))
    return {"knn": knn, "jaccard": jaccard, "dbscan": joined, **_found(labels_N)}


def _dense_distances(features_ND: NDArray[np.float32], ranking_NK: NDArray[np.int64]) -> NDArray[np.float32]:
    import clustering_dense as dense

    return dense.jaccard(features_ND, ranking_NK, k1=CONFIG.k1, k2=CONFIG.k2)


def _dense_labels(distances_NN: NDArray[np.float32]) -> NDArray[np.int64]:
    import clustering_dense as dense

    return dense.dbscan(distances_NN, eps=CONFIG.eps, min_samples=CONFIG.min_samples)


def run_sparse(features: str, save: str | None = None, neighbors: str | None = None, hubs: int = 0) -> dict[str, Any]:
    """Ours, each part measured.

    Args:
        features: File of embeddings.
        save: Where to write the neighbours instead of going on from them.
        neighbors: Where to read them instead of searching.
        hubs: So many of the last images are near everything; how many images have them among their first k2?
    """
    features_ND = load(features)
    _warm(features_ND)
    meter = Meter.here()
    if neighbors is None:
        nearest, knn = meter.measure(lambda: nearest_neighbors(features_ND, min(CONFIG.k1, len(features_ND))))
        figures: dict[str, Any] = {"knn": knn, "recall": nearest.recall}
    else:
        with np.load(neighbors) as file:
            nearest = Neighbors(indices_NK=file["indices_NK"], similarities_NK=file["similarities_NK"])
        figures = {}
    if save is not None:
        np.savez(save, indices_NK=nearest.indices_NK, similarities_NK=nearest.similarities_NK)
        return figures | _checked(features_ND, nearest)
    distances, jaccard = meter.measure(lambda: _distances(features_ND, nearest))
    labels_N, joined = meter.measure(lambda: _labels(distances))
    near_hub = (nearest.indices_NK[:, : CONFIG.k2] >= len(features_ND) - hubs).any(axis=1).mean()
    figures |= {"jaccard": jaccard, "dbscan": joined, "entries": int(distances.nnz)}
    return figures | {"near_hub": round(float(near_hub), 4), **_found(labels_N)}


def _warm(features_ND: Tensor) -> None:
    few_ND = features_ND[:WARM_IMAGES]
    columns = min(CONFIG.k1, len(few_ND))
    nearest_neighbors(few_ND, columns, config=SearchConfig(exact_up_to=0, cells=1, sample=10))
    _labels(_distances(few_ND, nearest_neighbors(few_ND, columns)))


def _distances(features_ND: Tensor, nearest: Neighbors) -> csr_matrix:
    return jaccard_distances(features_ND, k1=CONFIG.k1, k2=CONFIG.k2, max_distance=CONFIG.eps, neighbors=nearest)


def _labels(distances: csr_matrix) -> NDArray[np.int64]:
    return dbscan(distances, eps=CONFIG.eps, min_samples=CONFIG.min_samples)


def _found(labels_N: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "clusters": num_clusters(labels_N),
        "outliers": round(float((labels_N == OUTLIER).mean()), 4),
    }


def _checked(features_ND: Tensor, nearest: Neighbors) -> dict[str, Any]:
    """Search the neighbours of a sample among all images and count how many of these were found."""
    number, k = nearest.indices_NK.shape
    sample_S = np.sort(np.random.default_rng(1).choice(number, min(SAMPLE, number), replace=False))
    x_SD = features_ND[torch.from_numpy(sample_S)].float()
    best_SK, indices_SK = torch.full((len(sample_S), k), -torch.inf), torch.zeros((len(sample_S), k), dtype=torch.int64)
    for start, rows_RD in float_blocks(features_ND, BLOCK):
        similarities = torch.cat([best_SK, x_SD @ rows_RD.T], dim=1)
        columns = torch.arange(start, start + len(rows_RD)).expand(len(sample_S), -1)
        best_SK, kept = similarities.topk(k, dim=1)
        indices_SK = torch.cat([indices_SK, columns], dim=1).gather(1, kept)
    pairs = zip(sample_S, indices_SK.numpy(), nearest.indices_NK[sample_S], strict=True)
    shares = [len(np.intersect1d(true[true != own], found)) / (true != own).sum() for own, true, found in pairs]
    return {"checked_recall": round(float(np.mean(shares)), 4), "checked_images": len(sample_S)}


def compare(features: str) -> dict[str, Any]:
    """Hold the sparse distances and labels to the dense ones: with one ranking for both, and with each its own."""
    import clustering_dense as dense

    features_ND = load(features)
    array_ND, columns = features_ND.numpy(), min(CONFIG.k1, len(features_ND))
    nearest = nearest_neighbors(features_ND, columns)
    distances = _distances(features_ND, nearest)
    labels_N = _labels(distances)
    dense_NN = _dense_distances(array_ND, nearest.indices_NK.astype(np.int64))
    entries = _compare_entries(distances, dense_NN)
    dense_N = _dense_labels(dense_NN)
    del dense_NN
    own_NK = dense.rank(array_ND, columns)
    own_N = _dense_labels(_dense_distances(array_ND, own_NK))
    return {
        **_found(labels_N),
        **entries,
        "same_ranking": {"identical": bool((labels_N == dense_N).all()), "differing": int((labels_N != dense_N).sum())},
        "own_ranking": {
            "identical": bool((labels_N == own_N).all()),
            "differing": int((labels_N != own_N).sum()),
            **_compare_neighbors(array_ND, nearest, own_NK),
        },
    }


def _compare_neighbors(
    features_ND: NDArray[np.float32], nearest: Neighbors, own_NK: NDArray[np.int64]
) -> dict[str, int]:
    """Count the images whose neighbours are others on the other side, and of these the ones that are not as near."""
    others = (np.sort(own_NK, axis=1) != np.sort(nearest.indices_NK, axis=1)).any(axis=1).nonzero()[0]
    farther = 0
    for i in others:
        theirs_K = np.sort(features_ND[own_NK[i]] @ features_ND[i])
        farther += bool((np.abs(theirs_K - np.sort(nearest.similarities_NK[i])) > TIE).any())
    return {"other_neighbours": len(others), "not_as_near": farther}


def _compare_entries(distances: csr_matrix, dense_NN: NDArray[np.float32]) -> dict[str, Any]:
    """Count the pairs that one side has within eps and the other has not, but for rounding."""
    largest, missing, extra = 0.0, 0, 0
    for i, dense_N in enumerate(dense_NN):
        entries = slice(distances.indptr[i], distances.indptr[i + 1])
        stored_N = np.full(len(dense_N), np.inf, dtype=np.float32)
        stored_N[distances.indices[entries]] = distances.data[entries]
        both = np.isfinite(stored_N) & (np.arange(len(dense_N)) != i)
        largest = max(largest, float(np.abs(stored_N - dense_N, where=both, out=np.zeros_like(dense_N)).max()))
        missing += int((~np.isfinite(stored_N) & (dense_N < CONFIG.eps - ROUNDING)).sum())
        extra += int((both & (dense_N > CONFIG.eps + ROUNDING)).sum())
    return {"entries": int(distances.nnz), "largest_difference": largest, "missing": missing, "extra": extra}


def run_gpu(features: str, rounds: int) -> dict[str, Any]:
    """The whole step on a GPU, from features there to labels here."""
    features_ND = load(features).cuda()
    held = torch.cuda.memory_allocated()

    def step() -> NDArray[np.int64]:
        return cluster(features_ND, CONFIG, eps=CONFIG.eps, seed=0).labels_N

    labels_N = step()
    torch.cuda.reset_peak_memory_stats()
    turns = [_seconds(step) for _ in range(rounds)]
    peak = torch.cuda.max_memory_allocated() - held
    return {"rounds": turns, "gpu_peak_mib": round(peak / 2**20, 1), **_found(labels_N)}


def _seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return round(time.perf_counter() - began, 3)


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "dense": run_dense, "sparse": run_sparse, "compare": compare, "gpu": run_gpu,
}  # fmt: skip

if __name__ == "__main__":
    try:
        print(json.dumps(TASKS[sys.argv[1]](**json.loads(sys.argv[2]))))
    except ReidgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
