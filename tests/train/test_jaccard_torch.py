from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from reidge.train.jaccard import jaccard_distances
from reidge.train.jaccard_torch import jaccard_distances_torch
from reidge.train.neighbors import Neighbors, nearest_neighbors

if TYPE_CHECKING:
    from pathlib import Path

    from scipy.sparse import csr_matrix

PLENTY = 2**28


def people(count: int, each: int, *, noise: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    who = functional.normalize(torch.randn(count, 64, generator=generator), dim=1).repeat_interleave(each, dim=0)
    return functional.normalize(who + noise * torch.randn(who.shape, generator=generator), dim=1)


def nearest(features_ND: torch.Tensor, columns: int) -> torch.Tensor:
    return torch.from_numpy(nearest_neighbors(features_ND, min(columns, len(features_ND))).indices_NK).long()


def with_hubs(hubs: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Forty people ten times, and images that each of these finds right behind itself."""
    people_ND = people(40, 10)
    middle_D = people_ND.mean(dim=0)
    features_ND = torch.cat([people_ND, functional.normalize(middle_D + 0.01 * torch.eye(64)[:hubs], dim=1)])
    ranking_NK = nearest(features_ND, 12)
    # A hub finds whom it finds; so that all its neighbourhoods are mutual it would need a row of all images.
    ranking_NK[:400, 1 : 1 + hubs] = torch.arange(400, 400 + hubs)
    return features_ND, ranking_NK


def on_torch(features_ND: torch.Tensor, ranking_NK: torch.Tensor, **changes: Any) -> csr_matrix:
    settings = {"k1": 12, "k2": 4, "max_distance": 0.6, "max_bytes": PLENTY} | changes
    return jaccard_distances_torch(features_ND, ranking_NK, **settings)


def on_cores(features_ND: torch.Tensor, ranking_NK: torch.Tensor, **changes: Any) -> csr_matrix:
    indices_NK = ranking_NK.numpy().astype(np.int32)
    neighbors = Neighbors(indices_NK=indices_NK, similarities_NK=np.zeros(indices_NK.shape, dtype=np.float32))
    settings = {"k1": 12, "k2": 4, "max_distance": 0.6} | changes
    return jaccard_distances(features_ND, neighbors=neighbors, **settings)


def same(one: csr_matrix, other: csr_matrix, *, atol: float = 0.0) -> None:
    np.testing.assert_array_equal(one.indptr, other.indptr)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.data, other.data, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("number", "k1", "k2", "max_distance"),
    [(400, 30, 6, 0.6), (400, 12, 1, 0.6), (400, 7, 3, 0.95), (400, 12, 4, 1.0), (12, 30, 6, 0.6), (2, 30, 6, 0.6)],
)
def test_distances_are_those_of_the_cores(number: int, k1: int, k2: int, max_distance: float) -> None:
    features_ND = people(40, 10)[:number]
    ranking_NK = nearest(features_ND, k1)
    settings = {"k1": k1, "k2": k2, "max_distance": max_distance}
    found = on_torch(features_ND, ranking_NK, **settings)
    assert found.nnz > number
    same(found, on_cores(features_ND, ranking_NK, **settings), atol=1e-6)


def test_copies_and_images_that_are_alone_are_as_on_the_cores() -> None:
    alone = functional.normalize(torch.randn(30, 64, generator=torch.Generator().manual_seed(7)), dim=1)
    features_ND = torch.cat([people(10, 10), people(10, 10)[:20], people(10, 10)[:1].repeat(15, 1), alone])
    ranking_NK = nearest(features_ND, 12)
    same(on_torch(features_ND, ranking_NK), on_cores(features_ND, ranking_NK), atol=1e-6)
    copies = on_torch(features_ND, ranking_NK, k2=1, max_distance=0.0)
    assert copies.nnz >= len(features_ND)
    assert not copies.data.any()


def test_distances_are_symmetric_to_the_last_bit_and_zero_to_oneself() -> None:
    features_ND = people(40, 10)
    distances = on_torch(features_ND, nearest(features_ND, 12))
    assert abs(distances - distances.T).max() == 0
    np.testing.assert_array_equal(distances.diagonal(), np.zeros(400))
    assert distances.has_canonical_format
    assert distances.dtype == np.float32
    assert 0 <= distances.data.min() <= distances.data.max() <= 0.6


def test_the_first_k1_columns_of_a_ranking_count() -> None:
    features_ND = people(40, 10)
    ranking_NK = nearest(features_ND, 20)
    same(on_torch(features_ND, ranking_NK), on_torch(features_ND, ranking_NK[:, :12].contiguous()))


def test_float16_in_a_file_gives_the_distances_of_its_values(tmp_path: Path) -> None:
    features_ND = people(40, 10)
    stored = np.memmap(tmp_path / "features", dtype=np.float16, mode="w+", shape=tuple(features_ND.shape))
    stored[:] = features_ND.numpy()
    ranking_NK = nearest(features_ND, 12)
    same(
        on_torch(torch.from_numpy(stored), ranking_NK),
        on_torch(torch.from_numpy(stored.astype(np.float32)), ranking_NK),
    )


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: set[int] = set()
        self.held = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in self.alive:
                storage = tensor.untyped_storage()
                self.alive.add(storage._cdata)
                self.held += storage.nbytes()
                weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.held)
        return result

    def free(self, address: int, size: int) -> None:
        self.alive.remove(address)
        self.held -= size


def test_memory_stays_within_the_bound_and_blocks_change_nothing() -> None:
    features_ND = people(60, 10)
    ranking_NK = nearest(features_ND, 30)
    whole = on_torch(features_ND, ranking_NK, k1=30, k2=6)
    with Peak() as plenty:
        on_torch(features_ND, ranking_NK, k1=30, k2=6)
    bound = 8 * 2**20
    assert plenty.most > 2 * bound
    with Peak() as peak:
        same(on_torch(features_ND, ranking_NK, k1=30, k2=6, max_bytes=bound), whole)
    assert bound / 8 < peak.most < bound
