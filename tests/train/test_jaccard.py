from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from reidge.edge.errors import InputError
from reidge.train import minima, sparse
from reidge.train.dbscan import dbscan
from reidge.train.jaccard import jaccard_distances
from reidge.train.neighbors import AllAlike, Neighbors, nearest_neighbors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray


def people(count: int, each: int, *, noise: float = 0.05, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    who = functional.normalize(torch.randn(count, 64, generator=generator), dim=1).repeat_interleave(each, dim=0)
    return functional.normalize(who + noise * torch.randn(who.shape, generator=generator), dim=1)


def same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one.indptr, other.indptr)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.data, other.data, atol=1e-6)


def test_distances_are_symmetric_to_the_last_bit_and_zero_to_oneself() -> None:
    distances = jaccard_distances(people(20, 10, noise=0.2), k1=12, k2=4)
    assert abs(distances - distances.T).max() == 0
    np.testing.assert_array_equal(distances.diagonal(), np.zeros(200))
    assert distances.dtype == np.float32
    assert 0 <= distances.data.min() <= distances.data.max() <= 0.6


def test_neighbours_that_are_known_are_not_searched() -> None:
    features = people(20, 10)
    ranking = nearest_neighbors(features, 25)
    same(jaccard_distances(features, k1=12), jaccard_distances(features, k1=12, neighbors=ranking))


def test_float16_in_a_file_gives_the_distances_of_its_values(tmp_path: Path) -> None:
    features = people(20, 10, noise=0.2)
    stored = np.memmap(tmp_path / "features", dtype=np.float16, mode="w+", shape=tuple(features.shape))
    stored[:] = features.numpy()
    ranking = nearest_neighbors(features, 12)
    exact = torch.from_numpy(stored.astype(np.float32))
    same(jaccard_distances(stored, k1=12, neighbors=ranking), jaccard_distances(exact, k1=12, neighbors=ranking))


def test_threads_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features = people(30, 10, noise=0.2)
    whole = jaccard_distances(features)
    monkeypatch.setattr(sparse, "ROWS_AT_ONCE", 11)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    same(jaccard_distances(features), whole)
    torch.set_num_threads(threads)


def test_hubs_near_everything_change_no_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    features = people(40, 10)
    hubs = functional.normalize(features.mean(dim=0) + 0.01 * torch.eye(64)[:2], dim=1)
    # Each image finds both hubs among its nearest, right behind itself.
    ranking = nearest_neighbors(torch.cat([features, hubs]), 12)
    others = [[i for i in row[1:] if i < 400][:9] for row in ranking.indices_NK[:400].tolist()]
    indices = ranking.indices_NK.copy()
    indices[:400, 1:3] = [400, 401]
    indices[:400, 3:] = others
    neighbors = Neighbors(indices_NK=indices, similarities_NK=ranking.similarities_NK)
    both = torch.cat([features, hubs])
    plain = jaccard_distances(both, k1=12, k2=6, neighbors=neighbors)
    monkeypatch.setattr(minima, "HEAVY", 100)
    same(jaccard_distances(both, k1=12, k2=6, neighbors=neighbors), plain)
    assert dbscan(plain).max() == 39


def test_fewer_images_than_k1_are_all_neighbours() -> None:
    assert jaccard_distances(people(2, 5), k1=30).shape == (10, 10)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k1": 0}, "k1 0"),
        ({"k2": 0}, "k2 0"),
        ({"max_distance": 1.5}, r"max_distance 1\.5"),
        ({"max_distance": float("nan")}, "max_distance nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        jaccard_distances(people(4, 5), **fields)


def test_features_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(InputError, match="not finite in row 3"):
        jaccard_distances(np.where(np.arange(20)[:, None] == 3, np.nan, people(4, 5).numpy()))
    with pytest.raises(InputError, match="wants unit length"):
        jaccard_distances(2 * people(4, 5))
    for number in (0, 1):
        with pytest.raises(InputError, match=f"features of {number} images"):
            jaccard_distances(people(4, 5)[:number])
    with pytest.raises(AllAlike, match="100 features that are all the same"):
        jaccard_distances(people(1, 1).repeat(100, 1))


def test_neighbours_of_other_features_are_refused() -> None:
    ranking = nearest_neighbors(people(4, 5), 10)
    with pytest.raises(InputError, match=r"neighbours of shape \(20, 10\) for the features of 25 images"):
        jaccard_distances(people(5, 5), k1=10, neighbors=ranking)
    with pytest.raises(InputError, match="each image and 11 columns"):
        jaccard_distances(people(4, 5), k1=11, neighbors=ranking)
    wrong = Neighbors(indices_NK=ranking.indices_NK + 11, similarities_NK=ranking.similarities_NK)
    with pytest.raises(InputError, match="numbers from 0 to 19"):
        jaccard_distances(people(4, 5), k1=10, neighbors=wrong)


def test_copies_without_bound_end_with_one_line_instead_of_all_memory() -> None:
    copies = torch.cat([people(1, 1).repeat(3000, 1), people(30, 10, seed=1)])
    with pytest.raises(InputError, match=r"3300 images take more than the 0\.01 GiB.*copies of each other") as error:
        jaccard_distances(copies, memory_gib=0.01)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda indices: indices[::-1], "without the image itself in the first column"),
        (lambda indices: indices[:, [0, 1, 1]], "the same neighbour of an image twice"),
        (lambda indices: indices + 20, "no images: wants numbers from 0 to 19"),
        (lambda indices: indices[:10], r"shape \(10, 3\) for the features of 20 images"),
    ],
)
def test_known_neighbours_that_cannot_be_are_refused(
    change: Callable[[NDArray[np.int32]], NDArray[np.int32]], message: str
) -> None:
    features = people(4, 5)
    found = nearest_neighbors(features, 3)
    neighbors = Neighbors(indices_NK=change(found.indices_NK), similarities_NK=found.similarities_NK)
    with pytest.raises(InputError, match=message):
        jaccard_distances(features, k1=3, neighbors=neighbors)
