from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from reidge.train.sparse import TooManyEntries
from reidge.train.sparse_torch import (
    ONE,
    TERM_BYTES,
    DeviceRows,
    cut,
    make_device_rows,
    range_sums,
    ranges,
    sums_by_key,
    whole,
)

if TYPE_CHECKING:
    from reidge.train.sparse_torch import Block


def stairs(first: int, last: int) -> Block:
    """Row i has i % 4 entries, each its own number."""
    counts_R = torch.arange(first, last) % 4
    columns_E = torch.arange(first, last).repeat_interleave(counts_R).int()
    return counts_R, columns_E, columns_E.float()


def test_rows_are_cut_where_there_is_no_more_room() -> None:
    assert cut(torch.tensor([3, 3, 3, 1, 0]), 6) == [(0, 2), (2, 5)]
    assert cut(torch.tensor([3, 3, 3, 1, 0]), 6, most=1) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert cut(torch.zeros(0, dtype=torch.int64), 6) == []


def test_a_row_larger_than_the_room_is_a_block_of_its_own() -> None:
    assert cut(torch.tensor([1, 9, 1, 9]), 6) == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert cut(torch.tensor([1, 9]), 0) == [(0, 1), (1, 2)]


def test_ranges_are_laid_end_to_end() -> None:
    lists, numbers = ranges(torch.tensor([5, 0, 7, 2]), torch.tensor([2, 0, 1, 3]))
    assert lists.tolist() == [0, 0, 2, 3, 3, 3]
    assert numbers.tolist() == [5, 6, 7, 2, 3, 4]


def test_terms_of_a_key_are_added_exactly_in_any_order() -> None:
    keys = torch.tensor([4, 1, 4, 4, 1, 9], dtype=torch.int32)
    terms = whole(torch.tensor([0.5, 0.25, 0.25, 0.125, 1, 0]))
    found, sums = sums_by_key(keys, terms)
    assert found.tolist() == [1, 4, 9]
    assert (sums / ONE).tolist() == [1.25, 0.875, 0]
    many = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert sums_by_key(torch.zeros(1000), whole(many))[1] == sums_by_key(torch.zeros(1000), whole(many.flip(0)))[1]


def test_sums_of_a_range_without_terms_are_nothing() -> None:
    assert range_sums(torch.tensor([1, 2, 4]), torch.tensor([0, 2, 0, 1, 0])).tolist() == [0, 3, 0, 4, 0]
    assert range_sums(torch.zeros(0, dtype=torch.int64), torch.tensor([0, 0])).tolist() == [0, 0]


def test_blocks_are_joined_in_order() -> None:
    rows = make_device_rows(stairs, [(0, 7), (7, 8), (8, 50)], max_entries=100)
    assert rows.counts.tolist() == [i % 4 for i in range(50)]
    assert rows.columns.tolist() == [i for i in range(50) for _ in range(i % 4)]
    assert rows.values.tolist() == rows.columns.tolist()


def test_one_entry_too_many_is_refused() -> None:
    entries = sum(i % 4 for i in range(50))
    assert len(make_device_rows(stairs, [(0, 25), (25, 50)], max_entries=entries).columns) == entries
    with pytest.raises(TooManyEntries):
        make_device_rows(stairs, [(0, 25), (25, 50)], max_entries=entries - 1)


@pytest.mark.parametrize("terms", [0, 1, 3, 100])
def test_rows_become_columns_whatever_the_blocks(terms: int) -> None:
    # [[1, 2, 0], [0, 3, 0], [4, 0, 0]]
    rows = DeviceRows(
        starts=torch.tensor([0, 2, 3, 4]),
        columns=torch.tensor([0, 1, 1, 0], dtype=torch.int32),
        values=torch.tensor([1.0, 2, 3, 4]),
    )
    columns = rows.transposed(3, block_bytes=terms * TERM_BYTES)
    assert columns.starts.tolist() == [0, 2, 4, 4]
    assert columns.columns.tolist() == [0, 2, 0, 1]
    assert columns.values.tolist() == [1, 4, 2, 3]
