from __future__ import annotations

import numpy as np
import pytest

from reidge.edge.bundle import Accuracy, Parity
from reidge.export.parity import INT8_GATE, Verdict, compare, neighbour_overlap


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


def parity_of(mean: float, p1: float, overlap: float) -> Parity:
    return Parity(crops=1, cosine_mean=mean, cosine_p1=p1, max_abs_diff=0, neighbour_overlap=overlap)


@pytest.mark.parametrize(
    ("figures", "missed"),
    [
        ((0.99, 0.97, 0.9), ()),
        ((0.989, 0.98, 1), ("mean cosine 0.9890 (at least 0.99)",)),
        ((0.995, 0.969, 1), ("first percentile 0.9690 (at least 0.97)",)),
        ((1, 1, 0.89), ("neighbour overlap 0.8900 (at least 0.9)",)),
    ],
)
def test_the_gate_wants_the_mean_the_first_percentile_and_the_neighbours(
    figures: tuple[float, float, float], missed: tuple[str, ...]
) -> None:
    verdict = Verdict(parity=parity_of(*figures), checks=INT8_GATE.checks(parity_of(*figures)))
    assert verdict.missed == missed
    assert INT8_GATE.passes(verdict.parity) == verdict.passed == (not missed)


def accuracy_of(mean_average_precision: float, rank1: float) -> Accuracy:
    return Accuracy(mAP=mean_average_precision, rank1=rank1, split="tests", queries=1, gallery=1)


@pytest.mark.parametrize(
    ("found", "missed"),
    [
        (accuracy_of(0.7, 0.9), ()),
        (accuracy_of(0.8, 1.0), ()),  # better than float is fine
        (accuracy_of(0.69, 0.896), ("mAP loss 0.0100 (at most 0.005)",)),
        (accuracy_of(0.7, 0.89), ("rank-1 loss 0.0100 (at most 0.005)",)),
    ],
)
def test_with_labels_the_gate_bounds_what_is_lost(found: Accuracy, missed: tuple[str, ...]) -> None:
    parity = parity_of(1, 1, 1)
    checks = INT8_GATE.checks(parity, found, accuracy_of(0.7, 0.9))
    assert len(checks) == 5
    assert Verdict(parity=parity, checks=checks).missed == missed


def test_nan_never_passes_the_gate() -> None:
    nan = float("nan")
    assert not INT8_GATE.passes(Parity(crops=1, cosine_mean=nan, cosine_p1=nan, max_abs_diff=0, neighbour_overlap=0))


def test_an_embedding_that_is_not_finite_is_like_nothing() -> None:
    parity = compare(unit((1, 0), (0, 1)), np.array([[1, 0], [np.nan, 0]], dtype=np.float32))
    assert (parity.cosine_mean, parity.max_abs_diff) == (0.5, 1)
    assert not INT8_GATE.passes(parity)
