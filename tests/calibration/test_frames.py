from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from reidge.calibration import frames as module
from reidge.calibration.frames import read_frame_sets, spread, thin
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


def write_pictures(folder: Path, count: int) -> Path:
    """Grey pictures, each brighter than the one before by 10."""
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f"{index:02}.png"), np.full((32, 32, 3), 10 * index, dtype=np.uint8))
    return folder


def test_every_third_frame_is_held_out(tmp_path: Path) -> None:
    sets = read_frame_sets([write_pictures(tmp_path / "a", 7)], size=(32, 32), count=100)
    assert sets.held_out_NHW3[:, 0, 0, 0].tolist() == [20, 50]
    assert sets.calibration_NHW3[:, 0, 0, 0].tolist() == [0, 10, 30, 40, 60]


def test_each_source_has_its_share_and_frames_are_evenly_spread(tmp_path: Path, walks: dict[str, Path]) -> None:
    sets = read_frame_sets([walks["cam1"], write_pictures(tmp_path / "a", 20)], size=(90, 160), count=12)
    assert len(sets.calibration_NHW3) + len(sets.held_out_NHW3) == 12
    assert thin(range(20), 4) == [0, 6, 13, 19]


def test_long_recordings_are_searched_and_short_ones_decoded(
    walks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = list(spread(walks["cam1"], 6, size=(90, 160)))  # 120 frames, 12 s
    monkeypatch.setattr(module, "FAR_APART", 5)
    searched = list(spread(walks["cam1"], 6, size=(90, 160)))
    assert len(decoded) == len(searched) == 6
    for one, other in zip(decoded, searched, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("length", [120, 0], ids=["short", "of unknown length"])
def test_a_recording_is_not_held_as_large_as_it_is(
    walks: dict[str, Path], monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(module, "count_frames", lambda source, span=None: length)
    tracemalloc.start()
    try:
        frames = list(spread(walks["cam1"], 150, size=(18, 32)))  # 120 frames of 172,800 bytes
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(frames) == 120
    assert most < 20 * 172_800


def test_the_fingerprint_is_of_the_calibration_frames(tmp_path: Path) -> None:
    first = read_frame_sets([write_pictures(tmp_path / "a", 7)], size=(32, 32), count=7)
    again = read_frame_sets([tmp_path / "a"], size=(32, 32), count=7)
    fewer = read_frame_sets([tmp_path / "a"], size=(32, 32), count=6)
    assert first.fingerprint == again.fingerprint != fewer.fingerprint


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent.mp4", "does not exist"),
        (lambda folder: folder, "holds no pictures"),
        (lambda folder: "rtsp://viewer:secret@host/stream", "rtsp://host/stream is a live stream"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line(tmp_path: Path, make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(InputError, match=message) as caught:
        read_frame_sets([make(tmp_path)], size=(32, 32), count=12)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_pictures_are_too_few(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only 2 frames"):
        read_frame_sets([write_pictures(tmp_path / "a", 2)], size=(32, 32), count=12)
