"""The memory's update rules, one image at a time, and the ones that take a batch at once."""

# B = batch, K = clusters, D = embedding

from __future__ import annotations

import pytest
import torch

from reidge.train.memory import ClusterMemory


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
