from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reidge.export.cost import multiply_adds, share_of

if TYPE_CHECKING:
    from onnx import ModelProto


def test_multiply_adds_are_those_worked_out_by_hand(two_blocks: ModelProto) -> None:
    # 4 x 2 positions of 16 channels, each a sum over 3 x 9 weights, or over 9 where a channel sees itself alone.
    assert multiply_adds(two_blocks) == {"stem": 4 * 2 * 16 * 27, "deep": 4 * 2 * 16 * 9}


def test_a_share_is_of_all_multiply_adds() -> None:
    assert share_of(["b"], {"a": 30, "b": 10}) == pytest.approx(0.25)
    assert share_of([], {}) == 0
