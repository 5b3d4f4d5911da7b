from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.errors import InputError, ReidgeError
from reidge.train.images import DataConfig, TrainingImages, read_training_images

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (32, 16)


def read(root: Path, config: DataConfig | None = None) -> TrainingImages:
    return read_training_images(root, config or DataConfig(), size=SIZE, resize="area")


def warnings(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if "warning" in line]


def test_a_crop_that_cannot_be_read_is_left_out_and_named(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(crops, tmp_path / "crops")
    (folder / "cam1" / "000_2.jpg").write_bytes(b"no image")
    (folder / "cam1" / "003_0.jpg").unlink()
    images = read(folder)
    assert len(images) == 62
    assert images.pixels is not None
    assert len(images.pixels) == len(images.camids) == 62
    whole = read(crops)
    last = [path.name for path in whole.paths].index("003_1.jpg", 16)
    now = [path.name for path in images.paths].index("003_1.jpg", 16)
    np.testing.assert_array_equal(images.take(np.array([now])), whole.take(np.array([last])))
    warning = warnings(capsys)
    assert len(warning) == 1
    assert "2 of 64 crops" in warning[0]
    assert "000_2.jpg, 003_0.jpg" in warning[0]


def test_too_many_unreadable_crops_stop_the_training(crops: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(crops, tmp_path / "crops")
    for path in sorted(folder.glob("cam0/00[01]_*.jpg")):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"8 of 64 crops in .*more than 5%"):
        read(folder)


def test_crops_that_do_not_fit_into_memory_are_read_when_needed(crops: Path) -> None:
    kept = read(crops)
    left = read(crops, DataConfig(cache_gib=0))
    assert left.pixels is None
    indices = np.array([5, 0, 63, 5])
    np.testing.assert_array_equal(left.take(indices), kept.take(indices))
    assert left.fingerprint() == kept.fingerprint()


def test_a_crop_that_goes_bad_is_black_and_left_out(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(crops, tmp_path / "crops")
    images = read(folder, DataConfig(cache_gib=0))
    assert images.unreadable == set()
    capsys.readouterr()
    images.paths[3].unlink()
    images.paths[9].write_bytes(b"no image")
    taken = images.take(np.array([3, 4, 9, 3]))
    assert not taken[[0, 2, 3]].any()
    assert taken[1].any()
    assert images.unreadable == {3, 9}
    warning = warnings(capsys)
    assert len(warning) == 2  # one a file, however often it is asked for
    assert str(images.paths[3]) in warning[0]
    assert "2 of 64 crops so far" in warning[1]
    images.take(np.array([3, 9]))
    assert not warnings(capsys)


def test_too_many_crops_that_go_bad_stop_the_training(crops: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(crops, tmp_path / "crops")
    images = read(folder, DataConfig(cache_gib=0, max_unreadable=0.1))
    for path in images.paths[:7]:
        path.unlink()
    images.take(np.arange(6))
    with pytest.raises(ReidgeError, match=r"7 of 64 crops so far: more than 10%.*--resume") as error:
        images.take(np.arange(7))
    assert error.value.exit_status == 1


def test_decoding_threads_are_kept_and_end_with_the_images(crops: Path) -> None:
    def decoders() -> set[int | None]:
        return {thread.ident for thread in threading.enumerate() if thread.name.startswith("decoder")}

    before = decoders()
    images = read(crops, DataConfig(cache_gib=0))
    for _ in range(3):
        images.take(np.arange(64))
    started = {thread for thread in threading.enumerate() if thread.ident in decoders() - before}
    images.take(np.arange(64))
    assert started
    assert all(thread.is_alive() for thread in started)
    del images
    for thread in started:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in started)


def test_a_folder_with_no_people_is_refused(crops: Path, tmp_path: Path) -> None:
    (tmp_path / "crops.csv").write_text((crops / "crops.csv").read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="nobody was found"):
        read(tmp_path)


def test_cameras_and_tracklets_of_a_crop_folder_are_numbered(crops: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = read(crops)
    assert np.unique(images.camids).tolist() == [0, 1]
    assert images.tracklets is not None
    assert np.unique(images.tracklets).tolist() == list(range(16))
    assert images.pids is None
    assert f"crops in {crops}: train 64 images from 2 cameras\n" in capsys.readouterr().err


def test_a_data_set_gives_its_training_images_with_labels(split: Path, tmp_path: Path) -> None:
    shutil.copytree(split / "query", tmp_path / "bounding_box_train")
    images = read(tmp_path)
    assert images.tracklets is None
    assert images.camids.tolist() == [0, 1] * 6
    assert images.pids is not None
    assert images.pids.tolist() == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]


def test_folders_of_crops_without_an_index_are_cameras(crops: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(crops, tmp_path / "crops")
    (folder / "crops.csv").unlink()
    images = read(folder)
    np.testing.assert_array_equal(np.bincount(images.camids), [32, 32])
    assert images.pids is None


def test_unknown_cameras_are_said_once_and_are_minus_one(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(crops / "cam0", tmp_path / "crops")
    images = read(folder)
    assert set(images.camids.tolist()) == {-1}
    warning = warnings(capsys)
    assert len(warning) == 1
    assert "the cameras of 32 of 32 crops are unknown" in warning[0]


def test_a_pattern_in_the_recipe_tells_cameras_and_people(crops: Path) -> None:
    config = DataConfig(layout="pattern", pattern=r"cam(?P<camid>\d+)/(?P<pid>\d+)_")
    images = read(crops, config)
    assert images.pids is not None
    assert np.unique(images.pids).tolist() == list(range(8))
    np.testing.assert_array_equal(np.bincount(images.camids), [32, 32])


def test_a_quiet_reader_says_nothing_of_what_it_found(crops: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_training_images(crops, DataConfig(), size=SIZE, resize="area", quiet=True)
    assert capsys.readouterr().err == ""
