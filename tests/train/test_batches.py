from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from reidge.train.batches import Batch, Part, ahead

if TYPE_CHECKING:
    from collections.abc import Iterator


def batch(number: int) -> Batch:
    labels = torch.arange(number, number + 8)
    part = Part(views_b3HW=labels.float(), teacher_views_b3HW=None, labels_b=labels, indices_b=labels)
    return Batch(labels_B=labels, indices_B=labels, own=part, unit=2)


def made(count: int, log: list[int]) -> Iterator[Batch]:
    for number in range(count):
        log.append(number)
        yield batch(number)


def test_batches_made_ahead_come_in_order_and_none_is_lost() -> None:
    log: list[int] = []
    assert [int(b.labels_B[0]) for b in ahead(made(5, log), 2, None)] == [0, 1, 2, 3, 4]
    assert log == [0, 1, 2, 3, 4]


def test_no_more_are_made_than_are_asked_for_and_closing_ends_it() -> None:
    log: list[int] = []
    batches = ahead(made(100, log), 2, None)
    next(batches)
    batches.close()
    assert len(log) <= 4  # one taken, two waiting, one in the making


def test_what_goes_wrong_in_the_making_is_raised_where_it_is_used() -> None:
    def failing() -> Iterator[Batch]:
        yield batch(0)
        raise ValueError("torn")

    batches = ahead(failing(), 2, None)
    assert int(next(batches).labels_B[0]) == 0
    with pytest.raises(ValueError, match="torn"):
        next(batches)


@pytest.mark.parametrize(
    ("count", "group", "sizes"), [(1, 2, [8]), (2, 2, [4, 4]), (3, 2, [2, 2, 4]), (4, 4, [4, 4]), (2, 64, [8])]
)
def test_parts_keep_groups_whole_and_leave_nothing_out(count: int, group: int, sizes: list[int]) -> None:
    parts = batch(0).parts(count, group)
    assert [len(part.labels_b) for part in parts] == sizes
    torch.testing.assert_close(torch.cat([part.labels_b for part in parts]), torch.arange(8))
