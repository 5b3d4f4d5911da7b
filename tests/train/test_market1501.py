from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reidge.edge.errors import InputError
from reidge.train.datasets.market1501 import read_market1501

if TYPE_CHECKING:
    from pathlib import Path


def write_names(root: Path, query: list[str], gallery: list[str]) -> Path:
    for folder, names in (("query", query), ("bounding_box_test", gallery)):
        (root / folder).mkdir()
        for name in names:
            (root / folder / name).touch()
    return root


def test_names_hold_person_and_camera(tmp_path: Path) -> None:
    gallery = ["0007_c3s1_000001_01.jpg", "-1_c1s1_000001_00.jpg", "0000_c6s4_000002_05.jpg", "Thumbs.db"]
    split = read_market1501(write_names(tmp_path, ["0007_c1s1_000451_03.jpg"], gallery))
    assert split.query.pids.tolist() == [7]
    # Junk is dropped, distractors (person 0) stay.
    assert split.gallery.pids.tolist() == [0, 7]
    assert split.gallery.camids.tolist() == [6, 3]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"query does not exist.*bounding_box_test"):
        read_market1501(tmp_path)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bounding_box_test holds no images"):
        read_market1501(write_names(tmp_path, ["0001_c1.jpg"], []))


def test_another_naming_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"IMG_1\.jpg is not named"):
        read_market1501(write_names(tmp_path, ["IMG_1.jpg"], []))
