from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from reidge.edge.errors import InputError, ReidgeError
from reidge.train.evaluate import embed_paths, evaluate_ranking

if TYPE_CHECKING:
    from pathlib import Path


def rank(order: list[int], pids: list[int], camids: list[int]):  # type: ignore[no-untyped-def]
    """Rank gallery images placed on a line at the given distances, for a query of person 1 in camera 1."""
    gallery = np.array([[float(place)] for place in order])
    return evaluate_ranking(np.zeros((1, 1)), gallery, np.array([1]), np.array(pids), np.array([1]), np.array(camids))


def test_average_precision_by_hand() -> None:
    ranking = rank([1, 2, 3, 4], [1, 2, 1, 3], [2, 2, 2, 2])
    assert ranking.mAP == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert ranking.mINP == pytest.approx(2 / 3)
    assert ranking.cmc.tolist() == [1, 1, 1, 1]


def test_the_same_person_in_the_same_camera_is_passed_over() -> None:
    ranking = rank([1, 2, 3], [1, 2, 1], [1, 2, 2])
    assert ranking.mAP == pytest.approx(1 / 2)
    assert ranking.cmc.tolist() == [0, 1, 1]


def test_equal_distances_count_as_one_step() -> None:
    assert rank([1, 1], [2, 1], [2, 2]).mAP == pytest.approx(1 / 2)
    assert rank([1, 1], [1, 2], [2, 2]).mAP == pytest.approx(1 / 2)


def test_average_precision_equals_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    query, gallery = rng.integers(0, 3, (20, 4)).astype(float), rng.integers(0, 3, (60, 4)).astype(float)
    query_pids, gallery_pids = rng.integers(0, 5, 20), rng.integers(0, 5, 60)
    ranking = evaluate_ranking(query, gallery, query_pids, gallery_pids, np.zeros(20), np.ones(60))
    for q in range(20):
        distances = ((query[q] - gallery) ** 2).sum(axis=1)
        assert ranking.ap_Q[q] == pytest.approx(average_precision_score(gallery_pids == query_pids[q], -distances))


def test_a_query_without_a_match_does_not_count() -> None:
    ranking = evaluate_ranking(
        np.zeros((2, 1)), np.ones((1, 1)), np.array([1, 2]), np.array([1]), np.array([1, 1]), np.array([2])
    )
    assert ranking.mAP == 1
    assert np.isnan(ranking.ap_Q).tolist() == [False, True]


def test_data_of_one_camera_is_refused_instead_of_nan() -> None:
    with pytest.raises(InputError, match="two cameras"):
        rank([1, 2], [1, 2], [1, 1])


def test_embeddings_that_are_not_numbers_are_refused() -> None:
    for query, gallery in ((np.nan, 1.0), (1.0, np.inf)):
        with pytest.raises(ReidgeError, match="not finite"):
            evaluate_ranking(
                np.array([[query]]), np.array([[gallery]]), np.array([1]), np.array([1]), np.array([1]), np.array([2])
            )


def test_of_equal_distances_the_earlier_image_comes_first() -> None:
    ranking = rank([1, 1, 1, 2], [2, 1, 3, 1], [2, 2, 2, 2])
    assert ranking.cmc.tolist() == [0, 1, 1, 1]
    assert ranking.mINP == pytest.approx(2 / 4)


def test_images_are_embedded_a_batch_at_a_time_in_their_order(tmp_path: Path) -> None:
    paths, sizes = [tmp_path / f"{shade}.png" for shade in (10, 20, 30, 40, 50)], []
    for path in paths:
        cv2.imwrite(str(path), np.full((4, 2, 3), int(path.stem), dtype=np.uint8))

    def embed(crops_NHW3: np.ndarray) -> np.ndarray:
        sizes.append(len(crops_NHW3))
        return crops_NHW3.reshape(len(crops_NHW3), -1)[:, :2].astype(np.float32)

    embeddings = embed_paths(embed, paths, size=(4, 2), resize="linear", batch_size=2)
    assert embeddings.tolist() == [[shade, shade] for shade in (10, 20, 30, 40, 50)]
    assert sizes == [2, 2, 1]
