"""The losses as the papers write them, image by image, and the ones that take a batch at once."""

# B = batch, K = clusters

from __future__ import annotations

import math

import pytest
import torch

from reidge.train.contrast import ContrastConfig, contrastive_loss, soft_contrastive_loss


def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student's and teacher's similarities over the temperature, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits, teacher = (20 * torch.rand(6, 4, generator=generator, dtype=torch.float64) - 10 for _ in range(2))
    return logits, teacher, torch.tensor([0, 3, 1, 1, 2, 0])


def literal_cluster_nce(logits: torch.Tensor, labels: torch.Tensor) -> float:
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total -= math.log(math.exp(row[label]) / sum(math.exp(value) for value in row))
    return total / len(labels)


def literal_soft(logits: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor, smoothing: float) -> float:
    total = 0.0
    for row, guide, label in zip(logits.tolist(), teacher.tolist(), labels.tolist(), strict=True):
        for k in range(len(row)):
            share = math.exp(guide[k]) / sum(math.exp(value) for value in guide)
            target = (1 - smoothing) * (k == label) + smoothing * share
            total -= target * math.log(math.exp(row[k]) / sum(math.exp(value) for value in row))
    return total / len(labels)


@pytest.mark.parametrize("soft_weight", [0.0, 0.4, 1.0])
def test_the_loss_equals_its_literal_twin(soft_weight: float) -> None:
    logits, teacher, labels = draw(seed=1)
    config = ContrastConfig(soft_weight=soft_weight, smoothing=0.3)
    expected = (1 - soft_weight) * literal_cluster_nce(logits, labels)
    expected += soft_weight * literal_soft(logits, teacher, labels, 0.3)
    found = contrastive_loss(logits, labels, teacher if soft_weight else None, config)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_without_smoothing_the_soft_loss_is_cluster_nce() -> None:
    logits, teacher, labels = draw(seed=2)
    found = soft_contrastive_loss(logits, labels, teacher, smoothing=0)
    assert found.item() == pytest.approx(literal_cluster_nce(logits, labels), abs=1e-6)


def test_no_gradient_reaches_the_teacher() -> None:
    logits, teacher, labels = draw(seed=3)
    logits.requires_grad_()
    teacher.requires_grad_()
    soft_contrastive_loss(logits, labels, teacher, smoothing=0.3).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert teacher.grad is None
