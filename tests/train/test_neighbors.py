from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from reidge.edge.errors import InputError
from reidge.train import approximate
from reidge.train import neighbors as module
from reidge.train.jaccard import jaccard_distances
from reidge.train.neighbors import AllAlike, SearchConfig, nearest_neighbors

if TYPE_CHECKING:
    from pathlib import Path

EXACT = SearchConfig(exact_up_to=10**9)


def unit(number: int, width: int = 32, *, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def crowd(number: int, *, width: int = 64, seed: int = 0) -> torch.Tensor:
    """Images of people, fifty of each, in a space of few large directions, as trained embeddings have."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, width + 1) ** -0.7
    people = torch.randn(number // 50, width, generator=generator).repeat(50, 1)
    return functional.normalize((people + 0.5 * torch.randn(people.shape, generator=generator)) * scales, dim=1)


def test_neighbours_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    found = nearest_neighbors(features, 2)
    assert found.indices_NK.tolist() == [[0, 1], [1, 0], [2, 1]]
    np.testing.assert_allclose(found.similarities_NK, [[1, 0.8], [1, 0.8], [1, 0.6]], atol=1e-6)
    assert found.indices_NK.dtype == np.int32
    assert found.recall is None


def test_tiles_find_what_the_whole_matrix_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", {"cpu": 37})
    features = unit(150)
    similarities = features @ features.T
    expected = similarities.topk(10, dim=1)
    found = nearest_neighbors(features, 10, config=EXACT)
    np.testing.assert_array_equal(found.indices_NK, expected.indices)
    np.testing.assert_allclose(found.similarities_NK, expected.values, atol=1e-6)


def test_more_neighbours_than_a_tile_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TILE", {"cpu": 4})
    found = nearest_neighbors(unit(11), 11, config=EXACT).indices_NK
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(11), (11, 1)))


def test_an_image_comes_before_its_copies() -> None:
    features = unit(4).repeat(5, 1)
    found = nearest_neighbors(features, 5).indices_NK
    np.testing.assert_array_equal(found[:, 0], np.arange(20))
    assert (found % 4 == np.arange(20)[:, None] % 4).all()


def test_arrays_and_files_of_float16_are_searched_too(tmp_path: Path) -> None:
    features = unit(60)
    stored = np.memmap(tmp_path / "features", dtype=np.float16, mode="w+", shape=(60, 32))
    stored[:] = features.numpy()
    expected = nearest_neighbors(functional.normalize(features.half().float(), dim=1), 5)
    for given in (stored, torch.from_numpy(stored), np.asarray(stored)):
        np.testing.assert_array_equal(nearest_neighbors(given, 5).indices_NK, expected.indices_NK)


def test_features_of_any_floating_type_are_searched(tmp_path: Path) -> None:
    features = unit(60)
    expected = nearest_neighbors(features, 3).indices_NK
    path = tmp_path / "features.npy"
    np.save(path, features.numpy())
    read_only = np.load(path, mmap_mode="r")
    for given in (features.double(), features.double().numpy(), features.clone().requires_grad_(), read_only):
        np.testing.assert_array_equal(nearest_neighbors(given, 3).indices_NK, expected)
        np.testing.assert_allclose(jaccard_distances(given, k1=5).data, jaccard_distances(features, k1=5).data)
    assert nearest_neighbors(features.bfloat16(), 3).indices_NK.shape == (60, 3)


@pytest.mark.parametrize(
    ("features", "k", "message"),
    [
        (torch.full((5, 3), float("nan")), 2, "not finite in row 0"),
        (torch.tensor([[1.0, 0.0], [float("inf"), 0.0]]), 2, "not finite in row 1"),
        (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 2, "length 0 in row 1: wants unit length"),
        (3 * unit(5), 2, "length 3 in row 0: wants unit length"),
        (unit(0), 1, "features of 0 images"),
        (unit(1), 1, "features of 1 images"),
        (unit(5), 0, "k = 0 neighbours of 5 images: wants 1 to 5"),
        (unit(5), 6, "k = 6 neighbours of 5 images: wants 1 to 5"),
        (torch.ones(7), 2, r"shape \(7,\)"),
        (torch.ones(3, 3, dtype=torch.int64), 2, r"torch\.int64"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(features: torch.Tensor, k: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        nearest_neighbors(features, k)
    assert "\n" not in str(error.value)


def test_features_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(AllAlike, match="9000 features that are all the same"):
        nearest_neighbors(unit(1).repeat(9000, 1), 30)


@pytest.mark.parametrize("fields", [{"min_recall": 0}, {"sample": 0}, {"dimensions": 0}, {"cells": 0}, {"probes": 3}])
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SearchConfig(**fields)


def test_cells_find_the_recall_that_is_asked_for() -> None:
    features = crowd(3000)
    config = SearchConfig(exact_up_to=1000, dimensions=24, min_recall=0.95, sample=300)
    found = nearest_neighbors(features, 20, config=config)
    exact = nearest_neighbors(features, 20, config=EXACT)
    assert found.recall is not None
    assert 0.95 <= found.recall <= 1
    shares = [len(np.intersect1d(a[1:], b[1:])) / 19 for a, b in zip(found.indices_NK, exact.indices_NK, strict=True)]
    assert np.mean(shares) == pytest.approx(found.recall, abs=0.02)


def test_what_cells_find_is_ranked_by_the_whole_embeddings() -> None:
    features = crowd(3000)
    found = nearest_neighbors(features, 10, config=SearchConfig(exact_up_to=0, dimensions=8, min_recall=0.5))
    np.testing.assert_array_equal(found.indices_NK[:, 0], np.arange(3000))
    assert (np.diff(found.similarities_NK, axis=1) <= 0).all()
    own = features[:, None] * features[torch.from_numpy(found.indices_NK.astype(np.int64))]
    np.testing.assert_allclose(found.similarities_NK, own.sum(dim=2), atol=1e-5)


def test_searching_all_cells_by_all_components_misses_nothing() -> None:
    features = crowd(1000)
    config = SearchConfig(exact_up_to=0, dimensions=64, cells=10, min_recall=1)
    found = nearest_neighbors(features, 10, config=config)
    assert found.recall is not None
    assert found.recall > 0.999
    nearest = nearest_neighbors(features, 10, config=EXACT)
    # Candidates come from float16, so that of nearly equal ones the wrong one may be left out.
    assert np.mean(np.abs(found.similarities_NK - nearest.similarities_NK) < 1e-5) > 0.999


def test_a_search_that_cannot_have_the_recall_ends_and_says_what_it_has() -> None:
    strewn = unit(5000, width=200)
    config = SearchConfig(exact_up_to=0, dimensions=4, compared=20, min_recall=1)
    recall = nearest_neighbors(strewn, 5, config=config).recall
    assert recall is not None
    assert 0 < recall < 0.5


def test_an_image_alone_in_its_cell_still_has_all_its_neighbours() -> None:
    features = crowd(1000)
    config = SearchConfig(exact_up_to=0, cells=600, min_recall=0.01)
    found = nearest_neighbors(features, 30, config=config)
    assert (np.sort(found.indices_NK, axis=1)[:, 1:] > np.sort(found.indices_NK, axis=1)[:, :-1]).all()  # all different
    assert (found.indices_NK >= 0).all()


def test_cells_give_the_same_neighbours_each_time() -> None:
    features = crowd(2000).half()
    config = SearchConfig(exact_up_to=0, min_recall=0.9)
    first, second = (nearest_neighbors(features, 10, config=config) for _ in range(2))
    np.testing.assert_array_equal(first.indices_NK, second.indices_NK)
    assert first.recall == second.recall


def test_neighbours_of_neighbours_find_what_cells_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    features = crowd(5000)
    config = SearchConfig(exact_up_to=0, dimensions=4, compared=50, min_recall=0.97)
    assert nearest_neighbors(features, 10, config=config).recall > 0.97  # type: ignore[operator]
    monkeypatch.setattr(approximate, "MAX_ROUNDS", 0)
    assert nearest_neighbors(features, 10, config=config).recall < 0.6  # type: ignore[operator]


def test_little_memory_shortens_the_lists_before_the_search_is_refused() -> None:
    features, config = crowd(1000), SearchConfig(exact_up_to=0, min_recall=0.9)
    assert nearest_neighbors(features, 10, config=config, memory_gib=3e-4).indices_NK.shape == (1000, 10)
    with pytest.raises(InputError, match=r"takes 0\.0002 GiB, more than the 1e-05 allowed"):
        nearest_neighbors(features, 10, config=config, memory_gib=1e-5)


def test_the_nearest_of_two_may_be_asked_for() -> None:
    features = crowd(500)
    config = SearchConfig(exact_up_to=0)
    assert nearest_neighbors(features, 1, config=config).indices_NK.tolist() == [[i] for i in range(500)]
    found = nearest_neighbors(features, 2, config=config)
    assert found.recall is not None
    assert found.recall > 0.98
