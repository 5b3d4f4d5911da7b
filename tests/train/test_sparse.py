from __future__ import annotations

import numpy as np
import pytest
import torch

from reidge.train import sparse
from reidge.train.sparse import SparseRows, TooManyEntries, make_rows


def stairs(first: int, last: int, room: int) -> sparse.Block:
    """Row i has i % 4 entries, each its own number."""
    counts = np.arange(first, last) % 4
    columns = np.repeat(np.arange(first, last, dtype=np.int32), counts)
    return counts, columns, columns.astype(np.float32)


def test_blocks_are_joined_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "ROWS_AT_ONCE", 7)
    rows = make_rows(stairs, 50, max_entries=100)
    np.testing.assert_array_equal(np.diff(rows.starts), np.arange(50) % 4)
    np.testing.assert_array_equal(rows.columns, np.repeat(np.arange(50), np.arange(50) % 4))
    np.testing.assert_array_equal(rows.values, rows.columns)


def test_one_entry_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "ROWS_AT_ONCE", 7)
    entries = int((np.arange(50) % 4).sum())
    assert len(make_rows(stairs, 50, max_entries=entries).columns) == entries
    with pytest.raises(TooManyEntries):
        make_rows(stairs, 50, max_entries=entries - 1)


def test_a_block_with_more_than_its_share_is_made_again_with_all_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "ROWS_AT_ONCE", 25)
    rooms: list[int] = []

    def uneven(first: int, last: int, room: int) -> sparse.Block:
        rooms.append(room)
        counts = np.full(last - first, 4 if first == 0 else 0)
        columns = np.zeros(int(counts.sum()), dtype=np.int32)
        return counts, columns, columns.astype(np.float32)

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    assert len(make_rows(uneven, 50, max_entries=100).columns) == 100
    torch.set_num_threads(threads)
    assert sorted(rooms)[-2:] == [25, 100]


def test_rows_become_columns() -> None:
    # [[1, 2, 0], [0, 3, 0], [4, 0, 0]]
    rows = SparseRows(
        starts=np.array([0, 2, 3, 4]),
        columns=np.array([0, 1, 1, 0], dtype=np.int32),
        values=np.array([1, 2, 3, 4], dtype=np.float32),
    )
    columns = rows.transposed(3)
    assert columns.starts.tolist() == [0, 2, 4, 4]
    assert columns.columns.tolist() == [0, 2, 0, 1]
    assert columns.values.tolist() == [1, 4, 2, 3]
    later = rows.from_row(1)
    assert (later.starts.tolist(), later.columns.tolist(), later.values.tolist()) == ([0, 1, 2], [1, 0], [3, 4])
