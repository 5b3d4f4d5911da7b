"""Re-ranking by k-reciprocal neighbours (Zhong et al., CVPR 2017), sparse: no N x N matrix is ever held.

Images that stand among each other's nearest are near; others keep their distance. The result is that of the authors'
dense code, and memory grows with N x k1.
"""

# Q = queries, q = queries of a block, G = gallery, N = Q + G images, R = rows of a block, K = k1 + 1 columns of the
# ranking, D = embedding, P = pairs of images

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import BaseModel, Field

from reidge.train.minima import MinimaIndex
from reidge.train.reciprocal import averaged, expanded_sets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.sparse import SparseRows

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
    neighbourhoods: MinimaIndex
    """Weight of each image in the neighbourhood of another, queries first, then the gallery; indexed by that of the
    gallery."""

    def distances(self, first: int, squared_qG: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Turn squared Euclidean distances of queries `first`, `first + 1`, ... into their new ones, 0 to 1."""
        last = first + len(squared_qG)
        counts_q, columns, shared = self.neighbourhoods.near(first, last, min_shared=0, room=squared_qG.size)
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
    weights = expanded_sets(ranking_NK, round(k1 / 2) + 1, max_entries=sys.maxsize)
    _weigh(weights, parts, largest_N)
    if k2 > 1:
        weights = averaged(weights, ranking_NK[:, :k2], max_entries=sys.maxsize)
    return Reranking(
        lambda_value=lambda_value,
        largest_Q=largest_N[: len(query_QD)],
        neighbourhoods=MinimaIndex.of_last(weights, len(query_QD)),
    )


def _nearest(parts: list[Tensor], k: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rank all images by distance from each, itself first, `(N, k)`; and find the largest squared distance, `(N,)`."""
    number = sum(len(part) for part in parts)
    squares_N = torch.cat([torch.einsum("nd,nd->n", part, part) for part in parts])
    ranking_NK = np.empty((number, k), dtype=np.int32)
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


def _weigh(sets: SparseRows, parts: list[Tensor], largest_N: NDArray[np.float32]) -> None:
    """Fill in the softmax, over each row, of the negated distances, 0 to 1, to its members."""
    rows_P = np.repeat(np.arange(len(sets), dtype=np.int32), np.diff(sets.starts))
    for start in range(0, len(rows_P), PAIRS_AT_ONCE):
        pairs = slice(start, start + PAIRS_AT_ONCE)
        gaps_PD = _take(parts, rows_P[pairs]) - _take(parts, sets.columns[pairs])
        squared_P = torch.einsum("pd,pd->p", gaps_PD, gaps_PD).numpy()
        sets.values[pairs] = np.exp(-squared_P / largest_N[rows_P[pairs]])
    totals_N = np.bincount(rows_P, weights=sets.values, minlength=len(sets))
    sets.values[:] /= totals_N.astype(np.float32)[rows_P]


def _take(parts: list[Tensor], indices_P: NDArray[np.integer[Any]]) -> Tensor:
    """Take rows of the query and the gallery as if they were one matrix."""
    query, gallery = parts
    index_P = torch.from_numpy(indices_P.astype(np.int64))
    from_query_P = index_P < len(query)
    rows_PD = torch.empty(len(index_P), query.shape[1])
    rows_PD[from_query_P] = query[index_P[from_query_P]]
    rows_PD[~from_query_P] = gallery[index_P[~from_query_P] - len(query)]
    return rows_PD
