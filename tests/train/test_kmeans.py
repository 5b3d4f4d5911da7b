from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

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
    labels = kmeans(unit(1, seed=5).repeat(10, 1), 4, seed=0)
    assert len(set(labels)) == 1


def test_each_image_may_be_a_cluster() -> None:
    assert len(set(kmeans(unit(6, seed=6), 6, seed=0))) == 6
    assert kmeans(unit(1, seed=6), 1, seed=0).tolist() == [0]


def test_float16_gives_the_clusters_of_its_values() -> None:
    features = unit(300, seed=7).half()
    np.testing.assert_array_equal(kmeans(features, 20, seed=0), kmeans(features.float(), 20, seed=0))
