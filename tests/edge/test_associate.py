from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.associate import Evidence, Groups, associate

if TYPE_CHECKING:
    from collections.abc import Sequence


def evidence(
    similarity: Sequence[Sequence[float | int]],
    *,
    transit: dict[tuple[int, int], float] | None = None,
    apart: tuple[tuple[int, int], ...] = (),
    decay: float = 0.1,
    weight: list[float] | None = None,
) -> Evidence:
    """Nodes in order of time; `similarity` above the diagonal."""
    upper_NN = np.triu(np.array(similarity, dtype=float), 1)
    transit_NN, apart_NN = np.zeros_like(upper_NN), np.zeros_like(upper_NN, dtype=bool)
    for (a, b), value in (transit or {}).items():
        transit_NN[a, b] = value
    for a, b in apart:
        apart_NN[a, b] = apart_NN[b, a] = True
    return Evidence(
        similarity_NN=upper_NN + upper_NN.T + np.eye(len(upper_NN)),
        weight_N=np.array(weight or [1] * len(upper_NN), dtype=float),
        transit_NN=transit_NN,
        apart_NN=apart_NN,
        decay=decay,
    )


def test_who_is_alike_is_one_and_who_is_not_is_another() -> None:
    alike = evidence([[0, 0.9, 0.1, 0.2], [0, 0, 0.3, 0.1], [0, 0, 0, 0.8], [0.0] * 4])
    assert associate(alike, bar=0.6, lead=0.0) == [[0, 1], [2, 3]]


def test_a_chain_of_likenesses_does_not_join_who_is_unlike() -> None:
    """0 is like 1 and 1 like 2, but 2 is like 0 and 1 by only 0.4 on average."""
    chain = evidence([[0, 0.9, 0.1], [0, 0, 0.7], [0, 0, 0]])
    assert associate(chain, bar=0.6, lead=0.0) == [[0, 1], [2]]


def test_who_was_in_two_places_at_once_is_two_however_alike() -> None:
    twins = evidence([[0, 0.99, 0.95], [0, 0, 0.9], [0, 0, 0]], apart=((0, 1),))
    assert associate(twins, bar=0.6, lead=0.0) == [[0, 2], [1]]


def test_who_comes_when_expected_may_be_less_alike() -> None:
    """By 1.4 decays for each factor of e: 0.15 is made up for by 1.07."""
    less = [[0.0, 0.45], [0.0, 0.0]]
    assert associate(evidence(less, transit={(0, 1): 1.0}), bar=0.6, lead=0.0) == [[0], [1]]
    assert associate(evidence(less, transit={(0, 1): 1.1}), bar=0.6, lead=0.0) == [[0, 1]]


def test_times_are_asked_of_those_who_follow_each_other_only() -> None:
    """The first and the last are far apart in time, but the one between was on the way."""
    way = evidence([[0, 0.7, 0.7], [0, 0, 0.7], [0, 0, 0]], transit={(0, 1): 1.0, (1, 2): 1.0, (0, 2): -9.0})
    assert associate(way, bar=0.65, lead=0.0) == [[0, 1, 2]]


def test_a_node_moves_to_a_group_that_grew_to_fit_it_better() -> None:
    """1 joins 0 first, as the best pair; when 2, 3 and 4 are one, it is nearer to them than to 0."""
    best = 0.80
    later = evidence(
        [
            [0, best, 0.1, 0.1, 0.1],
            [0, 0, 0.79, 0.79, 0.79],
            [0, 0, 0, 0.78, 0.78],
            [0, 0, 0, 0, 0.78],
            [0, 0, 0, 0, 0],
        ],
        transit={(1, 2): 0.5},
        decay=0.2,
    )
    groups = Groups(later)
    groups.members = {0: [0, 1], 2: [2, 3, 4]}
    groups.move(0.6, 0.01)
    assert sorted(groups.members.values()) == [[0], [1, 2, 3, 4]]


def test_a_group_whose_last_one_leaves_is_gone() -> None:
    groups = Groups(evidence([[0, 0.9], [0.0] * 2]))
    groups.move(0.6, 0.0)
    assert list(groups.members.values()) == [[0, 1]]


def test_a_lead_keeps_who_would_be_hardly_better_off() -> None:
    even = evidence([[0, 0.70, 0.1], [0, 0, 0.72], [0, 0, 0]])
    groups = Groups(even)
    groups.members = {0: [0, 1], 2: [2]}
    groups.move(0.6, 0.05)
    assert sorted(groups.members.values()) == [[0, 1], [2]]


def test_many_exemplars_weigh_more_than_one_sighting() -> None:
    """A sighting is 0.9 like an identity of 4 exemplars and 0.4 like another sighting of it: 0.8 in the mean."""
    known = evidence([[0, 0.95, 0.9], [0, 0, 0.4], [0, 0, 0]], weight=[4, 1, 1])
    assert associate(known, bar=0.79, lead=1.0) == [[0, 1, 2]]
    assert associate(known, bar=0.81, lead=1.0) == [[0, 1], [2]]


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_same_as_those_of_a_literal_average_linkage(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points_ND = rng.normal(size=(12, 3))
    points_ND /= np.linalg.norm(points_ND, axis=1, keepdims=True)
    similarity_NN = points_ND @ points_ND.T
    groups = [[node] for node in range(12)]
    while True:
        means = {
            (a, b): similarity_NN[np.ix_(groups[a], groups[b])].mean()
            for a in range(len(groups))
            for b in range(a + 1, len(groups))
        }
        a, b = max(means, key=lambda pair: means[pair])
        if means[a, b] < 0.5:
            break
        groups[a] = sorted(groups[a] + groups.pop(b))
    found = Groups(evidence(similarity_NN.tolist()))
    found.join(0.5)
    assert sorted(found.members.values()) == sorted(groups)
