from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.errors import InputError
from reidge.train.images import DataConfig, read_training_images

if TYPE_CHECKING:
    from pathlib import Path

SPEC = {"size": (32, 16), "resize": "area"}


def test_a_crop_that_cannot_be_read_is_left_out_and_named(
    crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(crops, tmp_path / "crops")
    (folder / "cam1" / "000_2.jpg").write_bytes(b"no image")
    (folder / "cam1" / "003_0.jpg").unlink()
    images = read_training_images(folder, DataConfig(), **SPEC)  # type: ignore[arg-type]
    assert len(images) == 62
    assert images.pixels is not None
    assert len(images.pixels) == len(images.camids) == 62
    whole = read_training_images(crops, DataConfig(), **SPEC)  # type: ignore[arg-type]
    last = [path.name for path in whole.paths].index("003_1.jpg", 16)
    now = [path.name for path in images.paths].index("003_1.jpg", 16)
    np.testing.assert_array_equal(images.take(np.array([now])), whole.take(np.array([last])))
    warning = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warning) == 1
    assert "2 of 64 crops" in warning[0]
    assert "000_2.jpg, 003_0.jpg" in warning[0]


def test_too_many_unreadable_crops_stop_the_training(crops: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(crops, tmp_path / "crops")
    for path in sorted(folder.glob("cam0/00[01]_*.jpg")):
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match=r"8 of 64 crops in .*more than 5%"):
        read_training_images(folder, DataConfig(), **SPEC)  # type: ignore[arg-type]


def test_crops_that_do_not_fit_into_memory_are_read_when_needed(crops: Path) -> None:
    kept = read_training_images(crops, DataConfig(), **SPEC)  # type: ignore[arg-type]
    left = read_training_images(crops, DataConfig(cache_gib=0), **SPEC)  # type: ignore[arg-type]
    assert left.pixels is None
    indices = np.array([5, 0, 63, 5])
    np.testing.assert_array_equal(left.take(indices), kept.take(indices))
    assert left.fingerprint() == kept.fingerprint()


def test_a_folder_with_no_people_is_refused(crops: Path, tmp_path: Path) -> None:
    (tmp_path / "crops.csv").write_text((crops / "crops.csv").read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match="nobody was found"):
        read_training_images(tmp_path, DataConfig(), **SPEC)  # type: ignore[arg-type]


def test_a_benchmark_folder_is_read_without_its_labels(split: Path, tmp_path: Path) -> None:
    shutil.copytree(split / "query", tmp_path / "bounding_box_train")
    images = read_training_images(tmp_path, DataConfig(), **SPEC)  # type: ignore[arg-type]
    assert images.tracklets is None
    assert images.camids.tolist() == [0, 1] * 6
