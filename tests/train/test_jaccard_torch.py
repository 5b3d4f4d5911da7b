from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from reidge.edge.errors import InputError
from reidge.train import minima_torch
from reidge.train.jaccard import jaccard_distances
from reidge.train.jaccard_torch import jaccard_distances_torch
from reidge.train.neighbors import Neighbors, nearest_neighbors
from reidge.train.sparse import TooManyEntries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scipy.sparse import csr_matrix

PLENTY = 2**28


def people(count: int, each: int, *, noise: float = 0.2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    who = functional.normalize(torch.randn(count, 64, generator=generator), dim=1).repeat_interleave(each, dim=0)
    return functional.normalize(who + noise * torch.randn(who.shape, generator=generator), dim=1)


def nearest(features_ND: torch.Tensor, columns: int) -> torch.Tensor:
    return torch.from_numpy(nearest_neighbors(features_ND, min(columns, len(features_ND))).indices_NK).long()


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


class Peak(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are alive, and the most there were."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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
    features_ND = people(40, 10)
    ranking_NK = nearest(features_ND, 20)
    with Peak() as plenty:
        whole = on_torch(features_ND, ranking_NK, k1=20, k2=6)
    bound = 3 * 2**20
    assert plenty.most > 4 * bound
    with Peak() as peak:
        same(on_torch(features_ND, ranking_NK, k1=20, k2=6, max_bytes=bound), whole)
    assert bound / 4 < peak.most < bound


@pytest.mark.parametrize("heavy", [100, 20, 5])
def test_hubs_near_everything_change_no_distance(heavy: int, monkeypatch: pytest.MonkeyPatch) -> None:
    people_ND = people(40, 10)
    hubs_ND = functional.normalize(people_ND.mean(dim=0) + 0.01 * torch.eye(64)[:2], dim=1)
    features_ND = torch.cat([people_ND, hubs_ND])
    ranking_NK = nearest(features_ND, 12)
    # Each image finds both hubs right behind itself, so that query expansion spreads their neighbourhoods to all.
    others_NK = nearest(people_ND, 10)
    ranking_NK[:400] = torch.cat([others_NK[:, :1], torch.tensor([[400, 401]] * 400), others_NK[:, 1:]], dim=1)
    plain = on_torch(features_ND, ranking_NK, k2=6)
    same(plain, on_cores(features_ND, ranking_NK, k2=6), atol=1e-6)
    monkeypatch.setattr(minima_torch, "HEAVY", heavy)
    same(on_torch(features_ND, ranking_NK, k2=6), plain)


def test_every_tensor_is_made_on_the_device_of_the_ranking() -> None:
    features_ND = people(20, 10)
    ranking_NK = nearest(features_ND, 12)
    here = on_torch(features_ND, ranking_NK)
    with torch.device("meta"):  # a tensor made without a device would hold nothing
        same(on_torch(features_ND, ranking_NK), here)


@pytest.fixture
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_gives_the_same_bits_each_time_and_the_distances_of_the_cores() -> None:
    features_ND = people(200, 15)
    ranking_NK = nearest(features_ND, 30)
    first = on_torch(features_ND.cuda(), ranking_NK.cuda(), k1=30, k2=6)
    same(first, on_torch(features_ND.cuda(), ranking_NK.cuda(), k1=30, k2=6))
    same(first, on_torch(features_ND, ranking_NK.cuda(), k1=30, k2=6))
    same(first, on_cores(features_ND, ranking_NK, k1=30, k2=6), atol=1e-6)


def test_a_ranking_of_other_features_is_refused() -> None:
    features_ND = people(4, 5)
    ranking_NK = nearest(features_ND, 12)
    with pytest.raises(InputError, match=r"ranking of shape \(20, 12\) for the features of 19 images"):
        on_torch(features_ND[:19], ranking_NK)
    with pytest.raises(InputError, match="each image and 13 columns"):
        on_torch(features_ND, ranking_NK, k1=13)
    with pytest.raises(InputError, match=r"from 1 to 20: wants int64, numbers of images from 0 to 19"):
        on_torch(features_ND, ranking_NK + 1)
    with pytest.raises(InputError, match=r"ranking of torch\.int32"):
        on_torch(features_ND, ranking_NK.int())
    with pytest.raises(InputError, match="features of 0 images"):
        on_torch(features_ND[:0], ranking_NK[:0])


def test_copies_without_bound_end_within_the_memory_allowed() -> None:
    copies_ND = torch.cat([people(1, 1).repeat(600, 1), people(30, 10)])
    ranking_NK = torch.arange(900)[:, None].repeat(1, 12)
    ranking_NK[:600, 1:] = torch.arange(11)  # every copy finds the same few, and is near all others
    assert on_torch(copies_ND, ranking_NK, k2=6, max_bytes=2**24).nnz > 500 * 500
    for bound in (2**22, 2**16, 2**10):
        with pytest.raises(TooManyEntries):
            on_torch(copies_ND, ranking_NK, k2=6, max_bytes=bound)
