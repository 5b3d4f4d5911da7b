from __future__ import annotations

import json
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.demo.render import Truth
from reidge.edge.detection import Detections
from reidge.edge.tracker import Tracker, TrackerConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from reidge.edge.tracker import FrameTracker


@pytest.fixture(scope="module")
def contest(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("tracking_contest")


@pytest.fixture(scope="module")
def scenes(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("tracking_scenes")


def walk(scenes: ModuleType, frames: int = 20) -> list[object]:
    """Two people far apart who walk by, found as they are."""
    shots = []
    for t in range(frames):
        corners = [(20 + 6 * t, 50, 60 + 6 * t, 150), (500 - 6 * t, 200, 540 - 6 * t, 300)]
        truths = tuple(
            Truth(frame=t + 1, pid=pid, x1=x1, y1=y1, x2=x2, y2=y2, visibility=1.0)
            for pid, (x1, y1, x2, y2) in enumerate(corners, start=1)
        )
        shots.append(
            scenes.Shot(
                at=t / 10,
                truths=truths,
                detections=Detections.from_arrays(corners, [0.9, 0.9]),
                pids_N=np.array([1, 2]),
                embeddings_ND=None,
                image=None,
            )
        )
    return shots


def test_an_easy_scene_is_tracked_by_everybody(contest: ModuleType, scenes: ModuleType) -> None:
    shots = walk(scenes)
    everybody = {name: contest.peer(name, {}) for name in contest.PEERS} | {"ours": contest.ours(TrackerConfig())}
    for name, begin in everybody.items():
        table, seconds = contest.run(begin(10), shots)
        found = contest.score({"walk": table})
        # What a tracker does not report before it is sure of a person counts as missed.
        assert found["idf1"] > 90, name
        assert (found["switches"], len(seconds)) == (0, 20)


def test_two_people_who_swap_numbers_half_way_cost_half_of_the_idf1(contest: ModuleType, scenes: ModuleType) -> None:
    class Swapping:
        turn = 0

        def step(self, shot: object) -> object:
            self.turn += 1
            ids = [1, 2] if self.turn <= 10 else [2, 1]
            return contest.Step(ids_P=np.array(ids), boxes_P4=shot.detections.boxes_N4, seconds=0.0)  # type: ignore[attr-defined]

    table, _ = contest.run(Swapping(), walk(scenes))
    found = contest.score({"walk": table})
    assert found["idf1"] == contest.idf1({"walk": table}) == pytest.approx(50.0)
    assert found["switches"] == 2


def test_who_is_hardly_visible_counts_neither_way(contest: ModuleType, scenes: ModuleType) -> None:
    truth = Truth(frame=1, pid=1, x1=0, y1=0, x2=40, y2=100, visibility=0.1)
    shot = scenes.Shot(
        at=0.0, truths=(truth,), detections=Detections.from_arrays([], []), pids_N=np.empty(0, np.int64),
        embeddings_ND=None, image=None,
    )  # fmt: skip
    boxes_P4 = np.array([[0, 0, 40, 100], [200, 0, 240, 100]], dtype=np.float32)
    true, given, overlap_GP = contest.compare(
        shot, contest.Step(ids_P=np.array([5, 6]), boxes_P4=boxes_P4, seconds=0.0)
    )
    assert (true.tolist(), given.tolist(), overlap_GP.shape) == ([], [6], (0, 1))


def test_a_recording_tells_what_was_filmed(scenes: ModuleType, tmp_path: Path) -> None:
    kind = next(kind for kind in scenes.KINDS if kind.sway)
    scenes.film(kind, seed=7, seconds=1.0, encoder=None, path=tmp_path / "sway.npz")
    at_ten, at_five = (scenes.recall(tmp_path / "sway.npz", rate) for rate in (10, 5))
    assert ([shot.at for shot in at_five], len(at_ten)) == ([0.0, 0.2, 0.4, 0.6, 0.8], 10)
    assert at_five[1].truths == at_ten[2].truths
    assert {truth.frame for truth in at_ten[3].truths} == {4}
    assert all(shot.image is not None and shot.image.shape == (360, 640, 3) for shot in at_ten)
    # Boxes follow the swing: a detector with small faults still finds who is there.
    seen = {truth.pid for shot in at_ten for truth in shot.truths if truth.visibility > 0.5}
    assert seen & {int(pid) for shot in at_ten for pid in shot.pids_N}


def test_everybody_in_a_scene_is_one_person_with_one_way(scenes: ModuleType) -> None:
    rng = np.random.default_rng(0)
    crowd = next(kind for kind in scenes.KINDS if kind.name == "crowd")
    visits = scenes.plan(crowd, scenes.build_scene(0, rng), 20.0, rng)
    ways: dict[int, list[object]] = {}
    for visit in visits:
        ways.setdefault(visit.person.pid, []).append(visit)
    for way in ways.values():
        for before, after in pairwise(way):
            assert before.end == pytest.approx(after.start)  # type: ignore[attr-defined]
            assert before.target == pytest.approx(after.origin, abs=0.01)  # type: ignore[attr-defined]
    in_view = np.mean([sum(v.start <= t < v.end for v in visits) for t in np.arange(0, 20, 0.5)])
    assert 8 < in_view < 25


def test_everybody_is_measured_and_the_tables_are_written(
    benchmark: Callable[[str], ModuleType], scenes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = benchmark("tracking")
    monkeypatch.setattr(tracking, "KINDS", (scenes.KINDS[0], scenes.KINDS[-1]))
    tracking.ensure(tmp_path, [5], seconds=1.0, bundle=None)
    found = {name: {"settings": {"lost_track_buffer": 20}, "idf1_default": 1.0, "idf1": 2.0} for name in tracking.PEERS}
    result = tracking.report(tmp_path, [5], found)
    assert [entry["name"] for entry in result["contestants"]] == [
        *tracking.PEERS,
        *(f"{name}, searched" for name in tracking.PEERS),
        "ours",
    ]
    assert result["frames"] == 30  # 10 at ten and 5 at five frames a second, of two scenes
    document = tmp_path / "tracking.md"
    document.write_text("<!-- tracking -->\n<!-- /tracking -->\n")
    monkeypatch.setattr(tracking, "DOCUMENT", document)
    (tmp_path / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr(sys, "argv", ["tracking.py", "--table", "--result", str(tmp_path / "result.json")])
    tracking.main()
    assert "| ByteTrack, searched |" in document.read_text()
    assert "| OC-SORT | 1.0 | 2.0 | lost_track_buffer 20 |" in document.read_text()


def test_the_search_takes_what_is_better(
    benchmark: Callable[[str], ModuleType], scenes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = benchmark("tracking")
    monkeypatch.setattr(tracking, "KINDS", scenes.KINDS[:1])
    monkeypatch.setitem(tracking.RANGES, "ByteTrack", {"minimum_consecutive_frames": (1, 2)})
    scenes.film(scenes.KINDS[0], seed=3, seconds=3.0, encoder=None, path=tmp_path / "crossings-3.npz")
    found = tracking.search("ByteTrack", tmp_path, [3], 1)
    assert found["idf1"] >= found["idf1_default"] > 0
    assert set(found["settings"]) <= {"minimum_consecutive_frames"}


def test_our_tracker_is_one_of_its_interface() -> None:
    tracker: FrameTracker = Tracker()
    assert tracker.finish() == ()
