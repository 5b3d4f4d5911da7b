"""Approximate neighbours of millions of images: found by cells of a reduced space, then through each other.

An inverted file over the principal components (faiss) gives each image candidates from the cells around it, and the
whole embeddings decide which of them are the nearest. The neighbours of neighbours are then candidates in turn, as in
NN-Descent (Dong et al., WWW 2011), until a sample of images whose true neighbours are known has the recall wanted.
"""

# N = images, D = embedding, P = principal components, S = sampled images, K = neighbours, C = candidates, E = pairs,
# R = images of a block, T = images they are compared with

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import torch
from numba import njit

from reidge.edge.errors import InputError
from reidge.train.neighbors import Neighbors, float_blocks
from reidge.train.pairs import pair_similarities

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.neighbors import SearchConfig

    Found = tuple[NDArray[np.int32], NDArray[np.float32]]
    """Indices and similarities, `(N, K)`."""

PCA_IMAGES = 20_000
"""Images that the principal components are found from."""
IMAGES_PER_CELL = 40
"""Images that a cell's centre is found from."""
ROWS_AT_ONCE = 16_384
"""Images projected, added or searched at a time."""
CANDIDATES = 4
"""Candidates of the cells for each neighbour, to be compared exactly."""
MAX_ROUNDS = 6
"""Times that neighbours of neighbours are looked at; each costs as much as comparing the candidates of the cells."""
LEAST_GAIN = 0.002
"""Recall that a round must add for another to be worth its time."""
ROUNDING = 1e-5
"""Similarities that differ by less are equal: of copies it does not matter which is found."""


def approximate_neighbors(
    features_ND: Tensor,
    k: int,
    *,
    config: SearchConfig,
    memory_gib: float,
    device: torch.device,
    searched: Callable[[int], object] | None = None,
) -> Neighbors:
    """Find almost all of the k nearest images of each, itself included; arguments as for `nearest_neighbors`.

    Raises:
        InputError: The index would take more than half of the memory allowed.
    """
    number, rng = len(features_ND), np.random.default_rng(config.seed)
    dimensions = min(config.dimensions, features_ND.shape[1])
    needed = number * (2 * dimensions + 8) / 2**30
    if needed > memory_gib / 2:
        raise InputError(
            f"searching {number} images by {dimensions} principal components takes {needed:.1f} GiB, more than half of "
            f"the {memory_gib:g} allowed. Raise cluster.memory_gib, or lower cluster.search.dimensions."
        )
    sample_S = np.sort(rng.choice(number, min(config.sample, number), replace=False))
    least_S = _true_neighbors(features_ND, sample_S, k, device)[1][:, -1] - ROUNDING

    def recall(similarities_NK: NDArray[np.float32]) -> float:
        found_S = (similarities_NK[sample_S, 1:] >= least_S[:, None]).mean(axis=1)
        return float(found_S.mean()) if k > 1 else 1.0

    order_N, found = _by_cells(features_ND, k, config, rng, device, searched)
    reached = recall(found[1])
    for _ in range(MAX_ROUNDS):
        if reached >= config.min_recall:
            break
        found = _through_each_other(features_ND, order_N, found[0])
        last, reached = reached, recall(found[1])
        if reached < last + LEAST_GAIN:
            break
    return Neighbors(indices_NK=found[0], similarities_NK=found[1], recall=reached)


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """Principal components of embeddings."""

    mean_D: Tensor
    axes_DP: Tensor

    @classmethod
    def fit(cls, features_ND: Tensor, dimensions: int, rng: np.random.Generator) -> Projection:
        """Find them from a sample."""
        drawn_S = np.sort(rng.choice(len(features_ND), min(len(features_ND), PCA_IMAGES), replace=False))
        x_SD = _rows(features_ND, drawn_S)
        mean_D = x_SD.mean(dim=0)
        x_SD -= mean_D
        return cls(mean_D=mean_D, axes_DP=torch.linalg.eigh(x_SD.T @ x_SD)[1][:, -dimensions:])  # ascending

    def of(self, features_ND: Tensor, rows_R: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        """Project some rows, `(R, P)`."""
        return np.asarray(((_rows(features_ND, rows_R) - self.mean_D) @ self.axes_DP).cpu().numpy())


def _rows(features_ND: Tensor, rows_R: NDArray[np.integer[Any]]) -> Tensor:
    return features_ND[torch.from_numpy(rows_R).to(features_ND.device)].float()


def _index(
    features_ND: Tensor, projection: Projection, config: SearchConfig, rng: np.random.Generator
) -> faiss.IndexIVF:
    """Divide the space into cells and put every image into its own."""
    number, dimensions = len(features_ND), projection.axes_DP.shape[1]
    cells = min(config.cells or round(4 * number**0.5), number)
    centres = faiss.IndexFlatL2(dimensions)
    index = faiss.IndexIVFScalarQuantizer(centres, dimensions, cells, faiss.ScalarQuantizer.QT_fp16)
    index.by_residual = False
    index.cp.seed, index.cp.min_points_per_centroid = config.seed + 1, 1  # faiss takes a seed of 0 for none
    index.cp.max_points_per_centroid = IMAGES_PER_CELL
    drawn_S = np.sort(rng.choice(number, min(number, cells * IMAGES_PER_CELL), replace=False))
    blocks = [drawn_S[start : start + ROWS_AT_ONCE] for start in range(0, len(drawn_S), ROWS_AT_ONCE)]
    index.train(np.concatenate([projection.of(features_ND, block) for block in blocks]))
    for start in range(0, number, ROWS_AT_ONCE):
        index.add(projection.of(features_ND, np.arange(start, min(start + ROWS_AT_ONCE, number))))
    return index


def _images_in(index: faiss.IndexIVF, cell: int) -> NDArray[np.int64]:
    lists: Any = index.invlists
    return np.asarray(faiss.rev_swig_ptr(lists.get_ids(cell), lists.list_size(cell)).copy())


def _by_cells(
    features_ND: Tensor,
    k: int,
    config: SearchConfig,
    rng: np.random.Generator,
    device: torch.device,
    searched: Callable[[int], object] | None,
) -> tuple[NDArray[np.int64], Found]:
    """Find neighbours in the cells around each image; also return the images in the order of their cells."""
    number = len(features_ND)
    projection = Projection.fit(features_ND, config.dimensions, rng)
    index = _index(features_ND, projection, config, rng)
    index.nprobe = max(1, min(index.nlist, round(config.compared * index.nlist / number)))
    indices_NK, similarities_NK = np.empty((number, k), dtype=np.int32), np.empty((number, k), dtype=np.float32)
    # Images of a cell share candidates, which are then read once for all of them.
    order_N = np.concatenate([_images_in(index, cell) for cell in range(index.nlist)])
    for start in range(0, number, ROWS_AT_ONCE):
        rows_R = order_N[start : start + ROWS_AT_ONCE]
        candidates_RC = index.search(projection.of(features_ND, rows_R), min(CANDIDATES * k, number))[1]
        indices_NK[rows_R], similarities_NK[rows_R] = _nearest(features_ND, rows_R, candidates_RC, k, device)
        if searched is not None:
            searched(len(rows_R))
    return order_N, (indices_NK, similarities_NK)


def _through_each_other(features_ND: Tensor, order_N: NDArray[np.int64], indices_NK: NDArray[np.int32]) -> Found:
    """Look among the neighbours of each image's neighbours."""
    found_NK = np.empty_like(indices_NK)
    similarities_NK = np.empty(indices_NK.shape, dtype=np.float32)
    for start in range(0, len(order_N), ROWS_AT_ONCE // 4):
        rows_R = order_N[start : start + ROWS_AT_ONCE // 4]
        starts, others_E = _neighbours_of_neighbours(indices_NK, rows_R)
        similarities_E = pair_similarities(features_ND, rows_R, starts, others_E)
        _keep_nearest(rows_R, starts, others_E, similarities_E, found_NK, similarities_NK)
    return found_NK, similarities_NK


@njit
def _neighbours_of_neighbours(indices, rows):  # type: ignore[no-untyped-def]
    """Return where each row's begin, and which they are, the image itself left out."""
    k = indices.shape[1]
    starts = np.zeros(len(rows) + 1, dtype=np.int64)
    others = np.empty(len(rows) * k * k, dtype=np.int32)
    seen = np.full(len(indices), -1, dtype=np.int32)
    size = 0
    for r in range(len(rows)):
        seen[rows[r]] = r
        for neighbour in indices[rows[r]]:
            for other in indices[neighbour]:
                if seen[other] != r:
                    seen[other] = r
                    others[size] = other
                    size += 1
        starts[r + 1] = size
    return starts, others[:size]


@njit
def _keep_nearest(rows, starts, others, similarities, found, found_similarities):  # type: ignore[no-untyped-def]
    k = found.shape[1]
    for r in range(len(rows)):
        found[rows[r], 0], found_similarities[rows[r], 0] = rows[r], 1
        order = np.argsort(-similarities[starts[r] : starts[r + 1]], kind="mergesort")[: k - 1]
        for place in range(k - 1):
            found[rows[r], place + 1] = others[starts[r] + order[place]]
            found_similarities[rows[r], place + 1] = similarities[starts[r] + order[place]]


def _true_neighbors(
    features_ND: Tensor, rows_R: NDArray[np.int64], k: int, device: torch.device
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Compare some images with all others."""
    x_RD = _rows(features_ND, rows_R).to(device)
    best_RK = torch.full((len(rows_R), k), -torch.inf, device=device)
    indices_RK = torch.zeros((len(rows_R), k), dtype=torch.int64, device=device)
    own_R = torch.from_numpy(rows_R).to(device)
    for start, others_TD in float_blocks(features_ND, ROWS_AT_ONCE, device):
        similarities_RT = x_RD @ others_TD.T
        columns_T = torch.arange(start, start + len(others_TD), device=device)
        similarities_RT[own_R[:, None] == columns_T] = 3.0  # the image itself first
        both_RC = torch.cat([best_RK, similarities_RT], dim=1)
        best_RK, places_RK = both_RC.topk(k, dim=1)
        indices_RK = torch.cat([indices_RK, columns_T.expand(len(rows_R), -1)], dim=1).gather(1, places_RK)
    best_RK[:, 0] = 1.0
    return indices_RK.int().cpu().numpy(), best_RK.cpu().numpy()


def _compare(features_ND: Tensor, rows_R: NDArray[np.int64], candidates_RC: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute the similarity of each row to its candidates; none to itself and to places that were not filled."""
    missing_RC = (candidates_RC < 0) | (candidates_RC == rows_R[:, None])
    others_P = np.where(missing_RC, rows_R[:, None], candidates_RC).astype(np.int32).ravel()
    starts = np.arange(len(rows_R) + 1, dtype=np.int64) * candidates_RC.shape[1]
    similarities_RC = pair_similarities(features_ND, rows_R, starts, others_P)
    similarities_RC = similarities_RC.reshape(candidates_RC.shape)
    similarities_RC[missing_RC] = -np.inf
    return similarities_RC


def _nearest(
    features_ND: Tensor, rows_R: NDArray[np.int64], candidates_RC: NDArray[np.int64], k: int, device: torch.device
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Keep the candidates that are nearest by the whole embeddings, behind the image itself."""
    similarities_RC = _compare(features_ND, rows_R, candidates_RC)
    order_RC = np.argsort(-similarities_RC, axis=1, kind="stable")[:, : k - 1]
    indices_RK = np.concatenate([rows_R[:, None], np.take_along_axis(candidates_RC, order_RC, 1)], axis=1)
    found_RC = np.take_along_axis(similarities_RC, order_RC, 1)
    similarities_RK = np.concatenate([np.ones((len(rows_R), 1), dtype=np.float32), found_RC], axis=1)
    short = np.flatnonzero(np.isneginf(similarities_RK[:, -1]))
    if len(short):  # their cells hold fewer images than they need
        indices_RK[short], similarities_RK[short] = _true_neighbors(features_ND, rows_R[short], k, device)
    return indices_RK.astype(np.int32), similarities_RK
