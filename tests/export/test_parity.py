from __future__ import annotations

import numpy as np
import pytest

from reidge.edge.bundle import Parity
from reidge.export.parity import INT8_GATE, compare, neighbour_overlap


def unit(*rows: tuple[float, float]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    values = np.array(rows, dtype=np.float32)
    result: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = values / np.linalg.norm(values, axis=1, keepdims=True)
    return result


def test_equal_embeddings_agree_in_everything() -> None:
    embeddings_ND = unit((1, 0), (0, 1), (3, 4))
    parity = compare(embeddings_ND, embeddings_ND)
    assert parity.cosine_mean == pytest.approx(1)
    assert (parity.crops, parity.max_abs_diff, parity.neighbour_overlap) == (3, 0, 1)


def test_figures_are_those_worked_out_by_hand() -> None:
    parity = compare(unit((1, 0), (0, 1)), unit((1, 0), (3, 4)))  # cosines 1 and 0.8
    assert parity.cosine_mean == pytest.approx(0.9)
    assert parity.cosine_p1 == pytest.approx(0.802)
    assert parity.max_abs_diff == pytest.approx(0.6)


def test_neighbour_overlap_counts_shared_neighbours() -> None:
    angles = np.linspace(0, 1, 21)  # 21 crops, so 10 of 20 others
    line_ND = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert neighbour_overlap(line_ND, line_ND) == 1
    # The first crop's ten nearest are its ten farthest when it moves to the other end.
    moved_ND = line_ND.copy()
    moved_ND[0] = np.cos(1.05), np.sin(1.05)
    assert 0 < neighbour_overlap(line_ND, moved_ND) < 0.95


def test_a_single_crop_has_no_neighbours_to_lose() -> None:
    assert compare(unit((1, 0)), unit((1, 0))).neighbour_overlap == 1


@pytest.mark.parametrize(("mean", "p1", "passes"), [(0.991, 0.971, True), (0.989, 0.98, False), (0.995, 0.969, False)])
def test_the_gate_wants_both_the_mean_and_the_first_percentile(mean: float, p1: float, passes: bool) -> None:
    parity = Parity(crops=1, cosine_mean=mean, cosine_p1=p1, max_abs_diff=0, neighbour_overlap=1)
    assert INT8_GATE.passes(parity) is passes


def test_nan_never_passes_the_gate() -> None:
    nan = float("nan")
    assert not INT8_GATE.passes(Parity(crops=1, cosine_mean=nan, cosine_p1=nan, max_abs_diff=0, neighbour_overlap=0))
