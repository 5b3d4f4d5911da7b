"""Clusters from the flow of a random walk on a directed graph: InfoMap with two levels.

Minimises the map equation (Rosvall and Bergstrom, PNAS 2008): the bits that describe a step of the walk when every
module has a code book of its own. The walk is that of Lambiotte and Rosvall (Phys. Rev. E 85, 2012): it sometimes
jumps to a link, but jumps are not recorded, so only steps along links count as flow.
"""

# N = nodes, M = modules, K = neighbours

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit
from scipy.sparse import csr_matrix

from reidge.edge.errors import InputError
from reidge.train.sparse import as_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from reidge.train.neighbors import Neighbors

TELEPORT = 0.15
"""Share of the walk's steps that jump."""
MAX_STEPS = 1000
"""Steps of the power iteration that finds where the walk is."""
MIN_GAIN = 1e-10
"""Bits a move or a round must save; far above rounding, so that the search ends."""


class Flow(NamedTuple):
    """How often a step of the walk takes each link, `(N,)` per node, links as sparse rows; all recorded steps sum to 1.

    No node has a link to itself: what stays within a node crosses no border and takes no code.
    """

    visits: NDArray[np.float64]
    enters: NDArray[np.float64]
    exits: NDArray[np.float64]
    out_starts: NDArray[np.int64]
    out_nodes: NDArray[np.int64]
    out_flows: NDArray[np.float64]
    in_starts: NDArray[np.int64]
    in_nodes: NDArray[np.int64]
    in_flows: NDArray[np.float64]


def neighbour_links(neighbors: Neighbors, *, min_similarity: float) -> csr_matrix:
    """Link every image to its nearest neighbours, the weight being their cosine similarity.

    Args:
        neighbors: Of which an image itself is never linked.
        min_similarity: Less similar neighbours are not linked, nor are those below a right angle.

    Returns:
        `(N, N)` float64, row to column.
    """
    indices_NK, similarities_NK = neighbors.indices_NK[:, 1:], neighbors.similarities_NK[:, 1:]
    linked_NK = (similarities_NK >= min_similarity) & (similarities_NK > 0)
    starts = np.concatenate([[0], np.cumsum(linked_NK.sum(axis=1))])
    weights = similarities_NK[linked_NK].astype(np.float64)
    return csr_matrix((weights, indices_NK[linked_NK], starts), shape=(len(indices_NK), len(indices_NK)))


def find_modules(links_NN: csr_matrix, *, seed: int) -> NDArray[np.int64]:
    """Divide the nodes into modules so that the walk takes few bits to describe.

    Nodes move to the module that saves most, in an order drawn anew each time, until none does; then modules move as
    if they were nodes; then single nodes again, until a round saves nothing.

    Args:
        links_NN: Weight of the link from row to column, 0 or more.
        seed: Of the order.

    Returns:
        `(N,)`, module of each node; a node without links is a module of its own.

    Raises:
        InputError: The matrix is not sparse and square, or a weight is negative or no number.
    """
    links_NN = as_graph(links_NN, "links")
    if links_NN.nnz and links_NN.data.min() < 0:
        raise InputError(f"got a link of weight {links_NN.data.min():.3g}: wants 0 or more.")
    rng = np.random.default_rng(seed)
    flow = walk(links_NN)
    modules_N = np.arange(len(flow.visits))
    length = code_length(flow, modules_N)
    while True:
        found_N = _merged(flow, _moved(flow, modules_N, rng), rng)
        found_length = code_length(flow, found_N)
        if found_length > length - MIN_GAIN:
            break
        modules_N, length = found_N, found_length
    # The search never looks at everything in one module, which is best where there is no structure.
    single_N = np.where(flow.visits > 0, len(modules_N), np.arange(len(modules_N)))
    return single_N if code_length(flow, single_N) < length - MIN_GAIN else modules_N


def walk(links_NN: csr_matrix) -> Flow:
    """Find how often a long walk takes each link: teleportation to links, in proportion to their weight, unrecorded."""
    strengths_N = np.asarray(links_NN.sum(axis=1), dtype=np.float64).ravel()
    total = strengths_N.sum()
    if total == 0:
        return _flow(csr_matrix(links_NN.shape, dtype=np.float64), np.zeros(len(strengths_N)))
    sources = np.repeat(np.arange(len(strengths_N)), np.diff(links_NN.indptr))
    shares = csr_matrix((links_NN.data / strengths_N[sources], links_NN.indices, links_NN.indptr), links_NN.shape)
    jumps_N, ends_N = strengths_N / total, strengths_N == 0
    rank_N = jumps_N
    backwards = shares.T.tocsr()
    for _ in range(MAX_STEPS):
        jumping = TELEPORT + (1 - TELEPORT) * rank_N[ends_N].sum()
        after_N = (1 - TELEPORT) * (backwards @ rank_N) + jumping * jumps_N
        moved, rank_N = np.abs(after_N - rank_N).sum(), after_N
        if moved < 1e-15:
            break
    flows = shares.data * rank_N[sources]
    recorded = csr_matrix((flows / flows.sum(), shares.indices, shares.indptr), shares.shape)
    return _flow(recorded, np.asarray(recorded.sum(axis=0), dtype=np.float64).ravel())


def code_length(flow: Flow, modules_N: NDArray[np.int64]) -> float:
    """Compute the map equation: bits to describe a step of the walk with these modules, eq. 1 to 4 of the paper."""
    sums = _module_sums(flow, modules_N, int(modules_N.max(initial=-1)) + 1)
    enters_M, exits_M, visits_M = sums
    between = _plogp(np.array([enters_M.sum()])).sum() - _plogp(enters_M).sum()
    within = _plogp(exits_M + visits_M).sum() - _plogp(exits_M).sum() - _plogp(flow.visits).sum()
    return float(between + within)


def _plogp(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(p * np.log2(np.where(p > 0, p, 1)))


def _flow(flows_NN: csr_matrix, visits_N: NDArray[np.float64]) -> Flow:
    crossing = flows_NN.tocoo()
    kept = (crossing.row != crossing.col) & (crossing.data > 0)
    out = csr_matrix((crossing.data[kept], (crossing.row[kept], crossing.col[kept])), flows_NN.shape)
    into = out.T.tocsr()
    return Flow(
        visits=visits_N,
        enters=np.asarray(out.sum(axis=0), dtype=np.float64).ravel(),
        exits=np.asarray(out.sum(axis=1), dtype=np.float64).ravel(),
        out_starts=out.indptr.astype(np.int64),
        out_nodes=out.indices.astype(np.int64),
        out_flows=out.data,
        in_starts=into.indptr.astype(np.int64),
        in_nodes=into.indices.astype(np.int64),
        in_flows=into.data,
    )


def _moved(flow: Flow, modules_N: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Move nodes between modules until no move saves anything."""
    number = len(modules_N)
    modules_N = np.unique(modules_N, return_inverse=True)[1].reshape(-1).astype(np.int64)
    sums = _module_sums(flow, modules_N, number)
    while _move_each(flow, modules_N, *sums, rng.permutation(number)):
        pass
    return modules_N


def _merged(flow: Flow, modules_N: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Move whole modules together until no move saves anything."""
    while True:
        modules_N = np.unique(modules_N, return_inverse=True)[1].reshape(-1)
        coarse = _contracted(flow, modules_N)
        groups_M = _moved(coarse, np.arange(len(coarse.visits)), rng)
        if len(np.unique(groups_M)) == len(groups_M):
            return modules_N
        modules_N = groups_M[modules_N]


def _contracted(flow: Flow, modules_N: NDArray[np.int64]) -> Flow:
    """Take every module for a node."""
    number, modules = len(modules_N), int(modules_N.max(initial=-1)) + 1
    sources = modules_N[np.repeat(np.arange(number), np.diff(flow.out_starts))]
    flows = csr_matrix((flow.out_flows, (sources, modules_N[flow.out_nodes])), shape=(modules, modules))
    return _flow(flows, _sum_by(modules_N, flow.visits, modules))


def _module_sums(flow: Flow, modules_N: NDArray[np.int64], modules: int) -> tuple[NDArray[np.float64], ...]:
    """Sum up what enters, leaves and visits each of `modules` modules."""
    sources = modules_N[np.repeat(np.arange(len(modules_N)), np.diff(flow.out_starts))]
    targets = modules_N[flow.out_nodes]
    between = sources != targets
    return (
        _sum_by(targets[between], flow.out_flows[between], modules),
        _sum_by(sources[between], flow.out_flows[between], modules),
        _sum_by(modules_N, flow.visits, modules),
    )


def _sum_by(modules: NDArray[np.int64], values: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    return np.bincount(modules, weights=values, minlength=number).astype(np.float64, copy=False)


@njit
def _move_each(flow, modules, enters, exits, visits, order):  # type: ignore[no-untyped-def]
    """Move each node once to the neighbours' module that saves most bits, if any does; say how many moved.

    `modules` and their sums `enters`, `exits`, `visits` are changed in place.
    """
    shared = np.zeros(len(modules))  # flow between the node at hand and each module, both ways
    touched = np.empty(len(modules), dtype=np.int64)
    crossing, moves = enters.sum(), 0
    for node in order:
        met = _share(flow.out_starts, flow.out_nodes, flow.out_flows, node, modules, shared, touched, 0)
        met = _share(flow.in_starts, flow.in_nodes, flow.in_flows, node, modules, shared, touched, met)
        home = modules[node]
        enter, exit_, visit = flow.enters[node], flow.exits[node], flow.visits[node]
        # What the node shares with its module crosses a border once it has left; what it shares with the new one
        # no longer does.
        left = (enters[home] - enter + shared[home], exits[home] - exit_ + shared[home], visits[home] - visit)
        leaving = _cost(*left) - _cost(enters[home], exits[home], visits[home]) - _plogp_one(crossing)
        best, best_change = home, -MIN_GAIN
        for module in touched[:met]:
            if module != home:
                change = leaving + _plogp_one(crossing + shared[home] - shared[module])
                joined = (enters[module] + enter - shared[module], exits[module] + exit_ - shared[module])
                change += _cost(joined[0], joined[1], visits[module] + visit)
                change -= _cost(enters[module], exits[module], visits[module])
                if change < best_change:
                    best, best_change = module, change
        if best != home:
            enters[home], exits[home], visits[home] = left
            enters[best] += enter - shared[best]
            exits[best] += exit_ - shared[best]
            visits[best] += visit
            crossing += shared[home] - shared[best]
            modules[node] = best
            moves += 1
        shared[touched[:met]] = 0
    return moves


@njit
def _share(starts, nodes, flows, node, modules, shared, touched, met):  # type: ignore[no-untyped-def]
    """Add a node's flow with its neighbours to `shared`, and the modules not `met` before to `touched`."""
    for a in range(starts[node], starts[node + 1]):
        module = modules[nodes[a]]
        if shared[module] == 0:
            touched[met] = module
            met += 1
        shared[module] += flows[a]
    return met


@njit
def _cost(enter, exit_, visit):  # type: ignore[no-untyped-def]
    """Bits of a module, but for the one term that all modules share."""
    return _plogp_one(exit_ + visit) - _plogp_one(enter) - _plogp_one(exit_)


@njit
def _plogp_one(p):  # type: ignore[no-untyped-def]
    return p * np.log2(p) if p > 0 else 0.0
