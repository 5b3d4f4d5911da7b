"""Sparse k-reciprocal Jaccard distances: what the dense matrix holds near the diagonal of every cluster.

Re-ranking of Zhong et al. (CVPR 2017), in the variant that clustering for unsupervised re-ID has settled on. Only
pairs whose neighbourhoods meet are ever computed, so time and memory grow with N x k1 instead of N x N.
"""

# N = images, D = embedding, K = columns of the neighbour ranking, k1, k2 as in the paper

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.sparse import csr_matrix

from reidge.edge.errors import InputError
from reidge.train.jaccard_torch import jaccard_distances_torch
from reidge.train.minima import MinimaIndex
from reidge.train.neighbors import as_features, check_features, nearest_neighbors
from reidge.train.reciprocal import averaged, expanded_sets, weigh
from reidge.train.sparse import TooManyEntries, make_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.neighbors import Neighbors
    from reidge.train.sparse import Block, SparseRows

GIB = 2**30
ROWS_AT_ONCE = 65_536
"""Of neighbours that are given, checked at a time."""
JOINING = 12
"""Bytes of an entry of sparse rows while its blocks are joined."""
ROUNDING = 1e-4
"""By how much less two rows may share than the limit says, until the distance itself is looked at."""


def jaccard_distances(
    features_ND: NDArray[np.floating[Any]] | Tensor,
    *,
    k1: int = 30,
    k2: int = 6,
    max_distance: float = 0.6,
    neighbors: Neighbors | None = None,
    device: torch.device | str | None = None,
    memory_gib: float = 8.0,
) -> csr_matrix:
    """Return the k-reciprocal Jaccard distances up to `max_distance`.

    Matches the published implementations of cluster contrast, off-by-ones included: the ranking holds k1 columns
    counting the image itself, so an image has k1 - 1 neighbours beside itself, and its half-size set comes from the
    first round(k1 / 2) + 1 columns.

    Args:
        features_ND: Two or more unit-length embeddings, float32 or float16; may be a memory-mapped file.
        k1: Columns of the ranking, the image itself included; of N images at most N are used, as published.
        k2: Rows averaged in query expansion, the image itself included; 1 switches it off.
        max_distance: 0 to 1. Pairs farther apart are left out, and so are pairs at distance 1.
        neighbors: Where they are known; else they are searched. Their first k1 columns count.
        device: To compute on; None is where the features are.
        memory_gib: That all this may take beside the features.

    Returns:
        `(N, N)` float32, symmetric, the diagonal stored as 0.

    Raises:
        AllAlike: All features are the same, so that everything would be near everything.
        InputError: The features, a setting or the neighbours are unusable, or more than `memory_gib` is needed.
    """
    features_ND = as_features(features_ND)
    device = features_ND.device if device is None else torch.device(device)
    if k1 < 1 or k2 < 1 or not 0 <= max_distance <= 1:
        raise InputError(
            f"got k1 {k1}, k2 {k2}, max_distance {max_distance}: wants neighbourhoods of 1 or more and a distance from "
            "0 to 1."
        )
    check_features(features_ND)
    columns = min(k1, len(features_ND))
    if neighbors is None:
        neighbors = nearest_neighbors(features_ND, columns, device=device, memory_gib=memory_gib)
    ranking_NK = _ranking(neighbors.indices_NK, len(features_ND), columns)
    memory = int(memory_gib * GIB)
    try:
        if device.type == "cpu":
            return _distances(features_ND, ranking_NK, round(k1 / 2) + 1, k2, max_distance, memory)
        if device.type == "cuda":
            memory = min(memory, _free(device))
        return jaccard_distances_torch(
            features_ND,
            torch.from_numpy(ranking_NK).to(device, torch.int64),
            k1=k1,
            k2=k2,
            max_distance=max_distance,
            max_bytes=memory,
        )
    except TooManyEntries:
        raise InputError(
            f"the distances up to {max_distance:.3g} of {len(features_ND)} images take more than the "
            f"{max(memory, 0) / GIB:.3g} GiB that are left for them. Where many images are copies of each other, "
            "remove these; else lower the distance (cluster.eps; for hdbscan and agglomerative cluster.max_distance) "
            "or raise cluster.memory_gib."
        ) from None


def _ranking(indices_NK: NDArray[np.int32], number: int, columns: int) -> NDArray[np.int32]:
    if indices_NK.ndim != 2 or len(indices_NK) != number or indices_NK.shape[1] < columns:
        raise InputError(
            f"got neighbours of shape {indices_NK.shape} for the features of {number} images: wants a row for each "
            f"image and {columns} columns."
        )
    ranking_NK = np.ascontiguousarray(indices_NK[:, :columns], dtype=np.int32)
    if ranking_NK.min() < 0 or ranking_NK.max() >= number:
        raise InputError(f"got neighbours that are no images: wants numbers from 0 to {number - 1}.")
    if (ranking_NK[:, 0] != np.arange(number)).any():
        raise InputError("got neighbours without the image itself in the first column: wants it there.")
    for start in range(0, number, ROWS_AT_ONCE):
        ordered_RK = np.sort(ranking_NK[start : start + ROWS_AT_ONCE], axis=1)
        if (ordered_RK[:, 1:] == ordered_RK[:, :-1]).any():
            raise InputError("got the same neighbour of an image twice: wants different ones.")
    return ranking_NK


def _free(device: torch.device) -> int:
    """Memory of a GPU that is not in use, including what torch keeps for the next tensors."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + kept)


def _distances(
    features_ND: Tensor, ranking_NK: NDArray[np.int32], half: int, k2: int, max_distance: float, memory: int
) -> csr_matrix:
    vectors = expanded_sets(ranking_NK, half, max_entries=memory // JOINING)
    weigh(vectors, features_ND)
    if k2 > 1:
        # The columns of the index take as much again as the rows.
        vectors = averaged(vectors, ranking_NK[:, :k2], max_entries=(memory - vectors.nbytes) // (JOINING + 4))
    index = MinimaIndex.build(vectors)
    near = near_pairs(index, max_distance, max_entries=(memory - 2 * vectors.nbytes) // JOINING)
    return csr_matrix((near.values, near.columns, near.starts), shape=(len(near), len(near)))


def near_pairs(index: MinimaIndex, max_distance: float, *, max_entries: int) -> SparseRows:
    """Compute 1 - s / (2 - s), s the sum of elementwise minima of two rows, where it is at most `max_distance`."""
    min_shared = 2 * (1 - max_distance) / (2 - max_distance) - ROUNDING

    def compute(first: int, last: int, room: int) -> Block:
        counts, columns, shared = index.near(first, last, min_shared=min_shared, room=room)
        if len(columns) > room:
            return counts, columns, shared
        rows = np.repeat(np.arange(first, last, dtype=np.int32), counts)
        distances = np.maximum(1 - shared / (2 - shared), 0, dtype=np.float32)
        distances[columns == rows] = 0
        near = distances <= np.float32(max_distance)
        return np.bincount(rows[near] - first, minlength=last - first), columns[near], distances[near]

    return make_rows(compute, len(index.rows), max_entries=max_entries)
