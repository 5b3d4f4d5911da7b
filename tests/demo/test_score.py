from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import trackeval

from reidge.demo.render import Truth
from reidge.demo.score import Box, FrameMatch, iou, match_frame, score_run, summarise
from reidge.demo.site import write_mot

if TYPE_CHECKING:
    from pathlib import Path


def true_box(pid: int, x: int, *, frame: int = 1, visibility: float = 1.0) -> Truth:
    return Truth(frame=frame, pid=pid, x1=x, y1=0, x2=x + 10, y2=20, visibility=visibility)


def found_box(identity: str, x: float) -> Box:
    return Box(identity=identity, corners=(x, 0, x + 10, 20))


def score(matches: list[FrameMatch]) -> float:
    return summarise(matches, identities_true=0, identities_found=0).idf1


def test_iou_of_half_shifted_boxes_is_a_third() -> None:
    assert iou([(0, 0, 10, 10)], [(5, 0, 15, 10), (10, 0, 20, 10)]) == pytest.approx(np.array([[1 / 3, 0]]))


def test_one_person_under_one_identity_is_perfect() -> None:
    assert score([match_frame([true_box(1, 0)], [found_box("a", 1)])] * 3) == 1.0


def test_a_person_under_two_identities_loses_the_smaller_part() -> None:
    matches = [match_frame([true_box(1, 0)], [found_box("a", 0)])] * 3
    matches += [match_frame([true_box(1, 0)], [found_box("b", 0)])]
    assert score(matches) == pytest.approx(0.75)


def test_two_people_under_one_identity_lose_the_smaller_part() -> None:
    matches = [match_frame([true_box(1, 0)], [found_box("a", 0)])] * 3
    matches += [match_frame([true_box(2, 0)], [found_box("a", 0)])]
    assert score(matches) == pytest.approx(0.75)


def test_people_who_are_hardly_visible_do_not_count_either_way() -> None:
    hidden = match_frame([true_box(1, 0, visibility=0.1)], [found_box("a", 0)])
    assert (hidden.true_boxes, hidden.predicted_boxes, hidden.pairs) == (0, 0, ())


def test_a_box_where_nobody_is_costs_precision() -> None:
    result = summarise(
        [match_frame([true_box(1, 0)], [found_box("a", 0), found_box("b", 100)])], identities_true=1, identities_found=2
    )
    assert (result.precision, result.recall) == (0.5, 1.0)
    assert result.idf1 == pytest.approx(2 / 3)


def test_idf1_equals_that_of_trackeval() -> None:
    rng = np.random.default_rng(3)
    matches, ids, boxes, similarities = [], [[], []], [0, 0], []  # type: ignore[var-annotated]
    for _ in range(60):
        true = [true_box(pid, 12 * pid) for pid in range(6) if rng.random() < 0.8]
        seen = [t for t in true if rng.random() < 0.9]
        found = [found_box(str((t.pid + int(rng.random() < 0.25)) % 6), t.x1 + rng.uniform(0, 5)) for t in seen]
        found = list({box.identity: box for box in found}.values())
        matches.append(match_frame(true, found))
        ids[0].append(np.array([t.pid for t in true], dtype=int))
        ids[1].append(np.array([int(str(b.identity)) for b in found], dtype=int))
        similarities.append(iou([(t.x1, t.y1, t.x2, t.y2) for t in true], [b.corners for b in found]))
        boxes = [boxes[0] + len(true), boxes[1] + len(found)]
    expected = trackeval.metrics.Identity({"PRINT_CONFIG": False}).eval_sequence(
        {
            "num_gt_ids": 6,
            "num_tracker_ids": 6,
            "num_gt_dets": boxes[0],
            "num_tracker_dets": boxes[1],
            "gt_ids": ids[0],
            "tracker_ids": ids[1],
            "similarity_scores": similarities,
        }
    )
    assert score(matches) == pytest.approx(float(expected["IDF1"]), abs=1e-12)


def test_a_run_is_scored_over_all_cameras_together(tmp_path: Path) -> None:
    tracks = tmp_path / "tracks"
    tracks.mkdir()
    for camid, pids in (("cam1", [1]), ("cam2", [1, 2])):
        truths = [true_box(pid, 100 * pid, frame=frame) for pid in pids for frame in (1, 2)]
        write_mot(tmp_path / "truth" / camid, truths, frames=2, fps=10)
        rows = [f"{t.frame - 1},{t.pid},{t.x1},{t.y1},{t.x2},{t.y2},0.0" for t in truths]
        (tracks / f"{camid}.csv").write_text("\n".join(["frame,track_id,x1,y1,x2,y2,captured_at", *rows]) + "\n")
    (tracks / "identities.csv").write_text("camid,track_id,global_id\ncam1,1,7\ncam2,1,8\ncam2,2,\n")
    result = score_run(tmp_path / "truth", tracks)
    # Person 1 is identity 7 in one camera and 8 in the other: half of their 4 boxes agree; person 2 is a track of its
    # own without an identity, which is right.
    assert result.idf1 == pytest.approx(4 / 6)
    assert (result.identities_true, result.identities_found, result.detection_f1) == (2, 2, 1.0)
