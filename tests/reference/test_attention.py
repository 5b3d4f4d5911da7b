"""Self-attention of one cluster at a time, head by head, and the one that takes padded clusters at once."""

# N = images, M = members of a cluster, D = embedding

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from reidge.train.attention import AttentionConfig, ClusterAttention, draw_members, train_attention
from reidge.train.cluster import OUTLIER
from reidge.train.memory import ClusterMemory

DIM = 6
CONFIG = AttentionConfig(heads=2, head_dim=3, max_members=4, steps=40, lr=1e-2)
LABELS = np.array([0, 1, 0, OUTLIER, 1, 0, 0, 0, 2, 2])


def unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, DIM, generator=generator), dim=1)


def attention_of(seed: int, *, zero_out: bool) -> ClusterAttention:
    torch.manual_seed(seed)
    attention = ClusterAttention(DIM, CONFIG)
    if not zero_out:
        torch.nn.init.normal_(attention.out.weight)
    return attention


def literal(attention: ClusterAttention, x_MD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Z and the mean attention over the heads of one cluster."""
    queries, keys, values = (x_MD @ weight.T for weight in attention.qkv.weight.chunk(3))
    mixed, mean = [], torch.zeros(len(x_MD), len(x_MD))
    for head in range(CONFIG.heads):
        columns = slice(head * CONFIG.head_dim, (head + 1) * CONFIG.head_dim)
        weights = torch.zeros(len(x_MD), len(x_MD))
        for i in range(len(x_MD)):
            scores = [
                float(queries[i, columns] @ keys[j, columns]) / math.sqrt(CONFIG.head_dim) for j in range(len(x_MD))
            ]
            exponentials = [math.exp(score) for score in scores]
            weights[i] = torch.tensor([value / sum(exponentials) for value in exponentials])
        mixed.append(weights @ values[:, columns])
        mean += weights / CONFIG.heads
    return x_MD + torch.cat(mixed, dim=1) @ attention.out.weight.T, mean


@torch.no_grad()
def test_prototypes_equal_their_literal_twins_whatever_the_padding() -> None:
    attention, features = attention_of(1, zero_out=False), unit(len(LABELS), seed=2)
    members = draw_members(LABELS, 9, np.random.default_rng(0), features.device)
    expected = torch.stack([literal(attention, features[label == LABELS])[0].mean(dim=0) for label in range(3)])
    torch.testing.assert_close(attention.prototypes(features, members), expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_dispersion_equals_its_literal_twin() -> None:
    attention = attention_of(1, zero_out=False)
    x, labels = unit(7, seed=3), torch.tensor([4, 2, 4, 4, 2, 4, 4])
    found = attention.dispersion(x, labels)
    for label in (2, 4):
        mine = labels == label
        received = literal(attention, x[mine])[1].mean(dim=0)
        torch.testing.assert_close(found[mine], 1 - mine.sum() * received, atol=1e-6, rtol=0)
        assert float(found[mine].mean()) == pytest.approx(0, abs=1e-6)  # what one receives more others receive less


def test_with_zero_output_weights_centroids_start_exactly_as_in_cluster_contrast() -> None:
    attention, features = attention_of(1, zero_out=True), unit(len(LABELS), seed=2)
    members = draw_members(LABELS, 9, np.random.default_rng(0), features.device)
    plain = ClusterMemory.from_labels(features, LABELS, momentum=0.1, temperature=0.05)
    started = torch.nn.functional.normalize(attention.prototypes(features, members), dim=1)
    torch.testing.assert_close(started, plain.centroids_KD, atol=1e-6, rtol=0)


def test_of_a_large_cluster_as_many_as_allowed_are_drawn() -> None:
    members = draw_members(LABELS, 3, np.random.default_rng(0), torch.device("cpu"))
    assert [len(images) for images in members] == [3, 2, 2]
    assert set(members[0].tolist()) < {0, 2, 5, 6, 7}
    assert members[1].tolist() == [1, 4]


def test_training_brings_aggregated_members_closer_to_their_own_prototype() -> None:
    attention, features = attention_of(1, zero_out=True), unit(len(LABELS), seed=2)
    members = draw_members(LABELS, 9, np.random.default_rng(0), features.device)
    plain = ClusterMemory.from_labels(features, LABELS, momentum=0.1, temperature=0.05).centroids_KD

    def similarity() -> float:
        with torch.no_grad():
            parts = [attention(features[m][None], torch.ones(1, len(m), dtype=torch.bool))[0][0] for m in members]
        rows = [torch.nn.functional.normalize(z, dim=1) @ plain[k] for k, z in enumerate(parts)]
        return float(torch.cat(rows).mean())

    before = similarity()
    train_attention(attention, features, members, CONFIG, 0.05, np.random.default_rng(0))
    assert similarity() > before + 0.1
