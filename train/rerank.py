"""Re-ranking by k-reciprocal neighbours (Zhong et al., CVPR 2017), sparse: no N x N matrix is ever held.

Images that stand among each other's nearest are near; others keep their distance. The result is that of the authors'
dense code, and memory grows with N x k1.
"""

# Q = queries, q = queries of a block, G = gallery, N = Q + G images, R = rows of a block, K = k1 + 1 columns of the
# ranking, D = embedding, P = pairs of images

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, Field
from scipy.sparse import csc_matrix, csr_matrix

from reidge.train.jaccard import expanded_sets, membership, shared_minima

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

DISTANCES_AT_ONCE = 1 << 25
"""Entries of the distance matrix in memory: 128 MiB of float32."""
PAIRS_AT_ONCE = 1 << 13
"""Pairs of embeddings in memory: 128 MiB at 2048 dimensions."""


class RerankConfig(BaseModel, frozen=True, extra="forbid"):
    """How far re-ranking looks; the authors' values."""

    k1: int = Field(20, ge=1)
    """Nearest images, itself not counted, among which two must find each other."""
    k2: int = Field(6, ge=1)
    """Nearest images, itself included, whose neighbourhoods are averaged; 1 switches it off."""
    lambda_value: float = Field(0.3, ge=0, le=1)
    """Share of the first distance in the new one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranking:
    """New distances of queries to a gallery, made a block of queries at a time."""

    lambda_value: float
    largest_Q: NDArray[np.float32]
    """Squared distance from each query to what is farthest from it, queries and gallery."""
    neighbourhoods_NN: csr_matrix
    """Weight of each image in the neighbourhood of another; queries first, then the gallery."""
    members_NG: csc_matrix
    """The neighbourhoods of the gallery, transposed and by column: in which of them an image is."""

    def distances(self, first: int, squared_qG: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Turn squared Euclidean distances of queries `first`, `first + 1`, ... into their new ones, 0 to 1."""
        rows, gallery = self.neighbourhoods_NN, self.members_NG
        last = first + len(squared_qG)
        counts_q, columns, shared = shared_minima(
            rows.indptr, rows.indices, rows.data, gallery.indptr, gallery.indices, gallery.data,
            first, last, np.float32(0),
        )  # fmt: skip
        shares = (self.lambda_value / self.largest_Q[first:last])[:, None]
        distances_qG = squared_qG * shares + (1 - self.lambda_value)
        # Where no neighbourhood meets, the Jaccard distance is 1; where they do, it is 1 - s / (2 - s).
        distances_qG[np.repeat(np.arange(len(squared_qG)), counts_q), columns] -= (1 - self.lambda_value) * (
            shared / (2 - shared)
        )
        return np.asarray(distances_qG)


def rerank(
    query_QD: NDArray[np.floating[Any]],
    gallery_GD: NDArray[np.floating[Any]],
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
) -> Reranking:
    """Find the k-reciprocal neighbourhoods that new distances are made from.

    As in the authors' code, squared distances are divided by the largest of their row, half-size sets hold
    round(k1 / 2) neighbours, and queries count as neighbours of queries. An image is always its own nearest.

    Args:
        query_QD: Embeddings, at least one.
        gallery_GD: Embeddings, at least one.
        k1: See `RerankConfig`.
        k2: See `RerankConfig`.
        lambda_value: See `RerankConfig`.
    """
    parts = [torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)) for part in (query_QD, gallery_GD)]
    number = len(query_QD) + len(gallery_GD)
    ranking_NK, largest_N = _nearest(parts, min(k1 + 1, number))
    members = expanded_sets(ranking_NK, round(k1 / 2) + 1)
    weights = _weighted(members, parts, largest_N)
    if k2 > 1:
        near_NK = ranking_NK[:, :k2]
        weights = csr_matrix(membership(near_NK) @ weights)
        weights.data /= near_NK.shape[1]  # in place: scipy would divide into float64
    return Reranking(
        lambda_value=lambda_value,
        largest_Q=largest_N[: len(query_QD)],
        neighbourhoods_NN=weights,
        members_NG=weights[len(query_QD) :].tocsc(),
    )


def _nearest(parts: list[Tensor], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rank all images by distance from each, itself first, `(N, k)`; and find the largest squared distance, `(N,)`."""
    number = sum(len(part) for part in parts)
    squares_N = torch.cat([torch.einsum("nd,nd->n", part, part) for part in parts])
    ranking_NK = np.empty((number, k), dtype=np.int64)
    largest_N = np.empty(number, dtype=np.float32)
    for start, rows_RD in _blocks(parts, max(1, DISTANCES_AT_ONCE // number)):
        rows = slice(start, start + len(rows_RD))
        distances_RN = torch.cat([rows_RD @ part.T for part in parts], dim=1)
        distances_RN.mul_(-2).add_(squares_N).add_(squares_N[rows, None])
        largest_N[rows] = distances_RN.max(dim=1).values.numpy()
        own = torch.arange(len(rows_RD))
        distances_RN[own, own + start] = -1  # below any copy of the image, whatever the rounding
        ranking_NK[rows] = distances_RN.topk(k, dim=1, largest=False).indices.numpy()
    return ranking_NK, np.maximum(largest_N, np.finfo(np.float32).tiny)  # all images may be copies of one


def _blocks(parts: list[Tensor], size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield rows of the parts as if they were one matrix, with the number of the first."""
    offset = 0
    for part in parts:
        for start in range(0, len(part), size):
            yield offset + start, part[start : start + size]
        offset += len(part)


def _weighted(members: csr_matrix, parts: list[Tensor], largest_N: NDArray[np.float32]) -> csr_matrix:
    """Weigh the members of each row by the softmax of their negated distance, 0 to 1."""
    rows_P, columns_P = members.nonzero()
    exponentials_P = np.empty(len(rows_P), dtype=np.float32)
    for start in range(0, len(rows_P), PAIRS_AT_ONCE):
        pairs = slice(start, start + PAIRS_AT_ONCE)
        gaps_PD = _take(parts, rows_P[pairs]) - _take(parts, columns_P[pairs])
        squared_P = torch.einsum("pd,pd->p", gaps_PD, gaps_PD).numpy()
        exponentials_P[pairs] = np.exp(-squared_P / largest_N[rows_P[pairs]])
    totals_N = np.bincount(rows_P, weights=exponentials_P, minlength=len(largest_N))
    weights_P = (exponentials_P / totals_N[rows_P]).astype(np.float32)
    return csr_matrix((weights_P, (rows_P, columns_P)), shape=members.shape)


def _take(parts: list[Tensor], indices_P: NDArray[np.integer[Any]]) -> Tensor:
    """Take rows of the query and the gallery as if they were one matrix."""
    query, gallery = parts
    index_P = torch.from_numpy(indices_P.astype(np.int64))
    from_query_P = index_P < len(query)
    rows_PD = torch.empty(len(index_P), query.shape[1])
    rows_PD[from_query_P] = query[index_P[from_query_P]]
    rows_PD[~from_query_P] = gallery[index_P[~from_query_P] - len(query)]
    return rows_PD
