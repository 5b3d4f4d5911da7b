"""Approximate neighbours of millions of images: found by cells of a reduced space, then through each other.

An inverted file over the principal components (faiss) gives each image candidates from the cells around it, and the
whole embeddings decide which of them are the nearest. The neighbours of neighbours are then candidates in turn, until
a sample of images whose true neighbours are known has the recall wanted.
"""

# N = images, D = embedding, S = sampled images, K = neighbours, W = width of the
# lists, C = candidates, P = principal components or pairs, R = images of a block, T = images they are compared with

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import torch

from reidge.edge.errors import InputError
from reidge.train.descent import LISTED, TIED, Lists, descend
from reidge.train.neighbors import Neighbors, float_blocks
from reidge.train.pairs import pair_similarities

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.neighbors import SearchConfig

    Found = tuple[NDArray[np.int32], NDArray[np.float32]]
    """Indices and similarities of some rows, `(R, W)`."""

PCA_IMAGES = 20_000
"""Images that the principal components are found from."""
IMAGES_PER_CELL = 40
"""Images that a cell's centre is found from."""
ROWS_AT_ONCE = 16_384
"""Images projected, added or searched at a time."""
TRUE_AT_ONCE = 1024
"""Images compared with all others at a time."""
CANDIDATES = 3
"""Candidates of the cells for each place of a list, to be compared exactly."""
WIDER = 1.6
"""Times as many places in a list as neighbours are wanted: who is a little too far may still know someone nearer."""
SHARES = (0.3, 0.6)
"""Of its list that each image looks through in the first rounds, which cost little; then the whole."""
MAX_ROUNDS = 10
LEAST_GAIN = 0.002
"""Recall that looking through the whole lists must add to be done once more."""
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
        InputError: The index and the lists would take more than the memory allowed.
    """
    number, rng = len(features_ND), np.random.default_rng(config.seed)
    wanted = max(k - 1, 1)
    width = _width(number, wanted, min(config.dimensions, features_ND.shape[1]), memory_gib)
    sample_S = np.sort(rng.choice(number, min(config.sample, number), replace=False))
    least_S = _true_neighbors(features_ND, sample_S, wanted, device)[1][:, -1] - ROUNDING
    lists, order_N = _by_cells(features_ND, width, config, rng, device, searched)

    def recall() -> float:
        return float((lists.similarities_NW[sample_S, :wanted] >= least_S[:, None]).mean())

    reached, last = recall(), -1.0
    for turn in range(MAX_ROUNDS):
        if reached >= config.min_recall or (turn > len(SHARES) and reached < last + LEAST_GAIN):
            break
        share = SHARES[turn] if turn < len(SHARES) else 1.0
        descend(features_ND, lists, max(1, round(share * width)), order_N)
        reached, last = recall(), reached
    own_N1 = np.arange(number, dtype=np.int32)[:, None]
    return Neighbors(
        indices_NK=np.concatenate([own_N1, lists.indices_NW[:, : k - 1]], axis=1),
        similarities_NK=np.concatenate(
            [np.ones((number, 1), dtype=np.float32), lists.similarities_NW[:, : k - 1]], axis=1
        ),
        recall=reached,
    )


def _width(number: int, others: int, dimensions: int, memory_gib: float) -> int:
    """Return how many neighbours of each image are remembered during the search: as many as memory allows.

    Raises:
        InputError: It does not allow as many as are wanted.
    """

    def needed(width: int) -> float:
        return number * (LISTED * width + max(2 * dimensions + 8, TIED * width + 8)) / 2**30

    for width in range(round(WIDER * others), others, -1):
        if needed(width) <= memory_gib:
            return min(width, number - 1)
    if needed(others) > memory_gib:
        raise InputError(
            f"searching {others} neighbours of {number} images by {dimensions} principal components takes "
            f"{needed(others):.2g} GiB, more than the {memory_gib:g} allowed. Raise cluster.memory_gib."
        )
    return others


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
    width: int,
    config: SearchConfig,
    rng: np.random.Generator,
    device: torch.device,
    searched: Callable[[int], object] | None,
) -> tuple[Lists, NDArray[np.int64]]:
    """Find neighbours in the cells around each image; also return the images in the order of their cells."""
    number = len(features_ND)
    projection = Projection.fit(features_ND, config.dimensions, rng)
    index = _index(features_ND, projection, config, rng)
    index.nprobe = max(1, min(index.nlist, round(config.compared * index.nlist / number)))
    lists = Lists(
        indices_NW=np.empty((number, width), dtype=np.int32),
        similarities_NW=np.empty((number, width), dtype=np.float32),
        new_NW=np.ones((number, width), dtype=np.bool_),
    )
    # Images of a cell share candidates, which are then read once for all of them.
    order_N = np.concatenate([_images_in(index, cell) for cell in range(index.nlist)])
    for start in range(0, number, ROWS_AT_ONCE):
        rows_R = order_N[start : start + ROWS_AT_ONCE]
        candidates_RC = index.search(projection.of(features_ND, rows_R), min(CANDIDATES * width + 1, number))[1]
        nearest = _nearest(features_ND, rows_R, candidates_RC, width, device)
        lists.indices_NW[rows_R], lists.similarities_NW[rows_R] = nearest
        if searched is not None:
            searched(len(rows_R))
    return lists, order_N


def _true_neighbors(features_ND: Tensor, rows_R: NDArray[np.int64], width: int, device: torch.device) -> Found:
    """Compare some images with all others; none with itself."""
    x_RD = _rows(features_ND, rows_R).to(device)
    best_RW = torch.full((len(rows_R), width), -torch.inf, device=device)
    indices_RW = torch.zeros((len(rows_R), width), dtype=torch.int64, device=device)
    own_R = torch.from_numpy(rows_R).to(device)
    for start, others_TD in float_blocks(features_ND, ROWS_AT_ONCE, device):
        similarities_RT = x_RD @ others_TD.T
        columns_T = torch.arange(start, start + len(others_TD), device=device)
        similarities_RT[own_R[:, None] == columns_T] = -torch.inf
        both_RC = torch.cat([best_RW, similarities_RT], dim=1)
        best_RW, places_RW = both_RC.topk(width, dim=1)
        indices_RW = torch.cat([indices_RW, columns_T.expand(len(rows_R), -1)], dim=1).gather(1, places_RW)
    return indices_RW.int().cpu().numpy(), best_RW.cpu().numpy()


def _nearest(
    features_ND: Tensor, rows_R: NDArray[np.int64], candidates_RC: NDArray[np.int64], width: int, device: torch.device
) -> Found:
    """Keep the candidates that are nearest by the whole embeddings."""
    missing_RC = (candidates_RC < 0) | (candidates_RC == rows_R[:, None])
    others_P = np.where(missing_RC, rows_R[:, None], candidates_RC).astype(np.int32).ravel()
    starts = np.arange(len(rows_R) + 1, dtype=np.int64) * candidates_RC.shape[1]
    similarities_RC = pair_similarities(features_ND, rows_R, starts, others_P).reshape(candidates_RC.shape)
    similarities_RC[missing_RC] = -np.inf
    order_RW = np.argsort(-similarities_RC, axis=1, kind="stable")[:, :width]
    indices_RW = np.take_along_axis(candidates_RC, order_RW, 1).astype(np.int32)
    similarities_RW = np.take_along_axis(similarities_RC, order_RW, 1)
    short = np.flatnonzero(np.isneginf(similarities_RW[:, -1]))
    for start in range(0, len(short), TRUE_AT_ONCE):  # their cells hold fewer images than they need
        part = short[start : start + TRUE_AT_ONCE]
        indices_RW[part], similarities_RW[part] = _true_neighbors(features_ND, rows_R[part], width, device)
    return indices_RW, similarities_RW
