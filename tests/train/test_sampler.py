from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from reidge.edge.errors import InputError
from reidge.train.cluster import OUTLIER
from reidge.train.sampler import SamplerConfig, batches


def first_batches(labels: list[int], camids: list[int], config: SamplerConfig, count: int) -> list[np.ndarray]:
    return list(islice(batches(np.array(labels), np.array(camids), config, np.random.default_rng(0)), count))


def test_images_of_a_cluster_stand_side_by_side() -> None:
    labels = [0] * 5 + [1] * 5 + [2] * 5
    for batch in first_batches(labels, [0] * 15, SamplerConfig(clusters=2, images=4), 10):
        drawn = np.array(labels)[batch].reshape(2, 4)
        assert (drawn == drawn[:, :1]).all()
        assert drawn[0, 0] != drawn[1, 0]


def test_a_cycle_shows_every_cluster_once() -> None:
    labels = [label for label in range(6) for _ in range(3)]
    cycle = first_batches(labels, [0] * 18, SamplerConfig(clusters=2, images=2), 3)
    assert sorted(labels[i] for batch in cycle for i in batch[::2]) == [0, 1, 2, 3, 4, 5]


def test_companions_come_from_other_cameras_where_there_are_any() -> None:
    camids = [0, 0, 0, 0, 1, 2]
    for batch in first_batches([0] * 6 + [1] * 2, [*camids, 0, 0], SamplerConfig(clusters=2, images=3), 20):
        for anchor, *others in batch.reshape(2, 3):
            if anchor < 6:
                assert all(camids[other] != camids[anchor] for other in others)
            else:  # a cluster of one camera takes what it has
                assert all(other != anchor for other in others)


def test_fewer_clusters_than_wanted_make_a_smaller_batch() -> None:
    (batch,) = first_batches([0, 0, 1, 1, OUTLIER], [0] * 5, SamplerConfig(clusters=16, images=4), 1)
    assert len(batch) == 8
    assert 4 not in batch


def test_a_cluster_of_one_image_is_passed_over() -> None:
    (batch,) = first_batches([0, 1, 1], [0, 0, 0], SamplerConfig(clusters=2, images=2), 1)
    assert sorted(batch) == [1, 2]
    with pytest.raises(InputError, match="two crops"):
        first_batches([0, 1], [0, 0], SamplerConfig(), 1)
