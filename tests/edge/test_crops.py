from __future__ import annotations

import struct
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import pytest

from reidge.edge.crops import COLUMNS, CropRecord, CropWriter, read_crop_folder, read_image
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

RECORD = CropRecord(
    path="a/0.jpg", camid="a", tracklet="t", captured_at=1.5, x1=0, y1=1, x2=2, y2=3, score=0.5, sharpness=7
)
GREY = np.full((8, 4, 3), 128, dtype=np.uint8)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    second = replace(RECORD, path="a/1.jpg", camid="tür")
    with CropWriter(tmp_path / "crops") as writer:
        writer.add(GREY, RECORD)
        writer.add(GREY, second)
    folder = read_crop_folder(tmp_path / "crops")
    assert folder.records == (RECORD, second)
    np.testing.assert_array_equal(read_image(folder.root / "a/0.jpg"), GREY)


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(cv2.error), CropWriter(tmp_path / "crops") as writer:
        writer.add(np.empty((0, 0, 3), dtype=np.uint8), RECORD)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_the_last_step_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError), CropWriter(tmp_path / "crops") as writer:
        writer.records.append(cast("CropRecord", "cannot be written as a row"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_a_name_of_its_own_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", ".."):
        with pytest.raises(InputError, match="has no name of its own"):
            CropWriter(type(tmp_path)(name))


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/secret.jpg", "a/../../secret.jpg"])
def test_a_path_cannot_leave_the_folder(path: str, tmp_path: Path) -> None:
    with CropWriter(tmp_path / "crops") as writer:
        writer.records.append(replace(RECORD, path=path))
    with pytest.raises(InputError, match=r"crops\.csv, line 2: the path .* leads out of the folder"):
        read_crop_folder(tmp_path / "crops")


def test_an_index_that_is_no_table_is_one_line(tmp_path: Path) -> None:
    header = ",".join(COLUMNS).encode()
    for content in (b"\xff\xfe\x00", header + b"\n\xff\xfe", b"x" * 200_000):
        (tmp_path / "crops.csv").write_bytes(content)
        with pytest.raises(InputError, match=r"crops\.csv is no CSV file") as caught:
            read_crop_folder(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_row_that_is_cut_off_is_named_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "crops.csv").write_text(",".join(COLUMNS) + "\na/0.jpg,a,t,1.0\n")
    with pytest.raises(InputError, match=r"crops\.csv, line 2: it has too few columns\. Mend or remove the line"):
        read_crop_folder(tmp_path)


def test_words_in_the_place_of_a_number_are_named(tmp_path: Path) -> None:
    (tmp_path / "crops.csv").write_text(",".join(COLUMNS) + "\na/0.jpg,a,t,noon" + ",1" * (len(COLUMNS) - 4) + "\n")
    with pytest.raises(InputError, match=r"line 2: captured_at is 'noon', which is no number\."):
        read_crop_folder(tmp_path)


@pytest.mark.parametrize("column", ["captured_at", "x1", "sharpness"])
def test_a_number_that_is_none_is_named(column: str, tmp_path: Path) -> None:
    change: Any = {column: float("nan")}
    with CropWriter(tmp_path / "crops") as writer:
        writer.records.append(replace(RECORD, **change))
    with pytest.raises(
        InputError, match=rf"crops\.csv, line 2: {column} is 'nan', which is no number\. Mend or remove the line"
    ):
        read_crop_folder(tmp_path / "crops")


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_an_image_that_claims_to_be_enormous_is_named(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(InputError, match=r"bomb\.png is not a readable image"):
        read_image(tmp_path / "bomb.png")
