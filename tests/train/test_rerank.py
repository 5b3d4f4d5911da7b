from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from reidge.train.evaluate import evaluate_ranking, squared_distances
from reidge.train.rerank import RerankConfig, rerank


def circle(*degrees: float) -> np.ndarray:
    angles = np.deg2rad(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_an_image_that_shares_the_neighbours_of_the_query_overtakes_a_nearer_one() -> None:
    # The query lies at 0. The image at 12 belongs to the crowd behind it; the one at -13 leads back to the query.
    query, gallery = circle(0), circle(-13, -14, -15, 12, 19, 20, 21, 22)
    before = squared_distances(query, gallery)[0]
    after = rerank(query, gallery, k1=3, k2=1, lambda_value=0.3).distances(0, before[None])[0]
    assert before[3] < before[0]
    assert after[0] < after[3]


def test_lambda_1_keeps_the_order_of_the_first_distances() -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(5, 8)).astype(np.float32), rng.normal(size=(40, 8)).astype(np.float32)
    squared = squared_distances(query, gallery)
    new = rerank(query, gallery, lambda_value=1.0).distances(0, squared)
    np.testing.assert_array_equal(np.argsort(new, axis=1), np.argsort(squared, axis=1))


def test_copies_of_one_image_are_all_at_no_distance() -> None:
    same = np.ones((3, 4), dtype=np.float32) / 2
    reranking = rerank(same[:1], same[1:], k1=2, k2=2)
    np.testing.assert_allclose(reranking.distances(0, squared_distances(same[:1], same[1:])), 0, atol=1e-6)


def test_a_gallery_smaller_than_the_neighbourhood_is_taken_whole() -> None:
    ranking = evaluate_ranking(
        circle(0), circle(3, 90), np.array([1]), np.array([1, 2]), np.array([1]), np.array([2, 2]),
        rerank=RerankConfig(),
    )  # fmt: skip
    assert ranking.mAP == 1


def test_neighbourhoods_of_nobody_are_refused() -> None:
    with pytest.raises(ValidationError, match="k1"):
        RerankConfig(k1=0)
