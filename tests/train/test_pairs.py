from __future__ import annotations

import numpy as np
import pytest
import torch
from numba import njit
from torch.nn import functional

from reidge.train import pairs
from reidge.train.pairs import pair_similarities


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("at_once", [3, 1 << 14])
def test_similarities_of_pairs_are_those_of_their_rows(
    dtype: torch.dtype, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", at_once)
    generator = torch.Generator().manual_seed(0)
    features = functional.normalize(torch.randn(20, 33, generator=generator), dim=1).to(dtype)
    images = np.array([4, 0, 7, 19])
    starts = np.array([0, 2, 2, 9, 10])  # the second has no pairs, the third more than a block
    others = np.array([1, 4, 5, 6, 7, 8, 9, 10, 11, 0], dtype=np.int32)
    x = features.float()
    expected = (x[torch.from_numpy(np.repeat(images, np.diff(starts)))] * x[torch.from_numpy(others).long()]).sum(dim=1)
    np.testing.assert_allclose(pair_similarities(features, images, starts, others), expected, atol=1e-6)


def test_no_pairs_have_no_similarities() -> None:
    none = pair_similarities(torch.eye(3), np.arange(2), np.zeros(3, dtype=np.int64), np.empty(0, dtype=np.int32))
    assert none.shape == (0,)


@pytest.mark.parametrize("in_hardware", [False, pairs.HALF_IN_HARDWARE])
def test_every_finite_float16_is_read_right(in_hardware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "HALF_IN_HARDWARE", in_hardware)
    compiled = njit(pairs._half_dots.py_func)  # anew, for the processor at hand
    bits = np.arange(1 << 16, dtype=np.uint16)
    finite = bits[np.isfinite(bits.view(np.float16))]
    one = np.float16(1).view(np.uint16)
    rows = np.concatenate([[one], finite])[:, None]  # the first is compared with all others
    read = np.empty(len(finite), dtype=np.float32)
    others = np.arange(1, len(rows), dtype=np.int32)
    compiled(rows, np.array([0]), np.array([0, len(finite)]), others, read)
    np.testing.assert_array_equal(read, finite.view(np.float16).astype(np.float32))
