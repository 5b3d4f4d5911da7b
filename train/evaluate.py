"""How well embeddings rank a gallery: mAP, CMC and mINP as the field reports them."""

# Q = queries, G = gallery, D = embedding, N = images, R = ranks, H, W = input height and width

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reidge.edge.crops import ResizeMethod, read_image, resize_crops
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.train.datasets import Benchmark

MAX_RANK = 50
QUERIES_AT_ONCE = 256
"""Bounds the distance matrix in memory."""


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
) -> Ranking:
    """Rank the gallery by Euclidean distance to each query, without re-ranking.

    Gallery images of the query's own identity and camera are passed over. Average precision treats equal distances
    as one step, as scikit-learn's `average_precision_score` does. Queries without a right match do not count.

    Raises:
        InputError: No query has a right match in another camera.
    """
    ap_Q = np.full(len(query_QD), np.nan)
    first_ranks, penalties = [], []
    for start in range(0, len(query_QD), QUERIES_AT_ONCE):
        rows = slice(start, start + QUERIES_AT_ONCE)
        distances_QG = squared_distances(query_QD[rows], gallery_GD)
        for q, distances_G in enumerate(distances_QG, start):
            same_pid_G = gallery_pids == query_pids[q]
            kept_G = ~(same_pid_G & (gallery_camids == query_camids[q]))
            matches_G, distances_G = same_pid_G[kept_G], distances_G[kept_G]
            if not matches_G.any():
                continue
            order_G = np.argsort(distances_G, kind="stable")
            matches_G, distances_G = matches_G[order_G], distances_G[order_G]
            ap_Q[q] = average_precision(matches_G, distances_G)
            match_ranks = np.flatnonzero(matches_G) + 1
            first_ranks.append(match_ranks[0])
            penalties.append(len(match_ranks) / match_ranks[-1])
    if not first_ranks:
        raise InputError(
            f"none of the {len(query_QD)} queries has its identity in another camera of the gallery, so nothing can be "
            "ranked. Give a split whose identities span at least two cameras."
        )
    ranks_R = np.arange(1, min(MAX_RANK, len(gallery_GD)) + 1)
    cmc_R = (np.array(first_ranks)[:, None] <= ranks_R).mean(axis=0)
    return Ranking(mAP=float(np.nanmean(ap_Q)), cmc=cmc_R, mINP=float(np.mean(penalties)), ap_Q=ap_Q)


def squared_distances(a_QD: NDArray[np.floating[Any]], b_GD: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Squared Euclidean distance of each row of `a_QD` to each of `b_GD`."""
    squares_QG = (a_QD**2).sum(axis=1)[:, None] + (b_GD**2).sum(axis=1)
    return np.asarray(squares_QG - 2 * (a_QD @ b_GD.T))


def average_precision(matches_G: NDArray[np.bool_], distances_G: NDArray[np.floating[Any]]) -> float:
    """Mean over the right matches of the precision where their distance ends; both sorted by distance."""
    through_G = np.searchsorted(distances_G, distances_G, side="right")
    found_G = np.cumsum(matches_G)
    precision_G = found_G[through_G - 1] / through_G
    return float(precision_G[matches_G].mean())


def embed_paths(
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    paths: Sequence[Path],
    *,
    size: tuple[int, int],
    resize: ResizeMethod,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Read, resize and embed image files a batch at a time, so memory does not grow with their number.

    Args:
        embed: From `(N, H, W, 3)` uint8 BGR to `(N, D)`.
        paths: At least one.
        size: Height and width that `embed` takes.
        resize: How crops are brought there.
        batch_size: Crops at a time.
    """
    return np.concatenate(
        [
            embed(resize_crops((read_image(path) for path in paths[i : i + batch_size]), size=size, method=resize))
            for i in range(0, len(paths), batch_size)
        ]
    )


def evaluate_split(
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    split: Benchmark,
    *,
    size: tuple[int, int],
    resize: ResizeMethod,
    batch_size: int = 64,
) -> Ranking:
    """Score anything that embeds crops, be it a network, a bundle or a histogram, on a labelled split.

    Args:
        embed: From `(N, H, W, 3)` uint8 BGR to `(N, D)` unit length.
        split: Queries and gallery.
        size: Height and width that `embed` takes.
        resize: How crops are brought there.
        batch_size: Crops at a time.

    Raises:
        InputError: An image is unreadable, or no identity spans two cameras.
    """
    query_QD, gallery_GD = (
        embed_paths(embed, images.paths, size=size, resize=resize, batch_size=batch_size)
        for images in (split.query, split.gallery)
    )
    return evaluate_ranking(
        query_QD, gallery_GD, split.query.pids, split.gallery.pids, split.query.camids, split.gallery.camids
    )
