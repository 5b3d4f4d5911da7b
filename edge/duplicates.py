"""Identities that may be one person twice, for a user to look at."""

# I = identities, B = a block of them, P = pairs that are alike, M = exemplars, D = embedding

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from reidge.edge.store import Store

BLOCK = 512
"""Identities that are compared with all others at once."""
TOGETHER = """
SELECT 1 FROM sightings AS a JOIN sightings AS b
ON a.camid = b.camid AND a.started_at < b.ended_at AND b.started_at < a.ended_at
WHERE a.global_id = ? AND b.global_id = ? LIMIT 1
"""
TAKEN_APART = """
SELECT global_id, other_id FROM history
WHERE (action = 'split' AND undone_at IS NULL) OR (action = 'merge' AND undone_at IS NOT NULL)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """Two identities that look alike and were never seen at once."""

    global_ids: tuple[int, int]
    """The older number first."""
    similarity: float
    """Mean over all pairs of their exemplars."""


def find_duplicates(
    store: Store, *, min_similarity: float, limit: int, advance: Callable[[int], None] = lambda count: None
) -> list[Duplicate]:
    """Find pairs of identities that look alike, the likeliest first.

    Left out are pairs that were seen at once in one camera, and those that somebody took apart before.

    Args:
        store: Open.
        min_similarity: Least mean similarity of their exemplars.
        limit: Pairs to find at most, one or more.
        advance: Called with how many identities were compared, as it goes on.
    """
    ids_I, means_ID = _means(store)
    taken_apart = {frozenset(pair) for pair in store.read(TAKEN_APART)}
    # A heap of the best pairs so far. Who cannot be one person never enters it: colleagues in a uniform would fill it.
    best: list[tuple[float, int, int]] = []
    for start in range(0, len(ids_I), BLOCK):
        found_BI = means_ID[start : start + BLOCK] @ means_ID[start:].T
        bar = best[0][0] if len(best) == limit else min_similarity
        rows_P, columns_P = np.nonzero(np.triu(found_BI >= bar, k=1))
        order_P = np.argsort(-found_BI[rows_P, columns_P], kind="stable")
        for row, column in zip(rows_P[order_P].tolist(), columns_P[order_P].tolist(), strict=True):
            pair = (float(found_BI[row, column]), -int(ids_I[start + row]), -int(ids_I[start + column]))
            if len(best) == limit and pair < best[0]:
                break  # nor is any that follows
            one, other = -pair[1], -pair[2]
            if frozenset((one, other)) in taken_apart or store.read(TOGETHER, (one, other)):
                continue
            if len(best) < limit:
                heapq.heappush(best, pair)
            else:
                heapq.heapreplace(best, pair)
        advance(min(BLOCK, len(ids_I) - start))
    return [
        Duplicate(global_ids=(-one, -other), similarity=similarity)
        for similarity, one, other in sorted(best, reverse=True)
    ]


def _means(store: Store) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Identities, ascending, and the mean of each one's exemplars, not of unit length."""
    sums: dict[int, NDArray[np.float32]] = {}
    counts: dict[int, int] = {}
    for block in store.exemplars():
        for global_id, embedding_D in zip(block.global_ids_M.tolist(), block.embeddings_MD, strict=True):
            sums[global_id] = sums[global_id] + embedding_D if global_id in sums else embedding_D
            counts[global_id] = counts.get(global_id, 0) + 1
    ids = sorted(sums)
    means_ID = np.array([sums[i] / counts[i] for i in ids], dtype=np.float32).reshape(len(ids), store.embedding_dim)
    return np.array(ids, dtype=np.int64), means_ID
