"""The memory's update rules, one image at a time, and the ones that take a batch at once."""

# B = batch, K = clusters, D = embedding

from __future__ import annotations

import pytest
import torch

from reidge.train.cluster import OUTLIER
from reidge.train.memory import ClusterMemory, InstanceMemory


def unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 8, generator=generator, dtype=torch.float64), dim=1)


def literal_sequential(centroids: torch.Tensor, x: torch.Tensor, y: torch.Tensor, momentum: float) -> torch.Tensor:
    moved = centroids.clone()
    for row, label in zip(x, y, strict=True):
        blend = momentum * moved[label] + (1 - momentum) * row
        moved[label] = blend / blend.norm()
    return moved


def literal_hardest(centroids: torch.Tensor, x: torch.Tensor, y: torch.Tensor, momentum: float) -> torch.Tensor:
    moved = centroids.clone()
    for label in set(y.tolist()):
        members = x[y == label]
        worst = min(members, key=lambda row: float(row @ centroids[label]))
        blend = momentum * centroids[label] + (1 - momentum) * worst
        moved[label] = blend / blend.norm()
    return moved


def literal_mean(centroids: torch.Tensor, x: torch.Tensor, y: torch.Tensor, momentum: float) -> torch.Tensor:
    moved = centroids.clone()
    for label in set(y.tolist()):
        blend = momentum * centroids[label] + (1 - momentum) * x[y == label].mean(dim=0)
        moved[label] = blend / blend.norm()
    return moved


# Labels out of order and of unequal number, and cluster 3 in no batch.
LABELS = torch.tensor([2, 0, 0, 2, 1, 2, 0, 0, 2, 0])


@pytest.mark.parametrize(
    ("rule", "tau", "literal"),
    [
        ("sequential", 0.09, literal_sequential),
        ("hardest", 0.09, literal_hardest),
        ("weighted", 1e-4, literal_hardest),  # the limits of DyCL (He et al., ICASSP 2024)
        ("weighted", 1e6, literal_mean),
    ],
)
def test_update_equals_its_literal_twin(rule, tau, literal) -> None:  # type: ignore[no-untyped-def]
    memory = ClusterMemory(unit(4, seed=1), momentum=0.1, temperature=0.05, rule=rule, tau=tau)
    x = unit(len(LABELS), seed=2)
    expected = literal(memory.centroids_KD, x, LABELS, 0.1)
    memory.update(x, LABELS)
    torch.testing.assert_close(memory.centroids_KD, expected, atol=1e-6, rtol=0)


def test_dispersion_as_distance_gives_exactly_hardest() -> None:
    x, start = unit(len(LABELS), seed=2), unit(4, seed=1)
    odd, hardest = (
        ClusterMemory(start, momentum=0.1, temperature=0.05, rule=rule, tau=1) for rule in ("dispersion", "hardest")
    )
    odd.update(x, LABELS, 1 - (x * start[LABELS]).sum(dim=1))
    hardest.update(x, LABELS)
    assert torch.equal(odd.centroids_KD, hardest.centroids_KD)


def test_dispersion_moves_each_centroid_by_its_odd_one_out() -> None:
    x, start = unit(len(LABELS), seed=2), unit(4, seed=1)
    memory = ClusterMemory(start, momentum=0.1, temperature=0.05, rule="dispersion", tau=1)
    memory.update(x, LABELS, torch.tensor([0.0, 0.1, 0.9, 0.3, 0.5, 0.2, 0.1, 0.4, 0.0, 0.2]))
    expected = start.clone()
    for label, image in ((0, 2), (1, 4), (2, 3)):
        blend = 0.1 * start[label] + 0.9 * x[image]
        expected[label] = blend / blend.norm()
    torch.testing.assert_close(memory.centroids_KD, expected, atol=1e-6, rtol=0)


def test_instance_memory_equals_its_literal_twin() -> None:
    features, labels = unit(7, seed=3), torch.tensor([0, 1, 0, OUTLIER, 1, 1, 0])
    memory = InstanceMemory(features, labels, momentum=0.2, temperature=0.05)
    x, images = unit(5, seed=4), [2, 0, 2, 4, 5]  # image 2 twice
    vectors = [row.clone() for row in features]
    for row, image in zip(x, images, strict=True):
        blend = 0.2 * vectors[image] + 0.8 * row
        vectors[image] = blend / blend.norm()
    memory.update(x, torch.tensor(images))
    torch.testing.assert_close(memory.vectors_ND, torch.stack(vectors), atol=1e-6, rtol=0)
    expected = torch.stack(
        [
            torch.stack([sum(row @ vectors[i] for i in (0, 2, 6)) / 3, sum(row @ vectors[i] for i in (1, 4, 5)) / 3])
            for row in x
        ]
    )
    torch.testing.assert_close(memory.logits(x), expected / 0.05, atol=1e-6, rtol=0)
