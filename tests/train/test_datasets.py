from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from reidge.edge.errors import InputError
from reidge.train.datasets import open_benchmark
from reidge.train.datasets.layouts import find_layout
from reidge.train.datasets.published import PERSONX_BACKGROUND, PUBLISHED, Count, Published

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.train.datasets.layouts import LayoutName


def write_names(root: Path, **folders: list[str]) -> Path:
    """Write empty images; folders are read by their names alone."""
    for folder, names in folders.items():
        (root / folder).mkdir(parents=True)
        for name in names:
            (root / folder / name).touch()
    return root


def write_market(root: Path) -> Path:
    return write_names(
        root,
        bounding_box_train=["0002_c1s1_000451_03.jpg", "0002_c2s1_000776_01.jpg"],
        query=["0001_c1s1_001051_00.jpg"],
        bounding_box_test=["-1_c1s1_000401_03.jpg", "0000_c1s1_000151_01.jpg", "0001_c2s1_000301_00.jpg"],
        gt_bbox=["0001_c1s1_001051_00.jpg"],
    )


def write_msmt17(root: Path, *, train: str, test: str) -> Path:
    lists = {
        "train": (train, ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_000_14_0113noon_1001_0_ex.jpg 1"]),
        "val": (train, ["0000/0000_037_15_0303morning_0020_1.jpg 0"]),
        "query": (test, ["0000/0000_001_01_0302afternoon_1037_1.jpg 0"]),
        "gallery": (test, ["0000/0000_002_07_0302afternoon_1038_1.jpg 0", "3059/3059_016_05_0302noon_0001_0.jpg 3059"]),
    }
    for name, (folder, lines) in lists.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / f"list_{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        for line in lines:
            path = root / folder / line.split()[0]
            path.parent.mkdir(exist_ok=True)
            path.touch()
            (path.parent / f"._{path.name}").touch()
    return root


def test_market_1501_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    split = open_benchmark(write_market(tmp_path / "Market-1501-v15.09.15"))
    assert split.name == "Market-1501"
    assert split.train is not None
    assert split.train.pids.tolist() == [2, 2]
    assert split.query.camids.tolist() == [1]
    assert split.gallery.pids.tolist() == [0, 1]


def test_dukemtmc_is_told_from_market_1501_by_its_folder(tmp_path: Path) -> None:
    names = {"query": ["0005_c2_f0046985.jpg"], "bounding_box_test": ["0005_c8_f0046985.jpg", "7139_c2_f0104450.jpg"]}
    split = open_benchmark(write_names(tmp_path / "DukeMTMC-reID", **names))
    assert split.name == "DukeMTMC-reID"
    assert split.train is None
    assert split.gallery.pids.tolist() == [5, 7139]
    assert split.gallery.camids.tolist() == [8, 2]


@pytest.mark.parametrize(
    ("version", "train", "test"), [("V1", "train", "test"), ("V2", "mask_train_v2", "mask_test_v2")]
)
def test_both_versions_of_msmt17_are_told_apart_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], version: str, train: str, test: str
) -> None:
    root = write_msmt17(tmp_path / "MSMT17", train=train, test=test)
    split = open_benchmark(root)
    assert split.name == f"MSMT17 {version}"
    assert capsys.readouterr().err.startswith(f"MSMT17 {version} in {root}: query 1 images of 1 identities from 1 cam")
    # Both training lists count.
    assert split.train is not None
    assert split.train.pids.tolist() == [0, 1, 0]
    assert split.train.camids.tolist() == [1, 14, 15]
    assert split.query.paths == (root / test / "0000/0000_001_01_0302afternoon_1037_1.jpg",)
    assert split.gallery.camids.tolist() == [7, 5]
    assert all(path.is_file() for part in (split.train, split.query, split.gallery) for path in part.paths)


def test_msmt17_is_found_in_the_folders_its_archive_makes(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path / "msmt17" / "MSMT17_V2" / "MSMT17_V2", train="mask_train_v2", test="mask_test_v2")
    (tmp_path / "msmt17" / "__MACOSX" / "MSMT17_V2").mkdir(parents=True)
    assert open_benchmark(tmp_path / "msmt17").root == root


def test_msmt17_without_lists_can_be_trained_on_but_not_scored_on(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path, train="train", test="test")
    for path in root.glob("list_*.txt"):
        path.unlink()
    images = find_layout(root).read("train")
    assert sorted(zip(images.pids.tolist(), images.camids.tolist(), strict=True)) == [(0, 1), (0, 15), (1, 14)]
    with pytest.raises(InputError, match=r"lacks list_query\.txt"):
        open_benchmark(root)


def test_a_list_with_half_of_it_missing_is_no_list(tmp_path: Path) -> None:
    root = write_msmt17(tmp_path, train="train", test="test")
    (root / "list_val.txt").unlink()
    with pytest.raises(InputError, match=r"lacks list_val\.txt\. Get"):
        find_layout(root).read("train")


@pytest.mark.parametrize("line", ["0000/0000_000_01_0303morning_0015_0.jpg", "0000/image.jpg 0", "a_b_c_d.jpg 0"])
def test_a_line_that_is_no_entry_is_named(tmp_path: Path, line: str) -> None:
    root = write_msmt17(tmp_path, train="train", test="test")
    (root / "list_query.txt").write_text(f"0000/0000_001_01_0302afternoon_1037_1.jpg 0\n{line}\n")
    with pytest.raises(InputError, match=r"list_query\.txt, line 2: "):
        open_benchmark(root)


def test_two_versions_in_one_folder_are_not_guessed_between(tmp_path: Path) -> None:
    write_msmt17(tmp_path / "both", train="train", test="test")
    write_msmt17(tmp_path / "both", train="mask_train_v2", test="mask_test_v2")
    with pytest.raises(InputError, match="holds both versions of MSMT17"):
        open_benchmark(tmp_path / "both")
    write_msmt17(tmp_path / "two" / "MSMT17_V1", train="train", test="test")
    write_msmt17(tmp_path / "two" / "MSMT17_V2", train="mask_train_v2", test="mask_test_v2")
    with pytest.raises(InputError, match="holds several data sets: MSMT17_V1, MSMT17_V2"):
        open_benchmark(tmp_path / "two")


def test_veri_776_has_folders_of_its_own(tmp_path: Path) -> None:
    root = write_names(
        tmp_path / "VeRi",
        image_train=["0001_c001_00016450_0.jpg"],
        image_query=["0002_c002_00030600_0.jpg"],
        image_test=["0002_c020_00084280_1.jpg"],
    )
    (root / "name_train.txt").write_text("0001_c001_00016450_0.jpg\n")
    split = open_benchmark(root)
    assert split.name == "VeRi-776"
    assert split.gallery.camids.tolist() == [20]
    assert split.train is not None
    assert split.train.pids.tolist() == [1]


def test_personx_is_read_in_both_its_releases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def parts(camera: int) -> dict[str, list[str]]:
        return {
            "bounding_box_train": [f"0001_c{camera}s1_0001_01.jpg"],
            "query": [f"0500_c{camera}s1_0001_01.jpg"],
            "bounding_box_test": [f"0500_c{camera}s1_0002_01.jpg"],
        }

    hard = open_benchmark(write_names(tmp_path / "personx" / "subset1", **parts(12)))
    assert hard.name == "PersonX"
    assert hard.query.camids.tolist() == [12]
    assert "not 5136 images of 856 identities" in capsys.readouterr().err
    for background in (4, 5, 6):
        write_names(tmp_path / "PersonX_v1" / str(background), **parts(background))
    joined = open_benchmark(tmp_path / "PersonX_v1")
    assert joined.name == "PersonX (3 backgrounds)"
    assert joined.train is not None
    assert joined.train.camids.tolist() == joined.query.camids.tolist() == [4, 5, 6]
    assert "not 2568 images of 856 identities" in capsys.readouterr().err


def test_a_copy_that_is_not_whole_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_market(tmp_path / "market1501")
    open_benchmark(root)
    warning = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warning) == 1
    assert "query has 1 images of 1 identities, not 3368 images of 750 identities" in warning[0]
    assert "gallery has 2 images, not 15913 images" in warning[0]
    open_benchmark(root, quiet=True)
    assert capsys.readouterr().err == ""


def test_a_whole_copy_is_not_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_market(tmp_path / "market1501")
    small = Published(train=Count(2, 1), query=Count(1, 1), gallery=Count(2, None))
    monkeypatch.setitem(PUBLISHED, "market1501", small)
    open_benchmark(root)
    assert "warning" not in capsys.readouterr().err


def test_somebodys_split_in_a_known_layout_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_market(tmp_path / "site" / "split")
    assert open_benchmark(root).name == "Market-1501's layout"
    assert "warning" not in capsys.readouterr().err
    assert open_benchmark(root, layout="dukemtmc").name == "DukeMTMC-reID"
    assert "not 2228 images of 702 identities" in capsys.readouterr().err


def test_published_counts_are_those_of_the_papers() -> None:
    counts = {name: (p.train.images, p.query.images, p.gallery.images) for name, p in PUBLISHED.items()}
    assert counts == {
        "market1501": (12936, 3368, 15913),
        "dukemtmc": (16522, 2228, 17661),
        "msmt17": (32621, 11659, 82161),
        "personx": (9840, 5136, 30816),
        "veri776": (37778, 1678, 11579),
    }
    # The six backgrounds together are 1266 people in 36 views each.
    whole = PERSONX_BACKGROUND.times(6)
    assert whole.train.images + whole.gallery.images == 1266 * 36 * 6


@pytest.mark.parametrize("layout", ["veri776", "crops"])
def test_a_layout_that_was_asked_for_is_not_replaced(tmp_path: Path, layout: LayoutName) -> None:
    with pytest.raises(InputError, match=f"has not the layout {layout}"):
        open_benchmark(write_market(tmp_path), layout=layout)


def test_an_unknown_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no layout 'cuhk03'\. Give one of: auto, market1501"):
        open_benchmark(tmp_path, layout="cuhk03")  # type: ignore[arg-type]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data is no folder"):
        open_benchmark(tmp_path / "data")


def test_a_split_among_other_folders_is_pointed_at_and_not_taken(tmp_path: Path) -> None:
    root = write_market(tmp_path / "site" / "split")
    (tmp_path / "site" / "videos").mkdir()
    with pytest.raises(InputError, match=re.escape(f"but {root} is")):
        open_benchmark(tmp_path / "site")


def test_a_folder_of_crops_cannot_be_scored_on(crops: Path) -> None:
    with pytest.raises(InputError, match=r"tells nobody's identity.*--pattern or --csv"):
        open_benchmark(crops)


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    write_names(tmp_path, bounding_box_test=["0001_c1s1_000001_00.jpg"])
    with pytest.raises(InputError, match="query does not exist"):
        open_benchmark(tmp_path)
