from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.sparse import csr_matrix
from torch.nn import functional

from reidge.edge.errors import InputError
from reidge.train.cluster import OUTLIER, ClusterConfig, Clustering, cluster, dbscan, num_clusters
from reidge.train.jaccard import jaccard_distances
from reidge.train.neighbors import AllAlike

METHODS = ["dbscan", "hdbscan", "agglomerative", "kmeans", "infomap"]
PEOPLE, EACH = 12, 10


def people() -> torch.Tensor:
    """Ten images of each of twelve people, in turn."""
    generator = torch.Generator().manual_seed(0)
    who = functional.normalize(torch.randn(PEOPLE, 32, generator=generator), dim=1).repeat(EACH, 1)
    return functional.normalize(who + 0.05 * torch.randn(who.shape, generator=generator), dim=1)


def run(method: str, features_ND: torch.Tensor, *, eps: float = 0.6, seed: int = 0, **fields: Any) -> Clustering:
    config = ClusterConfig.model_validate({"method": method, "k1": 10, "k2": 3, "neighbours": 8, **fields})
    return cluster(features_ND, config, eps=eps, seed=seed)


def test_pairs_that_are_not_stored_are_far_apart() -> None:
    near = np.array([[0, 0.1, 1], [0.1, 0, 1], [1, 1, 0]])
    stored = csr_matrix(np.where(near < 1, near, 0))
    assert dbscan(stored, eps=0.5, min_samples=2).tolist() == [0, 0, OUTLIER]


def test_copies_of_an_image_form_a_cluster() -> None:
    features = np.eye(3, dtype=np.float32)[[0, 0, 0, 1, 1, 1, 2]]
    labels = dbscan(jaccard_distances(features, k1=3, k2=1, max_distance=0.6), min_samples=3)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, OUTLIER]


def test_distances_refuse_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match=r"\(3,\)"):
        jaccard_distances(np.ones(3, dtype=np.float32))


def test_eps_of_one_would_join_everything_and_is_refused() -> None:
    with pytest.raises(ValidationError):
        ClusterConfig(eps=1.0)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_finds_people_that_are_apart(method: str) -> None:
    labels = run(method, people(), clusters=PEOPLE).labels_N
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, np.tile(np.arange(PEOPLE), EACH))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_the_same_labels_for_a_seed(method: str) -> None:
    features = functional.normalize(torch.randn(300, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    first = run(method, features, eps=0.8, seed=5).labels_N
    np.testing.assert_array_equal(first, run(method, features, eps=0.8, seed=5).labels_N)


@pytest.mark.parametrize("method", METHODS)
def test_three_images_are_too_few_for_a_cluster(method: str) -> None:
    assert run(method, people()[:3]).labels_N.tolist() == [OUTLIER] * 3


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [0, 1])
def test_less_than_two_images_are_refused(method: str, number: int) -> None:
    with pytest.raises(InputError, match=f"features of {number} images: .* two images or more"):
        run(method, people()[:number])


@pytest.mark.parametrize("method", METHODS)
def test_images_that_are_all_the_same_are_refused(method: str) -> None:
    with pytest.raises(AllAlike, match="60 features that are all the same"):
        run(method, functional.normalize(people()[:1].repeat(60, 1) + 1e-7 * people()[:60], dim=1))


@pytest.mark.parametrize("method", METHODS)
def test_features_that_are_not_of_unit_length_are_refused(method: str) -> None:
    features = people()
    features[7] *= 3
    with pytest.raises(InputError, match="length 3 in row 7: wants unit length"):
        run(method, features)
    with pytest.raises(InputError, match="length 0 in row 0"):
        run(method, torch.zeros(60, 32))


@pytest.mark.parametrize("method", METHODS)
def test_copies_of_different_images_are_never_in_one_cluster(method: str) -> None:
    # More copies than neighbours: which of them are neighbours is arbitrary, so they may be more than three clusters.
    labels = run(method, people()[:3].repeat(40, 1), clusters=3).labels_N.reshape(40, 3)
    found = [set(labels[:, person]) - {OUTLIER} for person in range(3)]
    assert all(found)
    assert sum(len(labels) for labels in found) == len(set.union(*found))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(method: str, wrong: float) -> None:
    features = people()
    features[3, 4] = wrong
    with pytest.raises(InputError, match="finite"):
        run(method, features)


def test_features_that_are_no_matrix_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(32,\)"):
        run("dbscan", people()[0])


def test_more_clusters_than_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"cluster\.clusters is 121, the images are 120"):
        run("kmeans", people(), clusters=121)


def test_labels_of_the_data_are_not_found_by_clustering() -> None:
    with pytest.raises(InputError, match=r"cluster\.method labels"):
        run("labels", people())


def test_eps_of_the_epoch_counts_and_not_that_of_the_recipe() -> None:
    distances = run("dbscan", people(), eps=0.3).distances
    assert distances is not None
    assert distances.max() <= 0.3
    assert num_clusters(run("dbscan", people(), eps=0.001).labels_N) == 0


@pytest.mark.parametrize("method", ["hdbscan", "agglomerative", "kmeans", "infomap"])
def test_members_of_clusters_below_the_smallest_size_are_outliers(method: str) -> None:
    labels = run(method, people(), clusters=PEOPLE, min_cluster_size=EACH + 1).labels_N
    assert all(size > EACH for size in np.bincount(labels[labels != OUTLIER]))
