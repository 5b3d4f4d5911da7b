"""How well embeddings rank a gallery: mAP, CMC and mINP as the field reports them."""

# Q = queries, q = queries of a block, G = gallery, M = right matches, D = embedding, N = images, R = ranks,
# H, W = input height and width

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reidge.edge.crops import ResizeMethod, read_image, resize_crops
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.progress import Progress
from reidge.train.rerank import RerankConfig
from reidge.train.rerank import rerank as rerank_gallery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.train.datasets import Benchmark

MAX_RANK = 50
DISTANCES_AT_ONCE = 1 << 25
"""Entries of the distance matrix in memory: 128 MiB in float32, whatever the size of the gallery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Figures of one query/gallery split, as fractions 0 to 1."""

    mAP: float
    """Mean of `ap_Q`."""
    cmc: NDArray[np.float64]
    """`cmc[r - 1]` is the share of queries with a right match among the first r; `(R,)`, R at most 50."""
    mINP: float
    """Mean inverse negative penalty: how early the last right match comes (Ye et al., 2021, eq. 3)."""
    ap_Q: NDArray[np.float64]
    """Average precision of each query; NaN where the gallery holds no right match."""

    @property
    def rank1(self) -> float:
        """Share of queries whose first match is right."""
        return float(self.cmc[0])


def evaluate_ranking(
    query_QD: NDArray[np.floating[Any]],
    gallery_GD: NDArray[np.floating[Any]],
    query_pids: NDArray[Any],
    gallery_pids: NDArray[Any],
    query_camids: NDArray[Any],
    gallery_camids: NDArray[Any],
    *,
    rerank: RerankConfig | None = None,
) -> Ranking:
    """Rank the gallery by Euclidean distance to each query, a block of queries at a time.

    Gallery images of the query's own identity and camera are passed over. Average precision treats equal distances
    as one step, as scikit-learn's `average_precision_score` does; CMC and mINP take them in the gallery's order.
    Queries without a right match do not count.

    Args:
        query_QD: Embeddings.
        gallery_GD: Embeddings; beside them memory holds a few times `DISTANCES_AT_ONCE` numbers.
        query_pids: `(Q,)`.
        gallery_pids: `(G,)`.
        query_camids: `(Q,)`.
        gallery_camids: `(G,)`.
        rerank: Rank by k-reciprocal neighbours among all queries and the whole gallery; None as is.

    Raises:
        InputError: No query has a right match in another camera.
        ReidgeError: An embedding is not finite.
    """
    ap_Q = np.full(len(query_QD), np.nan)
    first_ranks, penalties = [], []
    for first, distances_qG in _distance_blocks(query_QD, gallery_GD, rerank):
        for q, distances_G in enumerate(distances_qG, first):
            same_pid_G = gallery_pids == query_pids[q]
            kept_G = ~(same_pid_G & (gallery_camids == query_camids[q]))
            matches_M = np.flatnonzero(same_pid_G[kept_G])
            if len(matches_M):
                ap_Q[q], first_rank, last_rank = _score(distances_G[kept_G], matches_M)
                first_ranks.append(first_rank)
                penalties.append(len(matches_M) / last_rank)
    if not first_ranks:
        raise InputError(
            f"none of the {len(query_QD)} queries has its identity in another camera of the gallery, so nothing can be "
            "ranked. Give a split whose identities span at least two cameras."
        )
    ranks_R = np.arange(1, min(MAX_RANK, len(gallery_GD)) + 1)
    cmc_R = (np.array(first_ranks)[:, None] <= ranks_R).mean(axis=0)
    return Ranking(mAP=float(np.nanmean(ap_Q)), cmc=cmc_R, mINP=float(np.mean(penalties)), ap_Q=ap_Q)


def _distance_blocks(
    query_QD: NDArray[np.floating[Any]], gallery_GD: NDArray[np.floating[Any]], rerank: RerankConfig | None
) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
    """Yield the number of a first query, and the distances of it and some that follow to the gallery."""
    squares_G = squared_lengths(gallery_GD)
    if not (np.isfinite(squares_G).all() and np.isfinite(squared_lengths(query_QD)).all()):
        raise ReidgeError("some embeddings are not finite numbers, so nothing can be ranked. Train the encoder anew.")
    reranked = None
    if rerank is not None and len(query_QD) and len(gallery_GD):
        reranked = rerank_gallery(query_QD, gallery_GD, **rerank.model_dump())
    at_once = max(1, DISTANCES_AT_ONCE // max(1, len(gallery_GD)))
    for first in range(0, len(query_QD), at_once):
        distances_qG = squared_distances(query_QD[first : first + at_once], gallery_GD, squares_G)
        yield first, distances_qG if reranked is None else reranked.distances(first, distances_qG)


def squared_lengths(x_ND: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Squared Euclidean length of each row, without a second matrix of that size."""
    return np.asarray(np.einsum("nd,nd->n", x_ND, x_ND))


def squared_distances(
    a_QD: NDArray[np.floating[Any]],
    b_GD: NDArray[np.floating[Any]],
    squares_G: NDArray[np.floating[Any]] | None = None,
) -> NDArray[np.floating[Any]]:
    """Squared Euclidean distance of each row of `a_QD` to each of `b_GD`, whose squared lengths may be known."""
    distances_QG = a_QD @ b_GD.T
    distances_QG *= -2
    distances_QG += squared_lengths(b_GD) if squares_G is None else squares_G
    distances_QG += squared_lengths(a_QD)[:, None]
    return np.asarray(distances_QG)


def _score(distances_G: NDArray[np.floating[Any]], matches_M: NDArray[np.int64]) -> tuple[float, int, int]:
    """Score one query from the distances to the gallery and the positions of the right matches, at least one.

    Returns:
        The average precision, and the ranks of the first and the last right match, counted from 1.
    """
    sorted_G, found_M = np.sort(distances_G), np.sort(distances_G[matches_M])
    precision_M = np.searchsorted(found_M, found_M, side="right") / np.searchsorted(sorted_G, found_M, side="right")

    def rank(g: int) -> int:
        nearer = np.searchsorted(sorted_G, distances_G[g])
        return int(nearer + np.count_nonzero(distances_G[:g] == distances_G[g]) + 1)

    # The stable order: of equal distances the earlier image comes first.
    by_distance_M = matches_M[np.argsort(distances_G[matches_M], kind="stable")]
    return float(precision_M.mean()), rank(by_distance_M[0]), rank(by_distance_M[-1])


def embed_paths(
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    paths: Sequence[Path],
    *,
    size: tuple[int, int],
    resize: ResizeMethod,
    batch_size: int = 64,
    quiet: bool = True,
) -> NDArray[np.float32]:
    """Read, resize and embed image files a batch at a time, so memory holds their embeddings once and no more.

    Args:
        embed: From `(N, H, W, 3)` uint8 BGR to `(N, D)`.
        paths: At least one.
        size: Height and width that `embed` takes.
        resize: How crops are brought there.
        batch_size: Crops at a time.
        quiet: Whether to show no progress.
    """
    embeddings_ND = np.empty((len(paths), 0), dtype=np.float32)
    with Progress("embed", total=len(paths), unit="crops", quiet=quiet) as progress:
        for start in range(0, len(paths), batch_size):
            images = (read_image(path) for path in paths[start : start + batch_size])
            x_BD = embed(resize_crops(images, size=size, method=resize))
            if start == 0:
                embeddings_ND = np.empty((len(paths), x_BD.shape[1]), dtype=np.float32)
            embeddings_ND[start : start + len(x_BD)] = x_BD
            progress.advance(len(x_BD))
    return embeddings_ND


def evaluate_split(
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    split: Benchmark,
    *,
    size: tuple[int, int],
    resize: ResizeMethod,
    batch_size: int = 64,
    rerank: RerankConfig | None = None,
    quiet: bool = True,
) -> Ranking:
    """Score anything that embeds crops, be it a network, a bundle or a histogram, on a labelled split.

    Args:
        embed: From `(N, H, W, 3)` uint8 BGR to `(N, D)` unit length.
        split: Queries and gallery.
        size: Height and width that `embed` takes.
        resize: How crops are brought there.
        batch_size: Crops at a time.
        rerank: As in `evaluate_ranking`.
        quiet: Whether to show no progress.

    Raises:
        InputError: An image is unreadable, or no identity spans two cameras.
        ReidgeError: An embedding is not finite.
    """
    query, gallery = split.query, split.gallery
    query_QD, gallery_GD = (
        embed_paths(embed, images.paths, size=size, resize=resize, batch_size=batch_size, quiet=quiet)
        for images in (query, gallery)
    )
    return evaluate_ranking(query_QD, gallery_GD, query.pids, gallery.pids, query.camids, gallery.camids, rerank=rerank)
