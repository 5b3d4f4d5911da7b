from __future__ import annotations

import numpy as np
import pytest
import torch

from reidge.train.cluster import OUTLIER
from reidge.train.memory import ClusterMemory


def memory_of(features: list[list[float]], labels: list[int], momentum: float = 0.1) -> ClusterMemory:
    return ClusterMemory.from_labels(
        np.array(features, dtype=np.float32), np.array(labels), momentum=momentum, temperature=0.05
    )


def test_centroids_are_normalised_means_without_outliers() -> None:
    memory = memory_of([[1, 0], [0, 1], [0, -1], [0, 1]], [0, 0, 1, OUTLIER])
    half = 0.5**0.5
    torch.testing.assert_close(memory.centroids_KD, torch.tensor([[half, half], [0, -1]]))


def test_the_last_image_of_a_batch_weighs_about_nine_tenths() -> None:
    memory = memory_of([[1, 0, 0]], [0])
    memory.update(torch.tensor([[0.0, 1, 0], [0, 0, 1]]), torch.tensor([0, 0]))
    # By hand: (0.1, 0.9, 0) / 0.9055 = (0.110, 0.994, 0), then 0.1 of it + 0.9 (0, 0, 1), over 0.9055.
    torch.testing.assert_close(memory.centroids_KD[0], torch.tensor([0.0122, 0.1098, 0.9939]), atol=1e-4, rtol=0)


def test_logits_are_cosines_over_the_temperature() -> None:
    memory = memory_of([[1, 0], [0, 1]], [0, 1])
    torch.testing.assert_close(memory.logits(torch.tensor([[0.6, 0.8]])), torch.tensor([[12.0, 16.0]]))


def test_gradients_flow_through_the_images_alone() -> None:
    memory = memory_of([[1, 0], [0, 1]], [0, 1])
    x = torch.tensor([[0.6, 0.8]], requires_grad=True)
    memory.logits(x).sum().backward()  # type: ignore[no-untyped-call]
    memory.update(x, torch.tensor([0]))
    assert x.grad is not None
    assert not memory.centroids_KD.requires_grad


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="newest"):
        ClusterMemory(torch.eye(2), momentum=0.1, temperature=0.05, rule="newest", tau=0.09)  # type: ignore[arg-type]
