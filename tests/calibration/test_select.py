from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.calibration.select import (
    Looks,
    leave_out_unreadable,
    read_crop_sets,
    select_crops,
    spread,
    take_turns,
    weaknesses,
)
from reidge.edge.bundle import Coverage
from reidge.edge.crops import CropRecord, CropWriter, read_crop_folder
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray


def crop(camid: str, tracklet: str, shot: float) -> CropRecord:
    return CropRecord(
        path=f"{camid}/{tracklet}/{shot}.jpg",
        camid=camid,
        tracklet=f"{camid}-{tracklet}",
        captured_at=shot,
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


def test_a_single_crop_is_refused_for_it_would_be_judged_by_itself() -> None:
    with pytest.raises(InputError, match=r"crops to calibrate on: 1, none is left to check the ranges on\. Harvest 64"):
        select_crops(RECORDS[:1], calibration_size=100, held_out_size=100, seed=0)


def test_of_two_crops_of_two_cameras_one_is_held_out() -> None:
    records = [crop(camid, "t", 0) for camid in "ab"]
    selection = select_crops(records, calibration_size=100, held_out_size=100, seed=0)
    assert sorted(selection.calibration + selection.held_out) == [0, 1]
    assert len(selection.held_out) == 1


def test_each_camera_gives_up_a_third_of_its_tracklets_and_never_its_only_one() -> None:
    records = [crop(camid, f"t{n}", 0) for camid, count in (("a", 9), ("b", 3), ("c", 1)) for n in range(count)]
    selection = select_crops(records, calibration_size=100, held_out_size=100, seed=3)
    assert Counter(records[index].camid for index in selection.held_out) == {"a": 3, "b": 1}
    assert Counter(records[index].camid for index in selection.calibration) == {"a": 6, "b": 2, "c": 1}


def test_a_quiet_night_takes_turns_with_a_busy_noon() -> None:
    # 60 tracklets in the first hour, one in the eighth.
    records = [crop("a", f"t{n}", float(n)) for n in range(60)] + [crop("a", "night", 8 * 3600.0)]
    for seed in range(5):
        chosen = take_turns(records, [[index] for index in range(61)], 2, random.Random(seed))
        assert 60 in chosen


def looks(embeddings: Sequence[Sequence[float]], greys: Sequence[float] | None = None) -> Looks:
    """Embeddings brought to unit length, and thumbnails of a single pixel, all different unless given."""
    embeddings_ND = np.array(embeddings, dtype=np.float32)
    embeddings_ND /= np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    greys = greys or [20.0 * place for place in range(len(embeddings))]
    return Looks(embeddings_ND=embeddings_ND, thumbnails_NP=np.array(greys, dtype=np.float32)[:, None])


def test_rare_looks_are_drawn_before_more_of_the_same() -> None:
    # Fifty crops of two common looks and one that is rare; three draws by chance would find it in 6 of 100 cases.
    common = [(1, 0.001 * n, 0) for n in range(25)] + [(0, 1, 0.001 * n) for n in range(25)]
    for seed in range(10):
        drawn, _ = spread([("a", 0)] * 51, looks([*common, (0, 0, 1)]), 3, random.Random(seed))
        assert 50 in drawn
        assert {place // 25 for place in drawn} == {0, 1, 2}


def test_cells_of_camera_and_time_take_turns_whatever_the_looks() -> None:
    cells = [("a", 0)] * 20 + [("a", 1)] * 2 + [("b", 0)] * 2
    vectors = np.random.default_rng(0).normal(size=(24, 4)).tolist()
    drawn, _ = spread(cells, looks(vectors), 6, random.Random(0))
    assert Counter(cells[place] for place in drawn) == {("a", 0): 2, ("a", 1): 2, ("b", 0): 2}


def test_near_duplicates_of_one_camera_are_passed_over() -> None:
    # The second looks like the first to encoder and eye; the third only to the encoder, the fourth only to the eye.
    alike = looks([(1, 0), (1, 0.01), (1, 0), (0, 1)], greys=[100, 103, 160, 100])
    drawn, duplicates = spread([("a", 0)] * 4, alike, 4, random.Random(0))
    assert (len(drawn), duplicates) == (3, 1)
    assert {2, 3} < set(drawn)


def test_the_same_picture_in_another_camera_is_no_duplicate() -> None:
    drawn, duplicates = spread([("a", 0), ("b", 0)], looks([(1, 0), (1, 0)], [50, 50]), 2, random.Random(0))
    assert (sorted(drawn), duplicates) == ([0, 1], 0)


def test_an_encoder_that_finds_everything_alike_leaves_the_choice_to_chance() -> None:
    drawn, duplicates = spread([("a", 0)] * 30, looks([(1, 0)] * 30), 10, random.Random(0))
    assert (len(set(drawn)), duplicates) == (10, 0)


def embed_mean_colour(crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
    means_N3 = crops_NHW3.mean(axis=(1, 2), dtype=np.float64) + 1
    units_N3: NDArray[np.float64] = means_N3 / np.linalg.norm(means_N3, axis=1, keepdims=True)
    return units_N3.astype(np.float32)


def test_a_folder_of_one_picture_over_and_over_calibrates_on_one_and_says_so(tmp_path: Path) -> None:
    with CropWriter(tmp_path / "crops") as writer:
        for shot in range(30):
            writer.add(np.full((40, 20, 3), 90, np.uint8), crop("cam1", f"t{shot // 3}", shot))
    sets = read_crop_sets(
        tmp_path / "crops",
        size=(32, 16),
        resize="linear",
        calibration_size=64,
        held_out_size=8,
        seed=0,
        embed=embed_mean_colour,
    )
    assert len(sets.calibration_NHW3) == 1
    assert (sets.coverage.cameras, sets.coverage.near_duplicates) == ({"cam1": 1}, 20)  # 7 of 10 tracklets
    assert "few calibration crops: 1 (20 look like another one), better 64" in weaknesses(sets.coverage, held_out=8)[0]


def test_embeddings_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    write_crops(tmp_path / "crops", 8)
    with pytest.raises(ReidgeError, match="not finite"):
        read_crop_sets(
            tmp_path / "crops",
            size=(32, 16),
            resize="linear",
            calibration_size=4,
            held_out_size=4,
            seed=0,
            embed=lambda crops_NHW3: np.full((len(crops_NHW3), 2), np.nan, np.float32),
        )


@pytest.mark.parametrize(
    ("cameras", "lines"),
    [
        ({"hall": 40, "door": 40}, []),
        ({"hall": 33, "door": 30}, ["few calibration crops: 63, better 64 or more. Harvest more footage."]),
        (
            {"hall": 80},
            [
                "all calibration crops come from one camera, hall: INT8 and the match threshold are checked for no "
                "other. Harvest footage of every camera of the site."
            ],
        ),
        (
            {"hall": 40, "door": 40, "gate": 0},
            ["no calibration crop shows gate: harvest more footage of these cameras."],
        ),
        (
            {"c1": 1, "door": 80},
            ["few calibration crops of a camera: c1 1, better 8 or more. Harvest more footage of it."],
        ),
    ],
)
def test_what_calibration_crops_fail_to_show_is_said(cameras: dict[str, int], lines: list[str]) -> None:
    assert weaknesses(Coverage(cameras=cameras, tracklets=20, seconds=60), held_out=32) == tuple(lines)


def test_few_held_out_crops_are_said() -> None:
    coverage = Coverage(cameras={"hall": 40, "door": 40}, tracklets=20, seconds=60)
    (line,) = weaknesses(coverage, held_out=31)
    assert line.startswith("few held-out crops: 31, better 32 or more: a gate that is passed on so few shows little.")


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
