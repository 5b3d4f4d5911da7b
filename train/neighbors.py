"""The nearest neighbours of every image: all pairs compared, or above a size those that share a part of the space."""

# N = images, D = embedding, K = neighbours, T = images of a tile, R = images of a block

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, Field

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

EXACT_UP_TO = {"cpu": 100_000, "cuda": 2_000_000}
"""Images whose pairs are all compared where no setting says so: some minutes either way."""
TILE = {"cpu": 2048, "cuda": 8192}
"""Images of a tile: two of them and their similarities take 48 MiB at 2048 dimensions, on a GPU 384."""
ROWS_AT_ONCE = 4096
"""Images checked at a time."""
UNIT_TOLERANCE = 1e-2
"""Length that a unit vector may be off by; float16 takes a tenth of it."""
SAME = 1e-6
"""Coordinates of embeddings that differ by less differ by rounding."""


class SearchConfig(BaseModel, frozen=True, extra="forbid"):
    """How neighbours are searched."""

    exact_up_to: int | None = Field(None, ge=0)
    """Images up to which all pairs are compared. Above, only images of nearby cells are, and their similarities are
    computed from the whole embeddings. None: 100,000 on a CPU, 2,000,000 on a GPU."""
    min_recall: float = Field(0.98, gt=0, le=1)
    """Share of the true neighbours to be found. While a sample of the images has less, each image looks among its
    neighbours' neighbours."""
    dimensions: int = Field(128, ge=1)
    """Principal components that cells are made of."""
    cells: int | None = Field(None, ge=1)
    """Into how many the space is divided; None: four times the square root of the number of images."""
    compared: int = Field(8192, ge=1)
    """Images in the cells that are searched for one image, about."""
    sample: int = Field(500, ge=1)
    """Images whose true neighbours are searched for the recall."""
    seed: int = Field(0, ge=0)
    """Of the cells and the sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbors:
    """The nearest images of each."""

    indices_NK: NDArray[np.int32]
    """The image itself first, then by falling similarity."""
    similarities_NK: NDArray[np.float32]
    """Cosines, of the whole embeddings; 1 for the image itself."""
    recall: float | None = None
    """Share of the true neighbours that were found, on a sample of images; None where all pairs were compared."""


class AllAlike(InputError):
    """All embeddings are the same: each image is everyone's neighbour, and no two can be told apart."""


def nearest_neighbors(
    features_ND: NDArray[np.floating[Any]] | Tensor,
    k: int,
    *,
    config: SearchConfig = SearchConfig(),  # noqa: B008 - frozen
    device: torch.device | str | None = None,
    memory_gib: float = 8.0,
    searched: Callable[[int], object] | None = None,
) -> Neighbors:
    """Find the k nearest images of each, itself included.

    Images with equal similarity to a third come in any order, the same one each time on one machine.

    Args:
        features_ND: Unit length, float32 or float16; may be a memory-mapped file.
        k: 1 to N.
        config: When and how to approximate.
        device: To search on; None is where the features are.
        memory_gib: That an approximate search may take beside the features and the result.
        searched: Called now and then with the number of images that have found their neighbours since.

    Raises:
        AllAlike: All embeddings are the same.
        InputError: The features are not two or more rows of finite numbers of unit length, or k is not 1 to N.
    """
    features_ND = as_features(features_ND)
    check_features(features_ND)
    if not 1 <= k <= len(features_ND):
        raise InputError(f"got k = {k} neighbours of {len(features_ND)} images: wants 1 to {len(features_ND)}.")
    device = features_ND.device if device is None else torch.device(device)
    exact_up_to = EXACT_UP_TO.get(device.type, 0) if config.exact_up_to is None else config.exact_up_to
    if len(features_ND) <= max(exact_up_to, k):
        return exact_neighbors(features_ND, k, device=device, searched=searched)
    from reidge.train.approximate import approximate_neighbors  # faiss, for those who need it

    return approximate_neighbors(features_ND, k, config=config, device=device, memory_gib=memory_gib, searched=searched)


def as_features(features_ND: NDArray[np.floating[Any]] | Tensor) -> Tensor:
    """Return features as a tensor without gradient, where it can be the same memory; float16 and float32 stay so."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nobody writes
        features_ND = torch.as_tensor(features_ND).detach()
    other = features_ND.is_floating_point() and features_ND.dtype not in (torch.float16, torch.float32)
    return features_ND.float() if other else features_ND


def check_features(features_ND: Tensor) -> None:
    """Raise unless there are two or more embeddings of unit length, not all the same.

    Raises:
        AllAlike: All embeddings are the same.
        InputError: Anything else is wrong with them.
    """
    if features_ND.ndim != 2 or not features_ND.is_floating_point():
        got = f"shape {tuple(features_ND.shape)} and type {features_ND.dtype}"
        raise InputError(f"got features of {got}: wants a matrix (N, D) of floating-point numbers.")
    if len(features_ND) < 2:
        raise InputError(f"got the features of {len(features_ND)} images: neighbours are of two images or more.")
    first_D, alike = features_ND[0].float(), True
    for start, rows_RD in float_blocks(features_ND, ROWS_AT_ONCE):
        lengths_R = rows_RD.norm(dim=1)
        wrong_R = ~((lengths_R - 1).abs() <= UNIT_TOLERANCE)  # also where the length is no number
        if wrong_R.any():
            row = int(wrong_R.nonzero()[0])
            length = float(lengths_R[row])
            if not math.isfinite(length):
                raise InputError(f"got features that are not finite in row {start + row}: wants finite numbers.")
            raise InputError(
                f"got features of length {length:.4g} in row {start + row}: wants unit length. Divide each row by its "
                "Euclidean norm."
            )
        alike = alike and bool((rows_RD - first_D).abs().max() < SAME)
    if alike:
        raise AllAlike(
            f"got {len(features_ND)} features that are all the same: nothing can be told apart. Where an encoder made "
            "them, it has collapsed."
        )


def exact_neighbors(
    features_ND: Tensor, k: int, *, device: torch.device, searched: Callable[[int], object] | None = None
) -> Neighbors:
    """Compare all pairs, each once: what a tile of similarities says of its rows it also says of its columns.

    Memory grows with N x k alone; features that are elsewhere come to the device two tiles at a time.
    """
    number = len(features_ND)
    tile = TILE.get(device.type, TILE["cpu"])
    best_NK = torch.full((number, k), -torch.inf, device=device)
    indices_NK = torch.zeros((number, k), dtype=torch.int32, device=device)

    def keep(first: int, similarities_TT: Tensor, offset: int) -> None:
        rows = slice(first, first + len(similarities_TT))
        found_TK, columns_TK = similarities_TT.topk(min(k, similarities_TT.shape[1]), dim=1)
        found_TK, kept_TK = torch.cat([best_NK[rows], found_TK], dim=1).topk(k, dim=1)
        both = torch.cat([indices_NK[rows], (columns_TK + offset).int()], dim=1)
        best_NK[rows], indices_NK[rows] = found_TK, both.gather(1, kept_TK)

    for top, rows_TD in float_blocks(features_ND, tile, device):
        for left, columns_TD in float_blocks(features_ND, tile, device, first=top):
            similarities_TT = rows_TD @ columns_TD.T
            if left == top:
                similarities_TT.fill_diagonal_(3.0)  # above any cosine: a copy does not take the image's own place
                keep(top, similarities_TT, left)
            else:
                keep(top, similarities_TT, left)
                keep(left, similarities_TT.T.contiguous(), top)
        if searched is not None:
            searched(len(rows_TD))
    best_NK[:, 0] = 1.0
    return Neighbors(indices_NK=indices_NK.cpu().numpy(), similarities_NK=best_NK.cpu().numpy())


def float_blocks(
    features_ND: Tensor, size: int, device: torch.device | None = None, *, first: int = 0
) -> Iterator[tuple[int, Tensor]]:
    """Yield rows as float32 on the device, with the number of the first."""
    for start in range(first, len(features_ND), size):
        # On the device, which is faster at it, and half as much has to get there.
        yield start, features_ND[start : start + size].to(device or features_ND.device).float()
