from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reidge.edge.errors import InputError
from reidge.train.datasets import open_benchmark
from reidge.train.datasets.layouts import find_layout

if TYPE_CHECKING:
    from pathlib import Path


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write_table(root: Path, text: str) -> Path:
    table = root / "who.csv"
    table.write_text(text)
    return table


TABLE = """path,pid,camid,split
a/1.jpg,anna,door,query
a/2.jpg,anna,yard,gallery
b/1.jpg,bert,door,test
b/2.jpg,-1,door,gallery
c/1.jpg,carl,,train
c/2.jpg,,gate,train
"""


def test_a_table_says_who_is_where(tmp_path: Path) -> None:
    split = open_benchmark(tmp_path, csv=write_table(tmp_path, TABLE))
    assert split.query.paths == (tmp_path / "a/1.jpg",)
    # Names share their numbers over all splits; `test` is the gallery, and -1 is junk as in Market-1501.
    assert (split.query.pids.tolist(), split.query.camids.tolist()) == ([0], [0])
    assert (split.gallery.pids.tolist(), split.gallery.camids.tolist()) == ([0, 1], [2, 0])
    assert split.train is not None
    assert (split.train.pids.tolist(), split.train.camids.tolist()) == ([2, -1], [-1, 1])
    assert split.train.tracklets is None


def test_without_splits_each_image_asks_for_all_others(tmp_path: Path) -> None:
    table = write_table(tmp_path, "path,pid,camid,tracklet\n1.jpg,7,1,x\n2.jpg,7,2,y\n3.jpg,12,2,z\n")
    split = open_benchmark(tmp_path, csv=table)
    assert split.query.paths == split.gallery.paths
    assert split.query.pids.tolist() == [7, 7, 12]  # numbers stay as they are
    assert split.train is not None
    assert split.train.tracklets is not None
    assert split.train.tracklets.tolist() == [0, 1, 2]


def test_a_split_without_training_images_can_be_scored_on(tmp_path: Path) -> None:
    text = "path,pid,camid,split\n1.jpg,1,1,query\n2.jpg,1,2,gallery\n"
    assert open_benchmark(tmp_path, csv=write_table(tmp_path, text)).train is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,pid\n1.jpg,1\n", "has no column path"),
        ("path,pid\n../1.jpg,1\n", r"line 2: the path '\.\./1\.jpg' is not one below"),
        ("path,pid\n,1\n", r"line 2: the path '\.' is not one below"),
        ("path,split\n1.jpg,probe\n", r"line 2: the split 'probe' is none of train, query, gallery, test"),
        ("path,camid\n1.jpg,1\n", "1 of the 1 query images in .* have no pid"),
        ("path,pid\n1.jpg,1\n", "no query image in .* has a camid"),
        ("path,pid,camid,split\n1.jpg,1,1,query\n", "no images of split gallery"),
        ("path\n", "has no images"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        open_benchmark(tmp_path, csv=write_table(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"who\.csv cannot be read: No such file"):
        open_benchmark(tmp_path, csv=tmp_path / "who.csv")
    (tmp_path / "who.csv").write_bytes(b"path\n\xff\xfe.jpg\n")
    with pytest.raises(InputError, match=r"who\.csv is no CSV file"):
        open_benchmark(tmp_path, csv=tmp_path / "who.csv")


def test_a_spreadsheets_byte_order_mark_does_not_hide_the_first_column(tmp_path: Path) -> None:
    table = tmp_path / "who.csv"
    table.write_text("path,pid,camid\n1.jpg,1,1\n", encoding="utf-8-sig")
    assert len(open_benchmark(tmp_path, csv=table).query) == 1


def test_a_pattern_reads_folders_and_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    touch(tmp_path, "query/door/p3_1.png", "gallery/yard/p3_1.jpg", "gallery/yard/p4_1.JPG", "gallery/plan.png")
    pattern = r"(?P<split>query|gallery)/(?P<camid>\w+)/(?P<pid>p\d+)_"
    split = open_benchmark(tmp_path, pattern=pattern)
    assert split.query.pids.tolist() == [0]
    assert split.gallery.pids.tolist() == [0, 1]
    assert split.gallery.camids.tolist() == [1, 1]
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "1 of 4 images" in warnings[0]
    assert "gallery/plan.png" in warnings[0]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (r"(?P<pid>\d+", "is no regular expression"),
        (r"(\d+)_c(\d+)", "must name its groups after what they tell: pid, camid, tracklet, split"),
        (r"(?P<person>\d+)", "must name its groups"),
        (r"(?P<pid>\d+)_x", r"is found in none of the 1 images, e\.g\. not in cam1/1\.jpg"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(tmp_path: Path, pattern: str, message: str) -> None:
    touch(tmp_path, "cam1/1.jpg")
    with pytest.raises(InputError, match=message):
        open_benchmark(tmp_path, pattern=pattern)


def test_a_table_and_a_pattern_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pattern and csv both tell"):
        open_benchmark(tmp_path, pattern="(?P<pid>1)", csv=tmp_path / "who.csv")
    with pytest.raises(InputError, match="layout veri776 needs no pattern"):
        open_benchmark(tmp_path, layout="veri776", pattern="(?P<pid>1)")
    with pytest.raises(InputError, match="layout csv needs a csv"):
        open_benchmark(tmp_path, layout="csv")


def test_a_folder_for_each_camera_needs_no_table(tmp_path: Path) -> None:
    touch(tmp_path, "yard/1.jpg", "door/1.jpg", "door/2.jpg")
    images = find_layout(tmp_path).read("train")
    assert [path.relative_to(tmp_path).as_posix() for path in images.paths] == [
        "door/1.jpg",
        "door/2.jpg",
        "yard/1.jpg",
    ]
    assert images.camids.tolist() == [0, 0, 1]
    assert images.tracklets is None


def test_folders_in_a_cameras_folder_are_tracklets(tmp_path: Path) -> None:
    touch(tmp_path, "door/1/a.jpg", "door/1/b.jpg", "door/2/a.jpg", "yard/1/a.jpg")
    images = find_layout(tmp_path).read("train")
    assert images.camids.tolist() == [0, 0, 0, 1]
    assert images.tracklets is not None
    assert images.tracklets.tolist() == [0, 0, 1, 2]  # track 1 of the yard is not track 1 of the door


def test_images_in_no_folder_have_no_camera(tmp_path: Path) -> None:
    assert find_layout(touch(tmp_path, "1.jpg", "2.jpg")).read("train").camids.tolist() == [-1, -1]


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere", "1.jpg")
    root = touch(tmp_path / "crops", "door/1.jpg")
    (root / "yard").symlink_to(tmp_path / "elsewhere")
    (root / "door" / "up").symlink_to(root)
    assert find_layout(root).read("train").camids.tolist() == [0, 1]


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images, and nothing that looks like a data set"):
        find_layout(touch(tmp_path, "notes/a.txt"))
