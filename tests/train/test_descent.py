from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from reidge.train import descent
from reidge.train.descent import Lists, descend
from reidge.train.pairs import pair_similarities


def at(*degrees: float) -> torch.Tensor:
    angles = torch.tensor([math.radians(degree) for degree in degrees], dtype=torch.float32)
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def lists_of(features: torch.Tensor, indices: list[list[int]]) -> Lists:
    indices_NW = np.array(indices, dtype=np.int32)
    rows = np.arange(len(features))
    starts = np.arange(len(features) + 1, dtype=np.int64) * indices_NW.shape[1]
    similarities = pair_similarities(features, rows, starts, indices_NW.ravel()).reshape(indices_NW.shape)
    order = np.argsort(-similarities, axis=1)
    return Lists(
        indices_NW=np.take_along_axis(indices_NW, order, 1),
        similarities_NW=np.take_along_axis(similarities, order, 1),
        new_NW=np.ones(indices_NW.shape, dtype=np.bool_),
    )


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The pairs that are compared."""
    pairs: list[tuple[int, int]] = []

    def spy(features, images, starts, others):  # type: ignore[no-untyped-def]
        rows = np.repeat(images, np.diff(starts))
        pairs.extend(zip(rows.tolist(), others.tolist(), strict=True))
        return pair_similarities(features, images, starts, others)

    monkeypatch.setattr(descent, "pair_similarities", spy)
    return pairs


def test_an_image_meets_those_its_neighbour_lists_and_those_that_list_it(compared: list[tuple[int, int]]) -> None:
    features = at(0, 10, 12, 50)
    lists = lists_of(features, [[3], [0], [1], [2]])  # a ring: 0 -> 3 -> 2 -> 1 -> 0
    descend(features, lists, 1, np.arange(4))
    assert sorted(compared) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 0), (2, 3), (3, 0), (3, 1)]
    assert lists.indices_NW.tolist() == [[1], [2], [1], [2]]
    np.testing.assert_allclose(lists.similarities_NW[1], math.cos(math.radians(2)), atol=1e-6)


def test_what_has_been_compared_is_not_compared_again(compared: list[tuple[int, int]]) -> None:
    features = at(*range(0, 60, 3))
    rng = np.random.default_rng(0)
    lists = lists_of(
        features, [rng.choice(np.delete(np.arange(20), row), 3, replace=False).tolist() for row in range(20)]
    )
    turns = []
    for _ in range(6):
        before = len(compared)
        descend(features, lists, 3, np.arange(20))
        turns.append(len(compared) - before)
    assert turns[0] > turns[2]
    assert turns[-1] == 0  # nothing is new
    assert not lists.new_NW.any()


def test_a_place_that_was_not_looked_through_stays_new() -> None:
    features = at(0, 1, 2, 3, 4, 5)
    lists = lists_of(features, [[1, 2], [0, 2], [1, 3], [2, 4], [3, 5], [4, 3]])
    descend(features, lists, 1, np.arange(6))
    assert lists.new_NW[:, 1].all()


def test_rounds_end_with_the_true_neighbours_whatever_the_start() -> None:
    generator = torch.Generator().manual_seed(0)
    features = functional.normalize(torch.randn(300, 4, generator=generator), dim=1)
    rng = np.random.default_rng(0)
    start = [rng.choice(np.delete(np.arange(300), row), 12, replace=False).tolist() for row in range(300)]
    lists = lists_of(features, start)
    order = rng.permutation(300)
    for _ in range(8):
        descend(features, lists, 12, order)
    similarities = features @ features.T
    expected = similarities.fill_diagonal_(-1).topk(12, dim=1).indices.numpy()
    assert (lists.indices_NW == expected).mean() > 0.99
    assert (np.diff(lists.similarities_NW, axis=1) <= 0).all()


def test_someone_whom_all_list_is_compared_with_few(compared: list[tuple[int, int]]) -> None:
    features = at(0, *range(10, 90, 2))
    number = len(features)
    lists = lists_of(features, [[1, 2], *([0, 1 + row % (number - 1)] for row in range(1, number))])
    descend(features, lists, 2, np.arange(number))
    counts = np.bincount([row for row, _ in compared], minlength=number)
    assert counts.max() <= 4 * (1 + 4)  # at most 2 ties in either direction, each with as many
