from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.calibration.harvest import HarvestConfig, Tracklet, _Candidate, drop_near_duplicates, follow_trend, harvest
from reidge.cli.main import main
from reidge.edge.crops import read_crop_folder, read_image
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def candidate(at: float, *, height: float = 100.0, sharpness: float = 50.0, grey: int = 0) -> _Candidate:
    return _Candidate(
        image=np.full((40, 20, 3), grey, dtype=np.uint8),
        captured_at=at,
        box_4=np.array([0, 0, 40, height], dtype=np.float32),
        score=1.0,
        sharpness=sharpness,
    )


def test_each_passing_becomes_a_tracklet_of_one_person(tmp_path: Path, walks: dict[str, Path]) -> None:
    footage = {camid: str(path) for camid, path in walks.items()}
    summary = harvest(footage, tmp_path / "crops", HarvestConfig(start=1000.0), progress=False)
    folder = read_crop_folder(tmp_path / "crops")
    assert (summary.cameras, summary.frames, summary.tracklets, summary.crops) == (2, 240, 3, len(folder))
    shirts: dict[str, set[str]] = {}
    for record in folder.records:
        image = read_image(folder.root / record.path)
        blue, _, red = image[10:30, image.shape[1] // 2].mean(axis=0)
        shirts.setdefault(record.tracklet, set()).add("red" if red > blue else "blue")
    assert sorted((tracklet[:4], *shirt) for tracklet, shirt in shirts.items()) == [
        ("cam1", "blue"),
        ("cam1", "red"),
        ("cam2", "red"),
    ]
    # Red is in cam2 from frame 73 to 116 of 10 per second.
    assert all(1007.3 <= record.captured_at <= 1011.6 for record in folder.records if record.camid == "cam2")


def test_crops_are_whole_people_a_little_wider_than_their_box(tmp_path: Path, walks: dict[str, Path]) -> None:
    harvest({"cam1": str(walks["cam1"])}, tmp_path / "crops", HarvestConfig(padding=0.05), progress=False)
    folder = read_crop_folder(tmp_path / "crops")
    for record in folder.records:
        assert record.x1 >= 3
        assert record.x2 <= 317
        assert record.y2 - record.y1 == pytest.approx(90, abs=6)
        height, width = read_image(folder.root / record.path).shape[:2]
        assert height - (record.y2 - record.y1) == pytest.approx(9, abs=3)
        assert width - (record.x2 - record.x1) == pytest.approx(9, abs=3)


def test_at_most_so_many_crops_are_kept_and_they_span_the_tracklet(tmp_path: Path, walks: dict[str, Path]) -> None:
    config = HarvestConfig(start=0.0, crops_per_tracklet=5, min_difference=0.0)
    harvest({"cam2": str(walks["cam2"])}, tmp_path / "crops", config, progress=False)
    times = [record.captured_at for record in read_crop_folder(tmp_path / "crops").records]
    assert len(times) == 5
    assert times == sorted(times)
    assert times[-1] - times[0] > 2.0


def test_only_the_asked_part_is_read(tmp_path: Path, walks: dict[str, Path]) -> None:
    footage = {camid: str(path) for camid, path in walks.items()}
    summary = harvest(footage, tmp_path / "crops", HarvestConfig(until=7.0), progress=False)
    assert summary.frames == 140
    assert {record.camid for record in read_crop_folder(tmp_path / "crops").records} == {"cam1"}


def test_the_sharpest_crop_of_each_moment_is_kept_in_bounded_memory() -> None:
    tracklet = Tracklet(capacity=8)
    tracklet.see(0.0, first_seen=0.0)
    for number in range(1000):  # an hour of standing about
        at = number / 10
        tracklet.see(at, first_seen=0.0)
        tracklet.offer(candidate(at, sharpness=100.0 if number % 50 == 7 else 50.0, grey=number % 256))
        assert len(tracklet._slots) <= 8
    best = tracklet.best(HarvestConfig(crops_per_tracklet=4, min_difference=0.0))
    assert len(best) == 4
    assert all(crop.sharpness == 100.0 for crop in best)
    assert best[-1].captured_at - best[0].captured_at > 50


def test_a_half_hidden_person_leaves_the_trend() -> None:
    # Walks towards the camera, 3 % taller each time; once only the upper half is seen, once two people are one box.
    heights = [100 * 1.03**n for n in range(12)]
    heights[4] *= 0.6
    heights[7] *= 1.3
    kept = follow_trend([candidate(n / 10, height=h) for n, h in enumerate(heights)], max_error=0.12)
    assert [round(10 * crop.captured_at) for crop in kept] == [0, 1, 2, 3, 5, 6, 8, 9, 10, 11]


def test_a_crop_like_the_one_before_is_dropped() -> None:
    crops = [candidate(n / 10, grey=grey) for n, grey in enumerate((10, 12, 15, 40, 44))]
    assert [crop.image[0, 0, 0] for crop in drop_near_duplicates(crops, min_difference=6.0)] == [10, 40]


def test_somebody_who_looks_the_same_all_the_way_is_kept() -> None:
    tracklet = Tracklet(capacity=36)
    tracklet.see(3.0, first_seen=0.0)
    for number in range(30):
        tracklet.offer(candidate(number / 10))
    assert len(tracklet.best(HarvestConfig(min_crops=4))) == 4


def test_footage_without_people_is_refused_and_leaves_no_folder(tmp_path: Path, still: Path) -> None:
    with pytest.raises(InputError, match=r"nobody was found in .*still\.mp4 \(30 frames\)"):
        harvest({"cam1": str(still)}, tmp_path / "crops", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_ends_before_since_is_said_to(tmp_path: Path, still: Path) -> None:
    with pytest.raises(InputError, match=r"\(0 frames\)\. The recordings end before that: give a smaller --since"):
        harvest({"cam1": str(still)}, tmp_path / "crops", HarvestConfig(since=100.0), progress=False)


def test_people_who_gave_too_few_pictures_are_not_called_missing_motion(tmp_path: Path, walks: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"tracklets were too short or had too few good pictures"):
        harvest({"cam1": str(walks["cam1"])}, tmp_path / "crops", HarvestConfig(min_height=1000), progress=False)


def test_bad_footage_is_refused_before_the_good_is_read(tmp_path: Path, walks: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"none\.mp4 does not exist"):
        harvest({"cam1": str(walks["cam1"]), "cam2": str(tmp_path / "none.mp4")}, tmp_path / "crops", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_camera_name_cannot_leave_the_folder(tmp_path: Path, still: Path) -> None:
    for name in ("../cam1", "a/b", "", ".hidden"):
        with pytest.raises(InputError, match="is not a camera name"):
            harvest({name: str(still)}, tmp_path / "crops", progress=False)


def test_the_command_prints_its_figures(
    tmp_path: Path, walks: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(["harvest", "--footage", f"cam2={walks['cam2']}", "--output", str(tmp_path / "crops"), "--json"])
    assert status == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["tracklets"], figures["frames"]) == (1, 120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--footage", "video.mp4"], "names no camera"),
        (["--footage", "a=x.mp4", "--footage", "a=y.mp4"], "names a twice"),
        (["--footage", "a=none.mp4"], "none.mp4 does not exist"),
        (["--footage", "a=none.mp4", "--set", "min_crop=3"], "Did you mean 'min_crops'?"),
        (["--footage", "a=none.mp4", "--min-height", "2"], "min_height"),
        (["--footage", "a=rtsp://u:secret@host/x"], "rtsp://host/x never ends"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["harvest", *arguments, "--output", str(tmp_path / "crops")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "secret" not in line
    assert not (tmp_path / "crops").exists()


def test_an_output_below_a_file_is_one_line(
    tmp_path: Path, walks: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["harvest", "--footage", f"a={walks['cam1']}", "--output", str(tmp_path / "file" / "crops")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Not a directory" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path: Path, walks: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert main(["harvest", "--footage", f"a={walks['cam1']}", "--output", str(locked / "crops")]) == 1
    assert "Permission denied" in capsys.readouterr().err


def test_a_stream_that_never_answers_is_named_with_the_reason(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # nobody listens on it afterwards
    with pytest.raises(
        InputError, match=rf"no picture came in 1 s \(rtsp://127\.0\.0\.1:{port}/a: .*refused"
    ) as caught:
        harvest({"cam1": f"rtsp://u:secret@127.0.0.1:{port}/a"}, tmp_path / "crops", HarvestConfig(until=1.0))
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
