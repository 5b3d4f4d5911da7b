"""Approximate neighbours of millions of images: candidates from cells of a reduced space, compared exactly.

Cells and candidates come from faiss (an inverted file over the principal components); which of the candidates are the
nearest is then decided by the whole embeddings. How many cells are searched follows from the recall wanted, which is
measured on a sample of the images against all others.
"""

# N = images, D = embedding, P = principal components, S = sampled images, K = neighbours, C = candidates,
# R = images of a block, T = images they are compared with

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import torch

from reidge.edge.errors import InputError
from reidge.train.neighbors import Neighbors, float_blocks
from reidge.train.pairs import pair_similarities

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.neighbors import SearchConfig

PCA_IMAGES = 20_000
"""Images that the principal components are found from."""
IMAGES_PER_CELL = 40
"""Images that a cell's centre is found from."""
ROWS_AT_ONCE = 16_384
"""Images projected, added or searched at a time."""
DIMENSIONS = (64, 128, 256, 512)
"""Principal components that may do; the fewest whose candidates can have the recall are taken."""
CANDIDATES = (2, 4, 8, 16)
"""Candidates for each neighbour that may be compared; likewise."""
SPARE = 0.01
"""Recall that candidates from all cells have above the one wanted, so that some cells do."""
ROUNDING = 1e-5
"""Similarities that differ by less are equal: of copies it does not matter which is found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Images whose true neighbours are known."""

    rows_S: NDArray[np.int64]
    least_S: NDArray[np.float32]
    """Similarity of the last of their k neighbours."""

    def recall(self, similarities_SC: NDArray[np.float32], k: int) -> float:
        """Share of the true neighbours, the image itself not counted, among candidates of these similarities."""
        found_S = (similarities_SC >= self.least_S[:, None]).sum(axis=1)
        return float(np.minimum(found_S / max(k - 1, 1), 1).mean())


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
    projection = Projection.fit(features_ND, config.dimensions or DIMENSIONS[-1], rng)
    sample, dimensions, candidates = _plan(features_ND, projection, k, config, rng, device)
    needed = number * (2 * dimensions + 8) / 2**30
    if needed > memory_gib / 2:
        raise InputError(
            f"searching {number} images by {dimensions} principal components takes {needed:.1f} GiB, more than half of "
            f"the {memory_gib:g} allowed. Raise cluster.memory_gib, or set fewer cluster.search.dimensions."
        )
    projection = projection.first(dimensions)
    index = _index(features_ND, projection, config, rng)
    recall = _widen(features_ND, projection, index, sample, k, candidates, config)
    indices_NK = np.empty((number, k), dtype=np.int32)
    similarities_NK = np.empty((number, k), dtype=np.float32)
    # Images of a cell share candidates, which are then read once for all of them.
    order_N = np.concatenate([_images_in(index, cell) for cell in range(index.nlist)])
    for start in range(0, number, ROWS_AT_ONCE):
        rows_R = order_N[start : start + ROWS_AT_ONCE]
        candidates_RC = index.search(projection.of(features_ND, rows_R), candidates)[1]
        indices_NK[rows_R], similarities_NK[rows_R] = _nearest(features_ND, rows_R, candidates_RC, k, device)
        if searched is not None:
            searched(len(rows_R))
    return Neighbors(indices_NK=indices_NK, similarities_NK=similarities_NK, recall=recall)


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
        axes_DD = torch.linalg.eigh(x_SD.T @ x_SD)[1].flip(1)  # the largest first
        return cls(mean_D=mean_D, axes_DP=axes_DD[:, :dimensions])

    def first(self, dimensions: int) -> Projection:
        """Keep the first components alone."""
        return Projection(mean_D=self.mean_D, axes_DP=self.axes_DP[:, :dimensions].contiguous())

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


def _plan(
    features_ND: Tensor,
    projection: Projection,
    k: int,
    config: SearchConfig,
    rng: np.random.Generator,
    device: torch.device,
) -> tuple[Sample, int, int]:
    """Find the true neighbours of a sample, and how many components and candidates suffice to have them."""
    number = len(features_ND)
    rows_S = np.sort(rng.choice(number, min(config.sample, number), replace=False))
    least_S = _true_neighbors(features_ND, rows_S, k, device)[1][:, -1] - ROUNDING
    sample = Sample(rows_S=rows_S, least_S=least_S)
    largest = projection.axes_DP.shape[1]
    sizes = sorted({min(size, largest) for size in DIMENSIONS} if config.dimensions is None else {largest})
    most = min(CANDIDATES[-1] * k, number)
    for dimensions in sizes:
        candidates_SC = _nearest_projections(features_ND, projection.first(dimensions), rows_S, most, device)
        similarities_SC = _compare(features_ND, rows_S, candidates_SC)
        for candidates in (min(share * k, number) for share in CANDIDATES):
            if sample.recall(similarities_SC[:, :candidates], k) >= min(config.min_recall + SPARE, 1):
                return sample, dimensions, candidates
    return sample, sizes[-1], most


def _nearest_projections(
    features_ND: Tensor, projection: Projection, rows_R: NDArray[np.int64], count: int, device: torch.device
) -> NDArray[np.int64]:
    """Compare the projections of some images with those of all, `(R, C)`, the nearest first."""
    queries_RP = torch.from_numpy(projection.of(features_ND, rows_R)).to(device)
    best_RC = torch.full((len(rows_R), 0), torch.inf, device=device)
    indices_RC = torch.zeros((len(rows_R), 0), dtype=torch.int64, device=device)
    for start in range(0, len(features_ND), ROWS_AT_ONCE):
        rows_T = np.arange(start, min(start + ROWS_AT_ONCE, len(features_ND)))
        others_TP = torch.from_numpy(projection.of(features_ND, rows_T)).to(device)
        distances_RT = others_TP.square().sum(dim=1) - 2 * queries_RP @ others_TP.T  # but for the query's own square
        both_RC = torch.cat([best_RC, distances_RT], dim=1)
        best_RC, places_RC = both_RC.topk(min(count, both_RC.shape[1]), dim=1, largest=False)
        columns_RT = torch.from_numpy(rows_T).to(device).expand(len(rows_R), -1)
        indices_RC = torch.cat([indices_RC, columns_RT], dim=1).gather(1, places_RC)
    return indices_RC.cpu().numpy()


def _widen(
    features_ND: Tensor,
    projection: Projection,
    index: faiss.IndexIVF,
    sample: Sample,
    k: int,
    candidates: int,
    config: SearchConfig,
) -> float:
    """Let the index search more cells until the sample has the recall, or enough is enough; return what it has."""
    queries_SP = projection.of(features_ND, sample.rows_S)
    most = max(1, min(index.nlist, config.max_compared * index.nlist // len(features_ND)))
    index.nprobe = 1
    while True:
        candidates_SC = index.search(queries_SP, candidates)[1]
        recall = sample.recall(_compare(features_ND, sample.rows_S, candidates_SC), k)
        if recall >= config.min_recall or index.nprobe >= most:
            return recall
        index.nprobe = min(math.ceil(1.5 * index.nprobe), most)


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
    similarities_RC = pair_similarities(features_ND, rows_R, starts, others_P).reshape(candidates_RC.shape)
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
