"""Dense k-reciprocal re-ranking, written as literally as the authors' code, and the sparse one."""

# N = queries and gallery, Q = queries, D = embedding

from __future__ import annotations

import numpy as np
import pytest

from reidge.train.evaluate import evaluate_ranking, squared_distances
from reidge.train.rerank import RerankConfig, rerank


def reciprocal(ranking: np.ndarray, i: int, k: int) -> list[int]:
    """Images among the k nearest of i (itself counted apart) that have i among theirs."""
    return [int(j) for j in ranking[i, : k + 1] if i in ranking[j, : k + 1]]


def dense_rerank(query: np.ndarray, gallery: np.ndarray, *, k1: int, k2: int, lambda_value: float) -> np.ndarray:
    features = np.concatenate([query, gallery]).astype(np.float64)
    number = len(features)
    original = np.array([[((a - b) ** 2).sum() for b in features] for a in features])
    original = (original / original.max(axis=0)).T
    ranking = np.argsort(original - 2 * np.eye(number), axis=1, kind="stable")  # an image is its own nearest
    V = np.zeros((number, number))
    for i in range(number):
        first = reciprocal(ranking, i, k1)
        expanded = set(first)
        for candidate in first:
            half = reciprocal(ranking, candidate, int(np.around(k1 / 2)))
            if len(set(half) & set(first)) > 2 / 3 * len(half):
                expanded |= set(half)
        members = sorted(expanded)
        weights = np.exp(-original[i, members])
        V[i, members] = weights / weights.sum()
    if k2 != 1:
        V = np.stack([V[ranking[i, :k2]].mean(axis=0) for i in range(number)])
    jaccard = np.zeros((number, number))
    for i in range(number):
        for j in range(number):
            shared = np.minimum(V[i], V[j]).sum()
            jaccard[i, j] = 1 - shared / (2 - shared)
    final = jaccard * (1 - lambda_value) + original * lambda_value
    return np.asarray(final[: len(query), len(query) :])


def people(queries: int, gallery: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Noisy unit embeddings of ten people, and who they are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(10, 12))
    pids = rng.integers(0, 10, queries + gallery)
    points = centres[pids] + 0.9 * rng.normal(size=(queries + gallery, 12))
    features = (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)
    return features[:queries], features[queries:], pids[:queries], pids[queries:]


CASES = [(20, 100, 20, 6, 0.3), (20, 100, 5, 1, 0.3), (15, 60, 7, 3, 0.0), (15, 60, 6, 2, 1.0), (3, 9, 20, 6, 0.3)]


@pytest.mark.parametrize(("queries", "number", "k1", "k2", "lambda_value"), CASES)
def test_sparse_distances_equal_the_dense_ones(
    queries: int, number: int, k1: int, k2: int, lambda_value: float
) -> None:
    query, gallery, _, _ = people(queries, number, seed=k1)
    dense = dense_rerank(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    reranking = rerank(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    whole = reranking.distances(0, squared_distances(query, gallery))
    np.testing.assert_allclose(whole, dense, atol=2e-6)
    blocks = [reranking.distances(q, squared_distances(query[q : q + 4], gallery)) for q in range(0, queries, 4)]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_map_after_re_ranking_equals_that_of_the_dense_distances() -> None:
    query, gallery, query_pids, gallery_pids = people(30, 150, seed=1)
    dense = dense_rerank(query, gallery, k1=20, k2=6, lambda_value=0.3)
    cameras = np.zeros(30), np.ones(150)
    found = evaluate_ranking(query, gallery, query_pids, gallery_pids, *cameras, rerank=RerankConfig())
    precisions = []
    for distances, pid in zip(dense, query_pids, strict=True):
        right = (gallery_pids == pid)[np.argsort(distances)]
        precisions.append(np.mean(np.cumsum(right)[right] / (np.flatnonzero(right) + 1)))
    assert found.mAP == pytest.approx(np.mean(precisions), abs=1e-9)
    assert found.mAP > evaluate_ranking(query, gallery, query_pids, gallery_pids, *cameras).mAP + 0.05
