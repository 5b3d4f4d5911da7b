from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.frame import Frame
from reidge.edge.tracker import PastBox, TrackedBox
from reidge.edge.tracklog import TrackLog

if TYPE_CHECKING:
    from pathlib import Path

FRAME = Frame(camid="cam1", index=7, captured_at=100.7, decoded_at=0.0, image=np.zeros((1, 1, 3), dtype=np.uint8))
BOX = TrackedBox(
    track_id=3, detection=0, box_4=np.array([1, 2, 3.25, 4], dtype=np.float32), score=1.0, hits=5, first_seen=100.0
)


def test_boxes_and_identities_can_be_joined_for_scoring(tmp_path: Path) -> None:
    with TrackLog(tmp_path / "tracks", ["cam1", "cam2"]) as log:
        log.write(FRAME, [BOX])
        log.write_identities([("cam1", 3, 12), ("cam2", 1, None)])
    tracks = tmp_path / "tracks"
    assert (tracks / "cam1.csv").read_text().split() == [
        "frame,track_id,x1,y1,x2,y2,captured_at",
        "7,3,1.0,2.0,3.2,4.0,100.700",
    ]
    assert (tracks / "cam2.csv").read_text().split() == ["frame,track_id,x1,y1,x2,y2,captured_at"]
    assert (tracks / "identities.csv").read_text().split() == ["camid,track_id,global_id", "cam1,3,12", "cam2,1,"]


def test_only_their_owner_may_read_them(tmp_path: Path) -> None:
    with TrackLog(tmp_path / "tracks", ["cam1"]) as log:
        log.write_identities([("cam1", 3, 12)])
    made = [tmp_path / "tracks", *(tmp_path / "tracks").iterdir()]
    assert {path.name: path.stat().st_mode & 0o777 for path in made} == {
        "tracks": 0o700,
        "cam1.csv": 0o600,
        "identities.csv": 0o600,
    }


def at(index: int) -> Frame:
    return replace(FRAME, index=index, captured_at=100 + index / 10)


def test_boxes_before_confirmation_and_in_a_gap_are_filled_in(tmp_path: Path) -> None:
    with TrackLog(tmp_path, ["cam1"]) as log:
        log.write(at(0), [])
        log.write(at(1), [])
        past = PastBox(captured_at=100.1, box_4=np.array([0, 0, 10, 20], dtype=np.float32))
        log.write(at(2), [replace(BOX, box_4=np.array([2, 0, 12, 20], dtype=np.float32), earlier=(past,))])
        log.write(at(3), [])
        log.write(at(4), [replace(BOX, box_4=np.array([6, 0, 16, 20], dtype=np.float32))])
    rows = [line.split(",") for line in (tmp_path / "cam1.csv").read_text().splitlines()[1:]]
    assert [(int(row[0]), float(row[2])) for row in rows] == [(1, 0.0), (2, 2.0), (3, 4.0), (4, 6.0)]


def test_an_interrupted_run_leaves_no_table_of_identities(tmp_path: Path) -> None:
    (tmp_path / "identities.csv").write_text("of an earlier run")
    with TrackLog(tmp_path, ["cam1"]):
        pass
    assert not (tmp_path / "identities.csv").exists()


def test_without_a_folder_nothing_is_written() -> None:
    with TrackLog(None, ["cam1"]) as log:
        log.write(FRAME, [BOX])
        log.write_identities([("cam1", 3, 12)])
