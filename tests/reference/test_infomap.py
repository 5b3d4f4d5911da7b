"""The map equation written out node by node, every partition of small graphs, and the authors' own program."""

# N = nodes

from __future__ import annotations

from math import log2

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from reidge.train.infomap import code_length, find_modules, neighbour_links, walk
from reidge.train.neighbors import nearest_neighbors


def entropy(rates: list[float]) -> float:
    """Bits a code word takes on average, for words used at these rates."""
    return -sum(rate / sum(rates) * log2(rate / sum(rates)) for rate in rates if rate > 0)


def literal_flow(weights_NN: np.ndarray) -> np.ndarray:
    """Walk on with a jump 15 times in 100, then take one more step along the links; what flows along each of them."""
    number = len(weights_NN)
    strengths = [sum(row) for row in weights_NN]
    jumps = [strength / sum(strengths) for strength in strengths]
    rank = np.array(jumps)
    for _ in range(300):
        after = np.zeros(number)
        for i in range(number):
            for j in range(number):
                step = weights_NN[i, j] / strengths[i] if strengths[i] > 0 else jumps[j]
                after[j] += rank[i] * (0.85 * step + 0.15 * jumps[j])
        rank = after
    flow = np.zeros((number, number))
    for i in range(number):
        for j in range(number):
            if strengths[i] > 0:
                flow[i, j] = rank[i] * weights_NN[i, j] / strengths[i]
    return np.asarray(flow / flow.sum())


def literal_code_length(flow_NN: np.ndarray, modules: list[int]) -> float:
    """Rosvall and Bergstrom 2008, eq. 1: a code book of entries to modules, and one of visits and exit for each."""
    number = len(modules)
    enters, bits = [], 0.0
    for module in set(modules):
        inside = [i for i in range(number) if modules[i] == module]
        outside = [i for i in range(number) if modules[i] != module]
        enters.append(sum(flow_NN[i, j] for i in outside for j in inside))
        leaving = sum(flow_NN[i, j] for i in inside for j in outside)
        words = [leaving, *(flow_NN[:, i].sum() for i in inside)]
        if sum(words) > 0:
            bits += sum(words) * entropy(words)
    return bits + (sum(enters) * entropy(enters) if sum(enters) > 0 else 0)


def partitions(number: int) -> list[list[int]]:
    """Every way to divide the nodes."""
    if number == 0:
        return [[]]
    return [[*rest, module] for rest in partitions(number - 1) for module in range(max(rest, default=-1) + 2)]


def graph(number: int, seed: int, share: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights_NN = rng.random((number, number)) * (rng.random((number, number)) < share)
    np.fill_diagonal(weights_NN, 0)
    return np.asarray(weights_NN)


def close_people(number: int, people: int, spread: float, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(people, 32))[rng.integers(0, people, number)] + spread * rng.normal(size=(number, 32))
    return torch.from_numpy((points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32))


@pytest.mark.parametrize("seed", range(4))
def test_code_length_equals_its_literal_twin(seed: int) -> None:
    weights_NN = graph(9, seed)
    weights_NN[3] = 0  # a node the walk can only jump away from
    flow_NN = literal_flow(weights_NN)
    rng = np.random.default_rng(seed)
    for modules in (rng.integers(0, 3, 9), np.zeros(9, dtype=np.int64), np.arange(9)):
        found = code_length(walk(csr_matrix(weights_NN)), modules)
        assert found == pytest.approx(literal_code_length(flow_NN, modules.tolist()), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_no_partition_of_a_small_graph_is_much_shorter(seed: int) -> None:
    weights_NN = graph(7, seed)
    # Two groups with weak links between them, and with graph 0 no groups at all.
    weights_NN[:4, 4:] *= 0.1 * min(seed, 1) + (seed == 0)
    weights_NN[4:, :4] *= 0.1 * min(seed, 1) + (seed == 0)
    flow = walk(csr_matrix(weights_NN))
    shortest = min(code_length(flow, np.array(modules)) for modules in partitions(7))
    assert code_length(flow, find_modules(csr_matrix(weights_NN), seed=0)) <= 1.01 * shortest


def test_code_lengths_are_those_of_the_authors_program() -> None:
    infomap = pytest.importorskip("infomap", reason="the GPL program serves as a comparison only")
    people = [close_people(400, 25, spread, seed=1) for spread in (0.3, 0.7, 1.0)]
    graphs = [neighbour_links(nearest_neighbors(features, 15), min_similarity=0.3) for features in people]
    graphs += [csr_matrix(graph(150, seed, share=0.04)) for seed in range(3)]
    for links in graphs:
        theirs = infomap.Infomap("--two-level --directed --silent --seed 1")
        entries = links.tocoo()
        for row, column, weight in zip(entries.row, entries.col, entries.data, strict=True):
            theirs.add_link(int(row), int(column), float(weight))
        result = theirs.run()
        flow = walk(links)
        modules = np.arange(links.shape[0]) + links.shape[0]  # it leaves out nodes without links
        for node, module in result.modules().items():
            modules[node] = module
        assert code_length(flow, modules) == pytest.approx(result.codelength, abs=1e-6)
        assert code_length(flow, find_modules(links, seed=0)) <= 1.01 * result.codelength
