"""The dense k-reciprocal Jaccard distance of a ranking, written as literally as published, and that of a GPU."""

# N = images, D = embedding, K = columns of the ranking

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from reidge.train.jaccard_torch import jaccard_distances_torch
from reidge.train.neighbors import nearest_neighbors


def reciprocal(ranking_NK: np.ndarray, i: int, columns: int) -> set[int]:
    return {int(j) for j in ranking_NK[i, :columns] if i in ranking_NK[j, :columns]}


def dense_jaccard(features_ND: np.ndarray, ranking_NK: np.ndarray, k1: int, k2: int) -> np.ndarray:
    number = len(features_ND)
    V = np.zeros((number, number))
    for i in range(number):
        original = reciprocal(ranking_NK, i, k1)
        members = set(original)
        for candidate in original:
            half = reciprocal(ranking_NK, candidate, round(k1 / 2) + 1)
            if len(half & original) > 2 / 3 * len(half):
                members |= half
        for j in members:
            V[i, j] = np.exp(-((features_ND[i] - features_ND[j]) ** 2).sum())
        V[i] /= V[i].sum()
    V = np.stack([V[ranking_NK[i, :k2]].mean(axis=0) for i in range(number)])
    shared = np.stack([np.minimum(V[i], V).sum(axis=1) for i in range(number)])
    return np.asarray(1 - shared / (2 - shared))


@pytest.mark.parametrize(
    ("number", "k1", "k2", "max_distance"),
    [(150, 20, 6, 0.6), (150, 9, 1, 0.9), (150, 6, 3, 0.3), (12, 30, 6, 0.6), (2, 30, 6, 0.6)],
)
@pytest.mark.parametrize("max_bytes", [2**20, 2**28])
def test_distances_in_torch_operations_equal_the_dense_ones(
    number: int, k1: int, k2: int, max_distance: float, max_bytes: int
) -> None:
    generator = torch.Generator().manual_seed(k1)
    who_ND = torch.randn(15, 32, generator=generator).repeat(10, 1)[:number]
    features_ND = functional.normalize(who_ND + 0.5 * torch.randn(who_ND.shape, generator=generator), dim=1)
    ranking_NK = nearest_neighbors(features_ND, min(k1, number)).indices_NK
    dense = dense_jaccard(features_ND.double().numpy(), ranking_NK, k1, k2)
    found = jaccard_distances_torch(
        features_ND, torch.from_numpy(ranking_NK).long(),
        k1=k1, k2=k2, max_distance=max_distance, max_bytes=max_bytes,
    )  # fmt: skip
    entries = found.tocoo()  # nonzero() would pass over the distance to oneself
    stored = np.zeros((number, number), dtype=bool)
    stored[entries.row, entries.col] = True
    assert entries.nnz > number
    np.testing.assert_array_equal(stored, dense <= max_distance)
    np.testing.assert_allclose(entries.data, dense[stored], atol=1e-6)
