from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from reidge.train import minima_torch
from reidge.train.minima_torch import DeviceMinima
from reidge.train.sparse_torch import TERM_BYTES, DeviceRows, sums_by_key

if TYPE_CHECKING:
    from numpy.typing import NDArray


def rows_of(dense: NDArray[np.float32]) -> DeviceRows:
    sparse = csr_matrix(dense)
    return DeviceRows(
        starts=torch.from_numpy(sparse.indptr).long(),
        columns=torch.from_numpy(sparse.indices),
        values=torch.from_numpy(sparse.data),
    )


def random_rows(number: int) -> NDArray[np.float32]:
    """Rows that sum to 1; a few columns are in most of them, with a lot or a little."""
    rng = np.random.default_rng(0)
    dense = rng.random((number, number)) * (rng.random((number, number)) < 0.05)
    dense[:, :4] = rng.random((number, 4)) * (rng.random((number, 4)) < 0.8) * rng.choice([0.1, 3], number)[:, None]
    dense[np.arange(number), np.arange(number)] += 0.1
    return np.asarray(dense / dense.sum(axis=1, keepdims=True), dtype=np.float32)


def shared(dense: NDArray[np.float32], min_shared: float, *, terms: int = 1000) -> NDArray[np.float64]:
    found = np.zeros(dense.shape)
    for pairs in DeviceMinima.build(rows_of(dense), block_bytes=terms * TERM_BYTES).near(min_shared):
        assert pairs.rows_U.max() < pairs.last - pairs.first
        found[(pairs.rows_U + pairs.first).numpy(), pairs.others_U.numpy()] = pairs.sums_U.numpy()
    return found


def test_shared_minima_by_hand() -> None:
    dense = np.array([[0.5, 0.5, 0], [0.75, 0, 0.25], [0, 0, 1]], dtype=np.float32)
    assert shared(dense, 0.25).tolist() == [[1, 0.5, 0], [0.5, 1, 0.25], [0, 0.25, 1]]
    assert shared(dense, 0.3).tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("heavy", [2048, 10, 0])
@pytest.mark.parametrize("min_shared", [0.7, 0.4, 0.1])
def test_no_pair_is_lost_to_heavy_columns(heavy: int, min_shared: float, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = random_rows(80)
    plain = shared(dense, min_shared)
    expected = np.minimum(dense[:, None], dense[None]).sum(axis=2)
    np.testing.assert_allclose(plain, np.where(expected >= min_shared, expected, 0), atol=1e-6)
    monkeypatch.setattr(minima_torch, "HEAVY", heavy)
    np.testing.assert_array_equal(shared(dense, min_shared), plain)


@pytest.mark.parametrize("terms", [0, 1, 7, 100])
def test_blocks_smaller_than_a_row_change_nothing(terms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minima_torch, "HEAVY", 10)
    dense = random_rows(30)
    np.testing.assert_array_equal(shared(dense, 0.4, terms=terms), shared(dense, 0.4, terms=10**5))


def test_keys_of_more_rows_than_fit_four_bytes_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    dense = random_rows(30)
    whole = shared(dense, 0.4)
    monkeypatch.setattr(minima_torch, "MAX_KEYS", 70)
    blocks = list(DeviceMinima.build(rows_of(dense), block_bytes=1000 * TERM_BYTES).near(0.4))
    assert max(pairs.last - pairs.first for pairs in blocks) == 2
    np.testing.assert_array_equal(shared(dense, 0.4), whole)


def test_a_hub_does_not_bring_all_pairs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every row holds a third in the hub's column, too little for 0.5, and the rest with one other row.
    number = 600
    dense = np.zeros((number, number), dtype=np.float32)
    dense[:, 0] = 1 / 3
    dense[np.arange(number), 1 + np.arange(number) // 2] += 2 / 3
    terms: list[int] = []

    def counted(keys_T: torch.Tensor, terms_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        terms.append(len(keys_T))
        return sums_by_key(keys_T, terms_T)

    monkeypatch.setattr(minima_torch, "sums_by_key", counted)
    plain = shared(dense, 0.5)
    assert sum(terms) > number * number
    terms.clear()
    monkeypatch.setattr(minima_torch, "HEAVY", 100)
    np.testing.assert_array_equal(shared(dense, 0.5), plain)
    assert sum(terms) <= 3 * number
    assert ((plain > 0).sum(axis=1) == 2).all()
