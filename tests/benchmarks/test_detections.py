from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.demo.render import Truth

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def person(pid: int, left: int = 100, *, frame: int = 1, visibility: float = 1.0) -> Truth:
    return Truth(frame=frame, pid=pid, x1=left, y1=100, x2=left + 50, y2=220, visibility=visibility)


@pytest.fixture(scope="module")
def detections(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("detections")


def test_a_faultless_detector_tells_the_truth(detections: ModuleType) -> None:
    perfect = detections.DetectorFaults(
        looseness=0, looseness_hidden=0, score_spread=0, misses=0, duplicates=0, ghosts=0
    )
    found = detections.SimulatedDetector(perfect).detect([person(7), person(9, 400)], 0.0)
    assert dict(zip(found.pids_N.tolist(), found.detections.boxes_N4.tolist(), strict=True)) == {
        7: [100, 100, 150, 220],
        9: [400, 100, 450, 220],
    }
    assert found.detections.scores_N == pytest.approx(0.9, abs=0.01)


def test_the_same_seed_finds_the_same(detections: ModuleType) -> None:
    def run(seed: int) -> list[list[float]]:
        detector = detections.SimulatedDetector(seed=seed)
        frames = [detector.detect([person(1, 5 * t)], t / 10).detections for t in range(30)]
        return [row for frame in frames for row in frame.boxes_N4.tolist()]

    assert run(3) == run(3) != run(4)


def test_the_hidden_are_found_less_often_and_less_surely(detections: ModuleType) -> None:
    detector = detections.SimulatedDetector(detections.DetectorFaults(ghosts=0, duplicates=0))
    scores: dict[int, list[float]] = {1: [], 2: [], 3: []}
    for t in range(2000):
        people = [person(1), person(2, 300, visibility=0.4), person(3, 500, visibility=0.08)]
        found = detector.detect(people, t / 10)
        for pid, score in zip(found.pids_N.tolist(), found.detections.scores_N.tolist(), strict=True):
            scores[pid].append(score)
    assert 1900 < len(scores[1]) < 2000  # 2 in 100 are missed
    assert len(scores[3]) < 400 < len(scores[2]) < len(scores[1])
    assert np.mean(scores[1]) > np.mean(scores[2]) + 0.2


def test_errors_last_from_frame_to_frame(detections: ModuleType) -> None:
    detector = detections.SimulatedDetector(detections.DetectorFaults(ghosts=0, duplicates=0, misses=0, memory=0.25))
    left_T = np.array([detector.detect([person(1)], t / 10).detections.boxes_N4[0, 0] for t in range(3000)])
    together = np.corrcoef(left_T[:-1], left_T[1:])[0, 1]
    assert together == pytest.approx(np.exp(-0.1 / 0.25), abs=0.06)
    assert left_T.std() == pytest.approx(0.03 * 50, rel=0.1)


def test_of_two_people_behind_each_other_one_is_found(detections: ModuleType) -> None:
    perfect = detections.DetectorFaults(
        looseness=0, looseness_hidden=0, score_spread=0, misses=0, duplicates=0, ghosts=0
    )
    people = [person(1, 102, visibility=0.3), person(2, 100)]  # IoU 48 / 52
    assert detections.SimulatedDetector(perfect).detect(people, 0.0).pids_N.tolist() == [2]


def test_ghosts_come_as_often_as_asked_and_are_nobody(detections: ModuleType) -> None:
    faults = detections.DetectorFaults(ghosts=1.0, ghost_seconds=0.5, min_score=0.01)
    detector = detections.SimulatedDetector(faults)
    found = [detector.detect([], t / 10) for t in range(4000)]
    assert {int(pid) for frame in found for pid in frame.pids_N} == {detections.NOBODY}
    # One a second, there for half a second; counted in frames from the one it comes in, which adds half a frame.
    assert np.mean([len(frame.pids_N) for frame in found]) == pytest.approx(0.55, abs=0.08)


def test_an_empty_frame_gives_no_detections(detections: ModuleType) -> None:
    found = detections.SimulatedDetector().detect([], 0.0)
    assert (len(found.detections), len(found.pids_N)) == (0, 0)
