from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reidge.train.choose import agreement, silhouette, tracklet_consistency
from reidge.train.labels import OUTLIER


def labels(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def circle(*degrees: float) -> torch.Tensor:
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def spread(features_ND: torch.Tensor, labels_N: np.ndarray, sample: int = 4096) -> float | None:
    return silhouette(features_ND, labels_N, rng=np.random.default_rng(0), sample=sample)


def test_agreement_does_not_ask_for_names() -> None:
    assert agreement(labels(0, 0, 1, 1), labels(1, 1, 0, 0)) == 1


def test_agreement_by_hand() -> None:
    # No pair stays together; each has 2 of 6 pairs, so chance would keep 2 * 2 / 6 together, and 2 is the most.
    assert agreement(labels(0, 0, 1, 1), labels(0, 1, 0, 1)) == pytest.approx((0 - 2 / 3) / (2 - 2 / 3))


def test_agreement_passes_over_what_either_leaves_out() -> None:
    assert agreement(labels(0, 0, 1, 1, OUTLIER, 1), labels(4, 4, 2, 2, 4, OUTLIER)) == 1
    assert agreement(labels(0, OUTLIER), labels(OUTLIER, 0)) is None
    assert agreement(labels(OUTLIER, 0, 0), labels(OUTLIER, 1, OUTLIER)) is None


def test_clusterings_without_a_choice_agree() -> None:
    assert agreement(labels(0, 0, 0), labels(1, 1, 1)) == 1  # all in one
    assert agreement(labels(0, 1, 2), labels(2, 0, 1)) == 1  # all apart


def test_tight_clusters_far_apart_have_silhouette_1() -> None:
    assert spread(circle(0, 0, 90, 90), labels(0, 0, 1, 1)) == pytest.approx(1, abs=1e-6)


def test_silhouette_of_swapped_members_by_hand() -> None:
    # Each image is at 1 from its companion and at 1 - cos 45 from the centre of the others.
    between = 1 - math.cos(math.radians(45))
    assert spread(circle(0, 90, 0, 90), labels(0, 0, 1, 1)) == pytest.approx(between - 1, abs=1e-6)


def test_silhouette_leaves_out_outliers_and_clusters_of_one() -> None:
    clusters = labels(0, 0, 1, 1, OUTLIER, 2)
    assert spread(circle(0, 0, 90, 90, 45, 180), clusters) == pytest.approx(1, abs=1e-6)


def test_silhouette_is_none_where_nothing_can_be_compared() -> None:
    assert spread(circle(0, 1, 2), labels(0, 0, 0)) is None
    assert spread(circle(0, 1, 2), labels(0, 1, 2)) is None
    assert spread(circle(0, 1), labels(OUTLIER, OUTLIER)) is None


def test_silhouette_of_a_sample_is_near_that_of_all() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 20, 2000)
    points = torch.from_numpy(rng.normal(size=(20, 16))[clusters] + 0.5 * rng.normal(size=(2000, 16)))
    features = torch.nn.functional.normalize(points, dim=1)
    assert spread(features, clusters, sample=400) == pytest.approx(spread(features, clusters), abs=0.03)


def test_whole_tracklets_apart_are_consistent() -> None:
    assert tracklet_consistency(labels(0, 0, 1, 1), labels(7, 7, 3, 3)) == 1


def test_one_cluster_of_all_says_nothing() -> None:
    assert tracklet_consistency(labels(0, 0, 0, 0), labels(0, 0, 1, 1)) == 0


def test_torn_tracklets_by_hand() -> None:
    # Neither tracklet is together, and 2 of the 4 pairs across them are.
    assert tracklet_consistency(labels(0, 1, 0, 1), labels(0, 0, 1, 1)) == pytest.approx(0 - 2 / 4)


def test_an_outlier_shares_a_cluster_with_nobody() -> None:
    assert tracklet_consistency(labels(0, 0, OUTLIER, OUTLIER), labels(0, 0, 1, 1)) == pytest.approx(1 / 2)
    assert tracklet_consistency(labels(OUTLIER, OUTLIER, OUTLIER), labels(0, 0, 1)) == 0


def test_consistency_is_none_without_pairs_within_and_across_tracklets() -> None:
    assert tracklet_consistency(labels(0, 0), labels(0, 1)) is None
    assert tracklet_consistency(labels(0, 0), labels(1, 1)) is None
