from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.nearest import PROJECTED, Projected, largest_of_each

if TYPE_CHECKING:
    from numpy.typing import NDArray


def embeddings(count: int, dim: int = 512, *, seed: int = 0) -> NDArray[np.float32]:
    """Directions with the falling spectrum that embeddings of an encoder have."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((count, dim), dtype=np.float32) * np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True), dtype=np.float32)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 1000, 1003])
@pytest.mark.parametrize("count", [1, 7, 40, 2000])
def test_the_largest_of_each_column_are_found_by_way_of_blocks(rows: int, count: int) -> None:
    found_MQ = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
    rows_QK = largest_of_each(found_MQ, count)
    for query, own_K in enumerate(rows_QK):
        expected = np.argsort(-found_MQ[:, query])[:count]
        assert sorted(own_K) == sorted(expected)


def test_what_is_proposed_in_fewer_dimensions_holds_the_nearest_in_all() -> None:
    gallery_MD = embeddings(20_000)
    nearest = Projected(gallery_MD, 20_000)
    assert nearest.basis_DP.shape == (512, PROJECTED)
    own_QD = gallery_MD[:100] + np.float32(0.5) * embeddings(100, seed=1)  # another picture of somebody
    own_QD /= np.linalg.norm(own_QD, axis=1, keepdims=True)
    best_Q = np.argmax(own_QD @ gallery_MD.T, axis=1)
    proposed_QK = nearest.propose(own_QD, 20_000, 32)
    assert all(best in proposed for best, proposed in zip(best_Q, proposed_QK, strict=True))


def test_rows_beyond_those_in_use_are_never_proposed() -> None:
    gallery_MD = embeddings(3000)
    nearest = Projected(gallery_MD, 5000)
    nearest.replace(0, 2999)
    assert set(nearest.propose(gallery_MD[:1], 2999, 2999)[0]) == set(range(2999))
