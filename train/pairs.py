"""Cosine similarities of given pairs of images, wherever their embeddings are."""

# N = images, D = embedding, P = pairs, R = rows of pairs, U = images met in a block

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

PAIRS_AT_ONCE = 1 << 12
"""Pairs that a thread takes at a time; no more embeddings than these, and mostly far fewer, are copied for it."""


def pair_similarities(
    features_ND: Tensor, images_R: NDArray[np.integer[Any]], starts: NDArray[np.int64], others_P: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Compute the similarity of an image to some others, for many images.

    Rows that follow each other should share images: those of a block are read, and made float32, once.

    Args:
        features_ND: Unit length, float32 or float16, on any device or in a file.
        images_R: The image of each row.
        starts: `(R + 1,)`: row r is compared with `others_P[starts[r] : starts[r + 1]]`.
        others_P: The other images.

    Returns:
        `(P,)`.
    """
    similarities_P = np.empty(len(others_P), dtype=np.float32)
    in_memory = features_ND.device.type == "cpu" and features_ND.dtype == torch.float32

    def compute(first: int, last: int) -> None:
        pairs = slice(starts[first], starts[last])
        images: NDArray[np.integer[Any]] = images_R[first:last]
        others: NDArray[np.integer[Any]] = others_P[pairs]
        x_UD = features_ND
        if not in_memory:
            # Ascending, as a file is read best.
            met_U, places = np.unique(np.concatenate([images, others]), return_inverse=True)
            x_UD = features_ND[torch.from_numpy(met_U).to(features_ND.device)].float()
            images, others = places[: len(images)], places[len(images) :]
        if x_UD.device.type == "cpu":
            _dots(x_UD.numpy(), images, starts[first : last + 1] - starts[first], others, similarities_P[pairs])
        else:
            counts_R = torch.from_numpy(np.diff(starts[first : last + 1]))
            own_P = torch.from_numpy(images).repeat_interleave(counts_R).to(x_UD.device)
            other_P = torch.from_numpy(others).to(x_UD.device)
            similarities_P[pairs] = (x_UD[own_P] * x_UD[other_P]).sum(dim=1).cpu().numpy()

    edges = _cut(starts, PAIRS_AT_ONCE)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # the compiled loop lets go of the GIL
        list(threads.map(compute, edges[:-1], edges[1:]))
    return similarities_P


def _cut(starts: NDArray[np.int64], pairs: int) -> list[int]:
    """Cut the rows into blocks of about so many pairs."""
    wanted = np.arange(0, starts[-1], pairs)
    return [*np.unique(np.searchsorted(starts, wanted, side="right") - 1).tolist(), len(starts) - 1]


@njit(nogil=True, fastmath={"reassoc", "contract"})  # sums in any order, the same each time: eight numbers at once
def _dots(features, images, starts, others, similarities):  # type: ignore[no-untyped-def]
    for row in range(len(images)):
        own = features[images[row]]
        for pair in range(starts[row], starts[row + 1]):
            other = features[others[pair]]
            total = np.float32(0)
            for d in range(len(own)):
                total += own[d] * other[d]
            similarities[pair] = total
