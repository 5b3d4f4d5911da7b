from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from reidge.edge.errors import InputError
from reidge.train import kmeans as module
from reidge.train.kmeans import kmeans


def unit(rows: int, seed: int) -> torch.Tensor:
    return functional.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_images_that_lie_together_are_a_cluster() -> None:
    people = unit(5, seed=0).repeat(6, 1)
    labels = kmeans(functional.normalize(people + 0.01 * unit(30, seed=1), dim=1), 5, seed=0)
    assert len(set(labels)) == 5
    np.testing.assert_array_equal(labels.reshape(6, 5), np.tile(labels[:5], (6, 1)))


def test_every_image_ends_at_the_centroid_nearest_to_it() -> None:
    features = unit(200, seed=2)
    labels = kmeans(features, 7, seed=0)
    centroids = []
    for cluster in range(7):  # the literal mean of each cluster
        total = torch.zeros(8)
        for member in np.flatnonzero(labels == cluster):
            total += features[member]
        centroids.append(total / total.norm())
    for image, label in zip(features, labels, strict=True):
        assert int(torch.stack([image @ centroid for centroid in centroids]).argmax()) == label


def test_the_same_seed_gives_the_same_clusters() -> None:
    features = unit(100, seed=3)
    np.testing.assert_array_equal(kmeans(features, 9, seed=4), kmeans(features, 9, seed=4))


def test_copies_cannot_fill_more_clusters_than_there_are_images_to_tell_apart() -> None:
    labels = kmeans(unit(2, seed=5).repeat(10, 1), 4, seed=0)
    assert len(set(labels)) == 2


def test_each_image_may_be_a_cluster() -> None:
    assert len(set(kmeans(unit(6, seed=6), 6, seed=0))) == 6
    assert kmeans(unit(2, seed=6), 1, seed=0).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("features", "clusters", "message"),
    [
        (unit(5, seed=0), 0, "0 clusters for 5 images"),
        (unit(5, seed=0), 6, "6 clusters for 5 images"),
        (2 * unit(5, seed=0), 2, "length 2 in row 0"),
        (unit(5, seed=0) * float("nan"), 2, "not finite in row 0"),
        (unit(1, seed=0), 1, "features of 1 images"),
        (unit(1, seed=0).repeat(9, 1), 2, "all the same"),
    ],
)
def test_what_cannot_be_divided_is_refused(features: torch.Tensor, clusters: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kmeans(features, clusters, seed=0)


def test_more_clusters_than_time_or_memory_allow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"takes .* GiB, more than the 1e-06 allowed"):
        kmeans(unit(100, seed=0), 10, seed=0, memory_gib=1e-6)
    monkeypatch.setattr(module, "MAX_PAIRS", {"cpu": 999})
    with pytest.raises(InputError, match="100 images into 10 clusters would take hours"):
        kmeans(unit(100, seed=0), 10, seed=0)


def test_arrays_are_divided_too() -> None:
    features = unit(30, seed=1)
    np.testing.assert_array_equal(kmeans(features.numpy(), 3, seed=0), kmeans(features, 3, seed=0))


def test_float16_gives_the_clusters_of_its_values() -> None:
    features = unit(300, seed=7).half()
    np.testing.assert_array_equal(kmeans(features, 20, seed=0), kmeans(features.float(), 20, seed=0))
