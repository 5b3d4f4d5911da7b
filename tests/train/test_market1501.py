from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reidge.edge.errors import InputError
from reidge.train.datasets.market1501 import read_named_images

if TYPE_CHECKING:
    from pathlib import Path


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def test_names_hold_person_and_camera(tmp_path: Path) -> None:
    touch(tmp_path, "0007_c3s1_000001_01.jpg", "-1_c1s1_000001_00.jpg", "0000_c6s4_000002_05.jpg", "Thumbs.db")
    images = read_named_images(tmp_path)
    # Junk is dropped, distractors (person 0) stay.
    assert images.pids.tolist() == [0, 7]
    assert images.camids.tolist() == [6, 3]


@pytest.mark.parametrize(
    ("name", "pid", "camid"),
    [("0005_c2_f0046985.jpg", 5, 2), ("0002_c002_00030600_0.jpg", 2, 2), ("0011_c12s1_0001_01.jpg", 11, 12)],
)
def test_other_data_sets_name_their_images_so_too(tmp_path: Path, name: str, pid: int, camid: int) -> None:
    images = read_named_images(touch(tmp_path, name))
    assert (images.pids.tolist(), images.camids.tolist()) == ([pid], [camid])


def test_what_macos_packs_beside_each_file_is_no_image(tmp_path: Path) -> None:
    assert len(read_named_images(touch(tmp_path, "0001_c1s1_000001_00.jpg", "._0001_c1s1_000001_00.jpg"))) == 1


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="query does not exist"):
        read_named_images(tmp_path / "query")


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        read_named_images(tmp_path)


def test_another_naming_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"IMG_1\.jpg is not named"):
        read_named_images(touch(tmp_path, "IMG_1.jpg"))
