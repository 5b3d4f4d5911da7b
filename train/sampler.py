"""Batches of P clusters x K images, a cluster's images side by side."""

# N = images, B = batch, P = clusters in a batch, K = images of each

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, Field

from reidge.edge.errors import InputError
from reidge.train.cluster import OUTLIER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class SamplerConfig(BaseModel, frozen=True, extra="forbid"):
    """What a batch is made of."""

    clusters: int = Field(16, ge=2)
    """P, clusters in a batch; all of them where there are fewer."""
    images: int = Field(16, ge=2)
    """K, images of each."""
    across_cameras: bool = True
    """Whether the images beside the first one come from other cameras where the cluster has any."""


def batches(
    labels_N: NDArray[np.int64], camids_N: NDArray[np.int64], config: SamplerConfig, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield the image indices of one batch after another, without end.

    Each cycle passes once over the clusters in random order; what does not fill a batch at its end waits for
    another cycle. Clusters of a single image cannot form a pair and are passed over.

    Args:
        labels_N: Pseudo labels or `OUTLIER`.
        camids_N: Camera of each image.
        config: P and K.
        rng: Drawn from in a fixed order.

    Raises:
        InputError: No cluster holds two images.
    """
    members = [np.flatnonzero(labels_N == label) for label in np.unique(labels_N[labels_N != OUTLIER])]
    members = [cluster for cluster in members if len(cluster) > 1]
    if not members:
        raise InputError(
            "no cluster or tracklet holds two crops: there is nothing to contrast. Harvest more crops of each tracklet."
        )
    size = min(config.clusters, len(members))
    while True:
        order = rng.permutation(len(members))
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            yield np.concatenate([draw(members[c], camids_N, config, rng) for c in chosen])


def draw(
    cluster: NDArray[np.int64], camids_N: NDArray[np.int64], config: SamplerConfig, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw a random image of the cluster and K - 1 companions, with replacement where there are fewer."""
    anchor = rng.choice(cluster)
    others = cluster[cluster != anchor]
    if config.across_cameras:
        elsewhere = cluster[camids_N[cluster] != camids_N[anchor]]
        others = elsewhere if len(elsewhere) else others
    wanted = config.images - 1
    return np.concatenate([[anchor], rng.choice(others, wanted, replace=len(others) < wanted)])


def shuffled(images_N: NDArray[np.int64], size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield batches of `size` of the images without end; each cycle shows an image at most once."""
    size = min(size, len(images_N))
    while True:
        order = rng.permutation(images_N)
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]
