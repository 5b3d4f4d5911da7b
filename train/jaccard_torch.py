"""Sparse k-reciprocal Jaccard distances in torch operations alone: for a GPU, the same as `jaccard` on all cores.

Rows are taken in blocks that fit into the memory allowed, and sums are of whole numbers: they do not depend on the
order in which a GPU adds, so that the distances are symmetric to the last bit and the same each time.
"""

# N = images, D = embedding, K = columns of the neighbour ranking, H = columns of half-size sets, R = rows of a block,
# M = candidates for a set, E = entries of sparse rows, U = pairs of images, X = images met in a block

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.sparse import csr_matrix

from reidge.edge.errors import InputError
from reidge.train.minima_torch import DeviceMinima
from reidge.train.reciprocal import MIN_OVERLAP
from reidge.train.sparse import TooManyEntries
from reidge.train.sparse_torch import (
    ENTRY_BYTES,
    MAX_KEYS,
    ONE,
    TERM_BYTES,
    cut,
    make_device_rows,
    ranges,
    sums_by_key,
    whole,
)

if TYPE_CHECKING:
    from torch import Tensor

    from reidge.train.sparse_torch import Block, DeviceRows

MAX_BLOCK_BYTES = 2**30
"""A GPU is busy with less, and the terms of a sum stay few enough."""
CANDIDATE_BYTES = 64
"""Of a candidate for a set, until it is decided."""
ROUNDING = 1e-6
"""By how much less two rows may share than the limit says, until the distance itself is looked at."""


def jaccard_distances_torch(
    features_ND: Tensor, ranking_NK: Tensor, *, k1: int, k2: int, max_distance: float, max_bytes: int
) -> csr_matrix:
    """Return the k-reciprocal Jaccard distances up to `max_distance`, computed on the device of the ranking.

    An image near everything makes a column that nearly all rows hold, and every pair would meet there. Two rows share
    in heavy columns at most what the one holds in them; so a row that holds less there than the least sum s of a near
    pair, with 1 - s / (2 - s) = `max_distance`, shares a light column with each row near to it, and is looked up by
    its light columns alone. What the pairs thus found share in heavy columns is added, so that no distance changes.

    Args:
        features_ND: Unit length, float32 or float16, on any device or in a file; as the settings, checked before.
        ranking_NK: int64, the image itself and its nearest; the first k1 columns count.
        k1: Columns of the ranking, the image itself included; of N images at most N are used, as published.
        k2: Rows averaged in query expansion, the image itself included; 1 switches it off.
        max_distance: 0 to 1. Pairs farther apart are left out, and so are pairs that share nothing.
        max_bytes: On the device beside the features and the ranking; as much again for the result.

    Returns:
        `(N, N)` float32, symmetric, the diagonal stored as 0.

    Raises:
        InputError: The ranking does not belong to the features.
        TooManyEntries: More than `max_bytes` is needed.
    """
    number, columns = len(features_ND), min(k1, len(features_ND))
    _check(ranking_NK, number, columns)
    ranking_NK, half = ranking_NK[:, :columns], min(round(k1 / 2) + 1, columns)
    # Of each image: whether its neighbours are mutual; starts, sums and costs of its rows.
    room = max_bytes - number * (columns + half + 64)
    if room <= 0:
        raise TooManyEntries
    block_bytes = min(room // 4, MAX_BLOCK_BYTES)
    max_entries = (room - block_bytes) // (3 * ENTRY_BYTES)  # twice in rows, once more while they are joined
    rows = _neighbourhoods(features_ND, ranking_NK, half, block_bytes, max_entries)
    if k2 > 1:
        rows = _averaged(rows, ranking_NK[:, :k2], block_bytes, max_entries)
    index = DeviceMinima.build(rows, block_bytes=block_bytes)
    return _distances(index, max_distance, max_bytes // (2 * ENTRY_BYTES))


def _check(ranking_NK: Tensor, number: int, columns: int) -> None:
    if not number or ranking_NK.ndim != 2 or len(ranking_NK) != number or ranking_NK.shape[1] < columns:
        raise InputError(
            f"got a ranking of shape {tuple(ranking_NK.shape)} for the features of {number} images: wants a row for "
            f"each image and {columns} columns."
        )
    if ranking_NK.dtype != torch.int64 or ranking_NK.min() < 0 or ranking_NK.max() >= number:
        raise InputError(
            f"got a ranking of {ranking_NK.dtype} from {ranking_NK.min()} to {ranking_NK.max()}: wants int64, numbers "
            f"of images from 0 to {number - 1}."
        )


def _neighbourhoods(
    features_ND: Tensor, ranking_NK: Tensor, half: int, block_bytes: int, max_entries: int
) -> DeviceRows:
    """Give each image its expanded k-reciprocal set, with the softmax of the negated squared distances to it."""
    candidates = ranking_NK.shape[1] * (1 + half)
    blocks = _blocks(len(ranking_NK), block_bytes // (CANDIDATE_BYTES * candidates))
    mutual_NK = torch.cat([_mutual(ranking_NK, *block) for block in blocks])
    mutual_NH = torch.cat([_mutual(ranking_NK[:, :half], *block) for block in blocks])

    def compute(first: int, last: int) -> Block:
        members_RM = _expanded(ranking_NK, mutual_NK, mutual_NH, first, last)
        is_member_RM = members_RM < len(ranking_NK)
        places = is_member_RM.nonzero(as_tuple=True)  # once: the CPU waits for the GPU to know how many
        columns_E = members_RM[places]
        weights_RM = torch.full(members_RM.shape, -torch.inf, device=members_RM.device)
        # The squared distance of unit vectors is 2 - 2 s, and the 2 cancels in the softmax.
        weights_RM[places] = 2 * _similarities(features_ND, places[0] + first, columns_E, block_bytes)
        return is_member_RM.sum(dim=1), columns_E.int(), weights_RM.softmax(dim=1)[places]

    return make_device_rows(compute, blocks, max_entries=max_entries)


def _blocks(number: int, size: int) -> list[tuple[int, int]]:
    size = max(size, 1)
    return [(first, min(first + size, number)) for first in range(0, number, size)]


def _mutual(ranking_NK: Tensor, first: int, last: int) -> Tensor:
    """Say which of the neighbours of some images have the image among theirs."""
    rows_R11 = torch.arange(first, last, device=ranking_NK.device)[:, None, None]
    return (ranking_NK[ranking_NK[first:last]] == rows_R11).any(dim=2)


def _expanded(ranking_NK: Tensor, mutual_NK: Tensor, mutual_NH: Tensor, first: int, last: int) -> Tensor:
    """Return the sets of a block of images, ascending, filled up with N at any place."""
    none = len(ranking_NK)
    ranking_RK, mutual_RK = ranking_NK[first:last], mutual_NK[first:last]
    original_RK = ranking_RK.masked_fill(~mutual_RK, none).sort(dim=1).values
    half_RKH = ranking_NK[:, : mutual_NH.shape[1]][ranking_RK]
    in_half_RKH = mutual_NH[ranking_RK]
    flat_RM = half_RKH.flatten(1)
    places_RM = torch.searchsorted(original_RK, flat_RM).clamp_(max=original_RK.shape[1] - 1)
    inside_RKH = (original_RK.gather(1, places_RM) == flat_RM).view_as(half_RKH) & in_half_RKH
    # In float64, as on the CPU: two thirds of a multiple of three are exact.
    joins_RK = mutual_RK & (inside_RKH.sum(dim=2) > MIN_OVERLAP * in_half_RKH.sum(dim=2).double())
    joined_RM = half_RKH.masked_fill_(~(in_half_RKH & joins_RK[:, :, None]), none).flatten(1)
    members_RM = torch.cat([original_RK, joined_RM], dim=1).sort(dim=1).values
    again_RM = members_RM[:, 1:] == members_RM[:, :-1]
    members_RM[:, 1:].masked_fill_(again_RM, none)
    return members_RM


def _similarities(features_ND: Tensor, rows_E: Tensor, columns_E: Tensor, block_bytes: int) -> Tensor:
    """Compute the cosine of each pair; features that are elsewhere come to the device once in a block."""
    similarities_E = torch.empty(len(rows_E), device=rows_E.device)
    # Its two embeddings, and twice the memory of one while they are fetched.
    for first, last in _blocks(len(rows_E), block_bytes // (16 * features_ND.shape[1])):
        both = torch.cat([rows_E[first:last], columns_E[first:last]])
        met_X, places = torch.unique(both, return_inverse=True)
        x_XD = features_ND[met_X.to(features_ND.device)].to(rows_E.device).float()
        own_ED, other_ED = x_XD[places[: last - first]], x_XD[places[last - first :]]
        similarities_E[first:last] = own_ED.mul_(other_ED).sum(dim=1)
    return similarities_E


def _averaged(rows: DeviceRows, ranking_NK: Tensor, block_bytes: int, max_entries: int) -> DeviceRows:
    """Average, for each image, the rows of those in its ranking (query expansion)."""
    number, averaged = ranking_NK.shape
    counts_N = rows.counts

    def compute(first: int, last: int) -> Block:
        picked = ranking_NK[first:last].flatten()
        lists_T, entries_T = ranges(rows.starts[picked], counts_N[picked])
        keys_T = (lists_T // averaged * number + rows.columns[entries_T]).int()
        keys_U, sums_U = sums_by_key(keys_T, whole(rows.values[entries_T]))
        counts_R = torch.bincount(keys_U // number, minlength=last - first)
        return counts_R, keys_U % number, (sums_U.double() / (averaged * ONE)).float()

    costs_N = torch.cat([counts_N[ranking_NK[first:last]].sum(dim=1) for first, last in _blocks(number, 1 << 16)])
    blocks = cut(costs_N, block_bytes // TERM_BYTES, most=max(MAX_KEYS // number, 1))
    return make_device_rows(compute, blocks, max_entries=max_entries)


def _distances(index: DeviceMinima, max_distance: float, max_entries: int) -> csr_matrix:
    """Compute 1 - s / (2 - s), s the sum of elementwise minima of two rows, where it is at most `max_distance`."""
    counts, columns, values, made = [], [], [], 0
    for pairs in index.near(2 * (1 - max_distance) / (2 - max_distance) - ROUNDING):
        distances_U = (1 - pairs.sums_U / (2 - pairs.sums_U)).clamp_(min=0).float()
        distances_U[pairs.others_U == pairs.rows_U + pairs.first] = 0
        near = (distances_U <= float(np.float32(max_distance))).nonzero(as_tuple=True)
        made += len(near[0])
        if made > max_entries:
            raise TooManyEntries
        counts.append(torch.bincount(pairs.rows_U[near], minlength=pairs.last - pairs.first).cpu().numpy())
        columns.append(pairs.others_U[near].int().cpu().numpy())
        values.append(distances_U[near].cpu().numpy())
    starts = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    number = len(index.rows)
    return csr_matrix((np.concatenate(values), np.concatenate(columns), starts), shape=(number, number))
