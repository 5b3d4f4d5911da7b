"""Better neighbours from neighbours: who is near to someone near may be near too (NN-Descent; Dong et al., WWW 2011).

Two images are compared if a third is tied to both, and ties run both ways: to those in an image's list, and from those
that list it. What has been compared is not compared again, so each round costs less than the one before.
"""

# N = images, D = embedding, W = width of the lists, R = rows of a block, P = pairs, E = ties

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numba import njit

from reidge.train.pairs import pair_similarities

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

ROWS_AT_ONCE = 1024
"""Images that a thread finds candidates for at a time."""
LISTED, TIED = 9, 8
"""Bytes that a place in a list takes, and the ties of one that is looked through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """The nearest of each image that have been found so far, the image itself not among them; nearest first."""

    indices_NW: NDArray[np.int32]
    similarities_NW: NDArray[np.float32]
    new_NW: NDArray[np.bool_]
    """Listed since the image last looked through that place."""


def descend(features_ND: Tensor, lists: Lists, joined: int, order_N: NDArray[np.int64]) -> None:
    """Compare each image with those tied to the images it is tied to; write what is nearer into the lists.

    Takes 8 x joined + 8 bytes for each image, and 8 for each pair of the blocks in work: a row has some hundreds,
    and never more than 2 x joined x (2 x joined + 1).

    Args:
        features_ND: Unit length.
        lists: Of all images.
        joined: Places of a list that are looked through, and the most ties that come from elsewhere.
        order_N: All images; those that follow each other should be near each other, as they share candidates.
    """
    starts, ties_E = _tie(lists.indices_NW, lists.new_NW, joined)
    lists.new_NW[:, :joined] = False

    def improve(start: int) -> None:
        rows_R = order_N[start : start + ROWS_AT_ONCE]
        starts_R, others_P = _tied_to_tied(rows_R, starts, ties_E, lists.indices_NW)
        similarities_P = pair_similarities(features_ND, rows_R, starts_R, others_P)
        _insert(rows_R, starts_R, others_P, similarities_P, lists.indices_NW, lists.similarities_NW, lists.new_NW)

    # No two blocks hold the same row. A GPU is kept busy by one, which copies embeddings there.
    with ThreadPoolExecutor(1 if features_ND.is_cuda else torch.get_num_threads()) as threads:
        list(threads.map(improve, range(0, len(order_N), ROWS_AT_ONCE)))


@njit(nogil=True)
def _tie(indices, new, joined):  # type: ignore[no-untyped-def]
    """Tie each image to the first `joined` of its list, and to as many as list it, those first that list it nearer.

    Returns:
        Where each image's ties begin, and whom they reach: j, or ~j for a new one.
    """
    number = len(indices)
    counts = np.zeros(number, dtype=np.int64)
    for place in range(joined):
        for image in range(number):
            counts[indices[image, place]] += 1
    starts = np.zeros(number + 1, dtype=np.int64)
    for image in range(number):
        starts[image + 1] = starts[image] + joined + min(counts[image], joined)
    ties = np.empty(starts[-1], dtype=np.int32)
    ends = starts[:-1] + joined
    for place in range(joined):
        for image in range(number):
            other = indices[image, place]
            fresh = new[image, place]
            ties[starts[image] + place] = ~other if fresh else other
            if ends[other] < starts[other + 1]:
                ties[ends[other]] = ~image if fresh else image
                ends[other] += 1
    return starts, ties


@njit(nogil=True)
def _tied_to_tied(rows, starts, ties, indices):  # type: ignore[no-untyped-def]
    """Find whom each row has not been compared with: two ties away, at least one of them new, and not in its list.

    Returns:
        Where each row's begin, and who they are.
    """
    room = 0
    for row in rows:
        for tie in range(starts[row], starts[row + 1]):
            middle = max(ties[tie], ~ties[tie])
            room += 1 + starts[middle + 1] - starts[middle]
    seen = np.full(len(indices), -1, dtype=np.int32)
    others, size = np.empty(room, dtype=np.int32), 0
    starts_of_rows = np.zeros(len(rows) + 1, dtype=np.int64)
    for r in range(len(rows)):
        row = rows[r]
        seen[row] = r
        seen[indices[row]] = r
        for tie in range(starts[row], starts[row + 1]):
            middle, fresh = max(ties[tie], ~ties[tie]), ties[tie] < 0
            if fresh and seen[middle] != r:
                seen[middle] = r
                others[size] = middle
                size += 1
            for further in range(starts[middle], starts[middle + 1]):
                other = max(ties[further], ~ties[further])
                if (fresh or ties[further] < 0) and seen[other] != r:
                    seen[other] = r
                    others[size] = other
                    size += 1
        starts_of_rows[r + 1] = size
    return starts_of_rows, others[:size].copy()


@njit(nogil=True)
def _insert(rows, starts, others, candidates, indices, similarities, new):  # type: ignore[no-untyped-def]
    """Put each candidate into its place in the row's list, if it is nearer than the last."""
    last = indices.shape[1] - 1
    for r in range(len(rows)):
        row = rows[r]
        for pair in range(starts[r], starts[r + 1]):
            if candidates[pair] > similarities[row, last]:
                place = last
                while place > 0 and similarities[row, place - 1] < candidates[pair]:
                    indices[row, place] = indices[row, place - 1]
                    similarities[row, place] = similarities[row, place - 1]
                    new[row, place] = new[row, place - 1]
                    place -= 1
                indices[row, place], similarities[row, place] = others[pair], candidates[pair]
                new[row, place] = True
