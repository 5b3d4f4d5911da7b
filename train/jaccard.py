"""Sparse k-reciprocal Jaccard distances: what the dense matrix holds near the diagonal of every cluster.

Re-ranking of Zhong et al. (CVPR 2017), in the variant that clustering for unsupervised re-ID has settled on. Only
pairs whose neighbourhoods meet are ever computed, so memory grows with N x k1 instead of N x N.
"""

# N = images, D = embedding, K = columns of the neighbour ranking, k1, k2 as in the paper

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit
from scipy.sparse import csr_matrix

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

ROWS_AT_ONCE = 1024
"""Rows of the similarity matrix in memory during the search for neighbours; rows a thread takes at a time later."""
PAIRS_AT_ONCE = 1 << 16
"""Pairs of features in memory at a time."""
MIN_OVERLAP = 2 / 3
"""Share of a candidate's half-size set that must lie in the original set for it to join."""


def jaccard_distances(
    features_ND: NDArray[np.floating[Any]] | Tensor, *, k1: int = 30, k2: int = 6, max_distance: float = 0.6
) -> csr_matrix:
    """Return the k-reciprocal Jaccard distances up to `max_distance`.

    Matches the published implementations of cluster contrast, off-by-ones included: the ranking holds k1 columns
    counting the image itself, so an image has k1 - 1 neighbours beside itself, and its half-size set comes from the
    first round(k1 / 2) + 1 columns.

    Args:
        features_ND: Unit-length embeddings; on a GPU the neighbours are searched there.
        k1: Columns of the ranking, the image itself included; at most N of them are used.
        k2: Rows averaged in query expansion, the image itself included; 1 switches it off.
        max_distance: Pairs farther apart are left out, and so are pairs at distance 1.

    Returns:
        `(N, N)` float32, symmetric, the diagonal stored as 0.

    Raises:
        ValueError: The features are not a matrix, or k1 or k2 is below 1.
    """
    features = torch.as_tensor(features_ND)
    if features.ndim != 2 or k1 < 1 or k2 < 1:
        raise ValueError(f"got features of shape {tuple(features.shape)}, k1 {k1}, k2 {k2}: wants (N, D), 1 or more.")
    if len(features) == 0:
        return csr_matrix(np.empty((0, 0), dtype=np.float32))
    ranking_NK = nearest_neighbours(features, min(k1, len(features)))
    members = expanded_sets(ranking_NK, round(k1 / 2) + 1)
    vectors = _weighted(members, np.asarray(features.detach().cpu().numpy(), dtype=np.float32))
    if k2 > 1:
        neighbours = ranking_NK[:, :k2]
        vectors = csr_matrix(membership(neighbours) @ vectors / np.float32(neighbours.shape[1]))
    return _near(vectors, max_distance)


def nearest_neighbours(features_ND: Tensor, k: int) -> NDArray[np.int64]:
    """Rank by similarity, exactly, the image itself always first; `(N, k)`."""
    ranking = []
    for start in range(0, len(features_ND), ROWS_AT_ONCE):
        rows_RD = features_ND[start : start + ROWS_AT_ONCE]
        similarities_RN = rows_RD @ features_ND.T
        # Above any cosine, so that a copy of an image does not take the image's own place.
        own = torch.arange(len(rows_RD), device=features_ND.device)
        similarities_RN[own, own + start] = 3.0
        ranking.append(similarities_RN.topk(k, dim=1).indices.cpu())
    return torch.cat(ranking).numpy()


def membership(sets_NK: NDArray[np.int64]) -> csr_matrix:
    """Write sets of images as rows of a 0/1 matrix `(N, N)`."""
    number, size = sets_NK.shape
    ones = np.ones(sets_NK.size, dtype=np.float32)
    return csr_matrix((ones, sets_NK.ravel(), np.arange(number + 1) * size), shape=(number, number))


def expanded_sets(ranking_NK: NDArray[np.int64], half: int) -> csr_matrix:
    """Give each image its k-reciprocal set, joined by the half-size sets of members that lie mostly within it."""
    near, nearest = membership(ranking_NK), membership(ranking_NK[:, :half])
    full_sets, half_sets = near.multiply(near.T).tocsr(), nearest.multiply(nearest.T).tocsr()
    sizes = np.asarray(half_sets.sum(axis=1), dtype=np.float64).ravel()
    overlaps = (full_sets @ half_sets.T).multiply(full_sets).tocoo()
    joins = overlaps.data > MIN_OVERLAP * sizes[overlaps.col]
    joined = csr_matrix((overlaps.data[joins], (overlaps.row[joins], overlaps.col[joins])), shape=near.shape)
    expanded = (full_sets + joined @ half_sets).tocsr()
    expanded.sort_indices()
    return csr_matrix(expanded)


def _weighted(members: csr_matrix, features_ND: NDArray[np.float32]) -> csr_matrix:
    """Weigh the members of each row by the softmax of their negated squared distance."""
    rows, columns = members.nonzero()
    exponentials = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        pairs = slice(start, start + PAIRS_AT_ONCE)
        similarities = np.einsum("pd,pd->p", features_ND[rows[pairs]], features_ND[columns[pairs]])
        exponentials[pairs] = np.exp(2 * similarities - 2)
    totals = np.bincount(rows, weights=exponentials, minlength=len(features_ND))
    weights = (exponentials / totals[rows]).astype(np.float32)
    return csr_matrix((weights, (rows, columns)), shape=members.shape)


def _near(vectors: csr_matrix, max_distance: float) -> csr_matrix:
    """Compute 1 - s / (2 - s), s the sum of elementwise minima of two rows, where it is at most `max_distance`."""
    number = vectors.shape[0]
    inverted = vectors.tocsc()
    min_shared = np.float32(2 * (1 - max_distance) / (2 - max_distance))

    def near_rows(first: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        last = min(first + ROWS_AT_ONCE, number)
        row_parts = (vectors.indptr, vectors.indices, vectors.data)
        column_parts = (inverted.indptr, inverted.indices, inverted.data)
        counts, columns, shared = shared_minima(*row_parts, *column_parts, first, last, min_shared)
        return counts, columns, shared

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # the compiled loop lets go of the GIL
        blocks = list(threads.map(near_rows, range(0, number, ROWS_AT_ONCE)))
    counts, columns, shared = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    distances = np.maximum(1 - shared / (2 - shared), 0, dtype=np.float32)
    distances[columns == np.repeat(np.arange(number), counts)] = 0
    return csr_matrix((distances, columns, np.concatenate([[0], np.cumsum(counts)])), shape=(number, number))


@njit(nogil=True)
def shared_minima(  # type: ignore[no-untyped-def]
    starts, members, weights, column_starts, column_rows, column_weights, first, last, min_shared
):
    """Sum the elementwise minima of rows first .. last - 1 with every row they meet; keep sums of min_shared or more.

    Returns:
        For each row how many it keeps; which rows those are, ascending; their sums.
    """
    number = len(starts) - 1
    sums = np.zeros(number, dtype=np.float32)
    touched = np.empty(number, dtype=np.int64)
    counts = np.zeros(last - first, dtype=np.int64)
    kept = np.empty(1024, dtype=np.int64)
    kept_sums = np.empty(1024, dtype=np.float32)
    size = 0
    for i in range(first, last):
        met = 0
        for a in range(starts[i], starts[i + 1]):
            for b in range(column_starts[members[a]], column_starts[members[a] + 1]):
                j = column_rows[b]
                if sums[j] == 0:
                    touched[met] = j
                    met += 1
                sums[j] += min(weights[a], column_weights[b])
        if size + met > len(kept):
            kept = np.concatenate((kept, np.empty(len(kept) + met, dtype=np.int64)))
            kept_sums = np.concatenate((kept_sums, np.empty(len(kept_sums) + met, dtype=np.float32)))
        for j in np.sort(touched[:met]):
            if sums[j] >= min_shared or j == i:
                kept[size] = j
                kept_sums[size] = sums[j]
                size += 1
                counts[i - first] += 1
            sums[j] = 0
    return counts, kept[:size], kept_sums[:size]
