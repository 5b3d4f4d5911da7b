from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix

from reidge.train.infomap import code_length, find_modules, neighbour_links, walk
from reidge.train.neighbors import nearest_neighbors


def two_triangles() -> csr_matrix:
    """0, 1, 2 and 3, 4, 5 in a ring each, one weak link from the first to the second and one back."""
    rows = [0, 1, 2, 3, 4, 5, 2, 5]
    columns = [1, 2, 0, 4, 5, 3, 3, 0]
    return csr_matrix(([1.0] * 6 + [0.1] * 2, (rows, columns)), shape=(6, 6))


def test_nodes_the_walk_stays_among_are_a_module() -> None:
    modules = find_modules(two_triangles(), seed=0)
    assert len(set(modules[:3])) == len(set(modules[3:])) == 1
    assert modules[0] != modules[3]


def test_one_module_takes_the_entropy_of_the_visits() -> None:
    ring = csr_matrix(([1.0] * 4, ([0, 1, 2, 3], [1, 2, 3, 0])), shape=(4, 4))
    assert round(code_length(walk(ring), np.zeros(4, dtype=np.int64)), 9) == 2  # four nodes, equally often


def test_where_there_is_no_structure_all_are_one_module() -> None:
    everyone = csr_matrix(1.0 - np.eye(6))
    assert len(set(find_modules(everyone, seed=0))) == 1


def test_a_node_without_links_is_a_module_of_its_own() -> None:
    links = csr_matrix(([1.0, 1.0], ([0, 1], [1, 0])), shape=(4, 4))
    modules = find_modules(links, seed=0)
    assert modules[0] == modules[1]
    assert len(set(modules)) == 3


def test_graphs_without_links_or_nodes_have_modules_too() -> None:
    assert sorted(find_modules(csr_matrix((3, 3)), seed=0)) == [0, 1, 2]
    assert find_modules(csr_matrix((0, 0)), seed=0).tolist() == []


def test_links_go_to_the_nearest_neighbours_with_their_similarity() -> None:
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    links = neighbour_links(nearest_neighbors(features, 2), min_similarity=0.5).toarray()
    np.testing.assert_allclose(links, np.array([[0, 0.8, 0], [0.8, 0, 0], [0, 0.6, 0]]), atol=1e-6)


def test_images_that_are_too_unlike_are_not_linked() -> None:
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    links = neighbour_links(nearest_neighbors(features, 3), min_similarity=0.7).toarray()
    np.testing.assert_allclose(links, np.array([[0, 0.8, 0], [0.8, 0, 0], [0, 0, 0]]), atol=1e-6)


def test_the_same_seed_finds_the_same_modules() -> None:
    rng = np.random.default_rng(0)
    links = csr_matrix(rng.random((80, 80)) * (rng.random((80, 80)) < 0.05))
    np.testing.assert_array_equal(find_modules(links, seed=3), find_modules(links, seed=3))
