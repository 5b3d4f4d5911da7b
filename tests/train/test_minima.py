from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from reidge.train import minima
from reidge.train.minima import MinimaIndex
from reidge.train.sparse import SparseRows

ROOM = 10**6


def rows_of(dense: np.ndarray) -> SparseRows:
    sparse = csr_matrix(dense.astype(np.float32))
    return SparseRows(starts=sparse.indptr.astype(np.int64), columns=sparse.indices, values=sparse.data)


def random_rows(number: int, seed: int) -> np.ndarray:
    """Rows that sum to 1; a few columns are in most of them, with a lot or a little."""
    rng = np.random.default_rng(seed)
    dense = rng.random((number, number)) * (rng.random((number, number)) < 0.05)
    dense[:, :4] = rng.random((number, 4)) * (rng.random((number, 4)) < 0.8) * rng.choice([0.1, 3], number)[:, None]
    dense[np.arange(number), np.arange(number)] += 0.1
    return np.asarray(dense / dense.sum(axis=1, keepdims=True), dtype=np.float32)


def test_shared_minima_by_hand() -> None:
    index = MinimaIndex.build(rows_of(np.array([[0.5, 0.5, 0], [0.75, 0, 0.25], [0, 0, 1]])))
    counts, columns, shared = index.near(0, 3, min_shared=0.25, room=ROOM)
    assert counts.tolist() == [2, 3, 2]
    assert columns.tolist() == [0, 1, 0, 1, 2, 1, 2]
    np.testing.assert_allclose(shared, [1, 0.5, 0.5, 1, 0.25, 0.25, 1])


@pytest.mark.parametrize("heavy", [2048, 10, 0])
@pytest.mark.parametrize("min_shared", [0.7, 0.4, 0.1])
def test_no_pair_is_lost_to_heavy_columns(heavy: int, min_shared: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minima, "HEAVY", heavy)
    dense = random_rows(80, seed=0)
    expected = np.minimum(dense[:, None], dense[None]).sum(axis=2)
    counts, columns, shared = MinimaIndex.build(rows_of(dense)).near(0, 80, min_shared=min_shared, room=ROOM)
    found = np.zeros((80, 80))
    found[np.repeat(np.arange(80), counts), columns] = shared
    np.testing.assert_allclose(found, np.where(expected >= min_shared, expected, 0), atol=1e-6)
    assert np.array_equal(found, found.T)  # to the last bit: both directions add in the same order


def test_a_hub_does_not_bring_all_pairs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # Every row holds a third in the hub's column, too little for 0.5, and the rest with one other row.
    number = 600
    dense = np.zeros((number, number), dtype=np.float32)
    dense[:, 0] = 1 / 3
    dense[np.arange(number), 1 + np.arange(number) // 2] += 2 / 3
    seen = []
    for heavy in (number, 100):
        monkeypatch.setattr(minima, "HEAVY", heavy)
        index = MinimaIndex.build(rows_of(dense))
        lengths = np.diff(index.columns.starts)
        light = [index.rows.columns[a:b] for a, b in zip(index.rows.starts[:-1], index.light_stops, strict=True)]
        seen.append(sum(int(lengths[columns].sum()) for columns in light))
        assert (index.near(0, number, min_shared=0.5, room=ROOM)[0] == 2).all()
    assert seen[0] > number * number
    assert seen[1] <= 3 * number


def test_a_block_that_has_no_room_ends_early() -> None:
    everything = np.full((200, 200), 1 / 200)
    columns = MinimaIndex.build(rows_of(everything)).near(0, 200, min_shared=0.5, room=1000)[1]
    assert 1000 < len(columns) <= 1200


def test_rows_are_compared_with_the_last_ones_alone() -> None:
    dense = np.array([[0.5, 0.5, 0], [0.75, 0, 0.25], [0, 0, 1]])
    counts, columns, shared = MinimaIndex.of_last(rows_of(dense), 1).near(0, 1, min_shared=0, room=ROOM)
    assert (counts.tolist(), columns.tolist(), shared.tolist()) == ([1], [0], [0.5])
