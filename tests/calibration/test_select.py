from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.calibration.select import leave_out_unreadable, select_crops
from reidge.edge.crops import CropRecord, CropWriter, read_crop_folder
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def crop(camid: str, tracklet: str, shot: int) -> CropRecord:
    return CropRecord(
        path=f"{camid}/{tracklet}/{shot}.jpg",
        camid=camid,
        tracklet=f"{camid}-{tracklet}",
        captured_at=float(shot),
        x1=0,
        y1=0,
        x2=1,
        y2=2,
        score=1,
        sharpness=1,
    )


RECORDS = [
    *(crop("busy", f"t{tracklet}", shot) for tracklet in range(40) for shot in range(10)),
    *(crop("quiet", f"t{tracklet}", shot) for tracklet in range(5) for shot in range(10)),
]


def test_cameras_and_tracklets_take_turns() -> None:
    selection = select_crops(RECORDS, calibration_size=20, held_out_size=10, seed=0)
    chosen = [RECORDS[index] for index in selection.calibration]
    assert Counter(record.camid for record in chosen) == {"busy": 10, "quiet": 10}
    assert len({record.tracklet for record in chosen if record.camid == "busy"}) == 10


def test_nobody_is_both_calibrated_on_and_held_out() -> None:
    selection = select_crops(RECORDS, calibration_size=1000, held_out_size=1000, seed=0)
    calibration, held_out = (
        {RECORDS[i].tracklet for i in part} for part in (selection.calibration, selection.held_out)
    )
    assert not calibration & held_out
    assert len(held_out) == 15
    assert len(selection.calibration) + len(selection.held_out) == len(RECORDS)


def test_the_seed_decides_the_draw() -> None:
    first, again, other = (
        select_crops(RECORDS, calibration_size=20, held_out_size=10, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_single_tracklet_is_split_by_crop() -> None:
    selection = select_crops(RECORDS[:9], calibration_size=100, held_out_size=100, seed=0)
    assert (len(selection.calibration), len(selection.held_out)) == (6, 3)
    assert not set(selection.calibration) & set(selection.held_out)


def test_a_single_crop_serves_both() -> None:
    selection = select_crops(RECORDS[:1], calibration_size=100, held_out_size=100, seed=0)
    assert selection.calibration == selection.held_out == (0,)


def write_crops(root: Path, count: int) -> None:
    with CropWriter(root) as writer:
        for shot in range(count):
            writer.add(np.full((40, 20, 3), shot, np.uint8), crop("cam1", f"t{shot // 4}", shot))


def test_a_corrupt_crop_is_left_out_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_crops(tmp_path / "crops", 40)
    (tmp_path / "crops" / "cam1" / "t1" / "5.jpg").write_bytes(b"no picture")
    folder = leave_out_unreadable(read_crop_folder(tmp_path / "crops"))
    assert len(folder) == 39
    assert "1 of 40 crops" in capsys.readouterr().err


def test_too_many_corrupt_crops_are_refused(tmp_path: Path) -> None:
    write_crops(tmp_path / "crops", 8)
    (tmp_path / "crops" / "cam1" / "t1" / "5.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 of 8 crops .* more than 5%"):
        leave_out_unreadable(read_crop_folder(tmp_path / "crops"))
