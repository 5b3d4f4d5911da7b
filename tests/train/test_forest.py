from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from reidge.train.forest import spanning_forest


def forest(distances: csr_matrix, cores: list[float]) -> list[tuple[list[int], float]]:
    """Edges with their lengths, shortest first."""
    edges, lengths = spanning_forest(distances.indptr, distances.indices, distances.data, np.array(cores))
    return sorted(((sorted(edge), length) for edge, length in zip(edges.tolist(), lengths.tolist(), strict=True)))


def graph(number: int, edges: dict[tuple[int, int], float]) -> csr_matrix:
    (rows, columns), lengths = np.array(list(edges)).T, list(edges.values())
    both = np.concatenate([rows, columns]), np.concatenate([columns, rows])
    return csr_matrix((lengths * 2, both), shape=(number, number))


def test_the_longest_edge_of_a_circle_is_not_needed() -> None:
    triangle = graph(3, {(0, 1): 0.25, (1, 2): 0.5, (0, 2): 0.75})
    assert forest(triangle, [0, 0, 0]) == [([0, 1], 0.25), ([1, 2], 0.5)]


def test_an_edge_is_as_long_as_the_core_distances_of_its_ends() -> None:
    triangle = graph(3, {(0, 1): 0.25, (1, 2): 0.5, (0, 2): 0.75})
    assert forest(triangle, [0.625, 0, 0]) == [([0, 1], 0.625), ([1, 2], 0.5)]
    assert forest(triangle, [0, 0.875, 0]) == [([0, 1], 0.875), ([0, 2], 0.75)]


def test_what_is_far_apart_is_not_connected() -> None:
    assert forest(graph(4, {(0, 1): 0.5, (1, 2): 1.0, (2, 3): 0.25}), [0, 0, 0, 0]) == [([0, 1], 0.5), ([2, 3], 0.25)]
    assert forest(graph(2, {(0, 1): 0.5}), [0, 1]) == []
    assert forest(csr_matrix((3, 3)), [0, 0, 0]) == []


def test_it_connects_at_every_distance_what_all_edges_connect() -> None:
    rng = np.random.default_rng(0)
    ends = rng.integers(0, 60, (150, 2))
    # Of four lengths, so that most edges tie.
    edges = {(min(a, b), max(a, b)): int(rng.integers(1, 5)) for a, b in ends.tolist() if a != b}
    distances = graph(60, {edge: length / 8 for edge, length in edges.items()})
    found = forest(distances, [0.0] * 60)
    assert sum(length for _, length in found) == minimum_spanning_tree(distances).sum()
    for longest in (0.125, 0.25, 0.375, 0.5):
        chosen = {(a, b): 1.0 for (a, b), length in found if length <= longest}
        whole = {(a, b): 1.0 for (a, b), length in edges.items() if length / 8 <= longest}
        assert connected_components(graph(60, chosen))[0] == connected_components(graph(60, whole))[0]
