from __future__ import annotations

import pytest

from reidge.edge.agreement import compare_detections
from reidge.edge.detection import Detections


def test_a_box_is_found_again_where_another_covers_half_of_both() -> None:
    reference = Detections.from_arrays([[0, 0, 10, 10], [20, 0, 30, 10]], [0.9, 0.8])
    # The first is 8 of 12 columns the same; the second has moved away.
    found = Detections.from_arrays([[2, 0, 12, 10], [50, 0, 60, 10]], [0.8, 0.7])
    agreement = compare_detections([reference], [found])
    assert (agreement.frames, agreement.boxes) == (1, 2)
    assert (agreement.recall, agreement.precision) == (0.5, 0.5)
    assert agreement.mean_iou == pytest.approx(8 / 12)
    assert agreement.score_shift == pytest.approx(-0.1)
    assert agreement.f1 == 0.5


def test_a_score_that_falls_a_little_below_sure_loses_no_box() -> None:
    reference = Detections.from_arrays([[0, 0, 10, 10]], [0.52])
    near = Detections.from_arrays([[0, 0, 10, 10]], [0.45])
    far = Detections.from_arrays([[0, 0, 10, 10]], [0.35])
    assert compare_detections([reference], [near]).recall == 1
    assert compare_detections([reference], [far]).recall == 0


def test_a_box_that_only_the_other_graph_sees_costs_precision() -> None:
    nobody, somebody = Detections.from_arrays([], []), Detections.from_arrays([[0, 0, 10, 10]], [0.9])
    agreement = compare_detections([nobody, somebody], [somebody, somebody])
    assert (agreement.recall, agreement.precision) == (1, 0.5)


def test_frames_without_anybody_agree() -> None:
    nobody = Detections.from_arrays([], [])
    agreement = compare_detections([nobody], [nobody])
    assert (agreement.boxes, agreement.recall, agreement.precision, agreement.mean_iou) == (0, 1, 1, 0)
    assert compare_detections([somebody_unsure()], [nobody]).boxes == 0


def somebody_unsure() -> Detections:
    return Detections.from_arrays([[0, 0, 10, 10]], [0.3])
