from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional

from reidge.edge.errors import ReidgeError
from reidge.train import choose, features
from reidge.train.attention import AttentionConfig, ClusterAttention, draw_members, train_attention
from reidge.train.choose import silhouette
from reidge.train.distil import DistilConfig, Relations
from reidge.train.features import (
    all_finite,
    map_features,
    open_writer,
    remove_features,
    reserve_features,
    take,
)
from reidge.train.labels import OUTLIER
from reidge.train.memory import ClusterMemory, InstanceMemory

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


def unit(number: int, width: int = 8) -> torch.Tensor:
    return functional.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(0)), dim=1)


def stored(folder: Path, x_ND: torch.Tensor) -> torch.Tensor:
    shape = (len(x_ND), x_ND.shape[1])
    reserve_features(folder, shape)
    with open_writer(folder, shape, slice(0, len(x_ND)), key="a") as writer:
        writer.write(x_ND.numpy())
    return map_features(folder, shape)


def done(folder: Path, *, rows: slice = slice(0, 30), key: str = "a") -> int:
    """How many rows an extraction finds done."""
    with suppress(KeyboardInterrupt), open_writer(folder, (30, 8), rows, key=key) as writer:
        raise KeyboardInterrupt
    return writer.done


def test_what_is_written_in_parts_is_read_as_one_float16_tensor(tmp_path: Path) -> None:
    x_ND = unit(30)
    reserve_features(tmp_path, (30, 8))
    with open_writer(tmp_path, (30, 8), slice(0, 30), key="a") as writer:
        for start in range(0, 30, 7):
            writer.write(x_ND[start : start + 7].numpy())
    assert torch.equal(map_features(tmp_path, (30, 8)), x_ND.half())


def test_each_process_writes_its_own_rows(tmp_path: Path) -> None:
    x_ND = unit(10)
    reserve_features(tmp_path, (10, 8))
    for rows in (slice(6, 10), slice(0, 6)):
        with open_writer(tmp_path, (10, 8), rows, key="a") as writer:
            writer.write(x_ND[rows].numpy())
    assert torch.equal(map_features(tmp_path, (10, 8)), x_ND.half())


def test_an_interrupted_extraction_goes_on_where_it_was_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SAVE_EVERY", 8)
    x_ND = unit(30)
    reserve_features(tmp_path, (30, 8))
    with suppress(KeyboardInterrupt), open_writer(tmp_path, (30, 8), slice(0, 30), key="a") as writer:
        for start in range(0, 20, 4):  # 16 rows are saved, 4 are not
            writer.write(x_ND[start : start + 4].numpy())
        raise KeyboardInterrupt
    reserve_features(tmp_path, (30, 8))
    with open_writer(tmp_path, (30, 8), slice(0, 30), key="a") as writer:
        assert writer.done == 16
        writer.write(x_ND[16:].numpy())
    assert torch.equal(map_features(tmp_path, (30, 8)), x_ND.half())


@pytest.mark.parametrize(("rows", "key"), [(slice(0, 30), "b"), (slice(0, 29), "a")])
def test_another_extraction_begins_anew(rows: slice, key: str, tmp_path: Path) -> None:
    stored(tmp_path, unit(30))
    assert done(tmp_path) == 30
    assert done(tmp_path, rows=rows, key=key) == 0


@pytest.mark.parametrize("text", ["", "[]", '{"done": 3}', '{"key": '])
def test_a_damaged_note_of_the_progress_begins_anew(text: str, tmp_path: Path) -> None:
    stored(tmp_path, unit(30))
    note = tmp_path / "features.f16.0.json"
    assert json.loads(note.read_text())["done"] == 30
    note.write_text(text)
    assert done(tmp_path) == 0


@pytest.mark.parametrize("other", [None, (20, 8)])
def test_features_that_somebody_removed_are_not_taken_for_done(other: tuple[int, int] | None, tmp_path: Path) -> None:
    stored(tmp_path, unit(30))
    if other is None:
        (tmp_path / "features.f16").unlink()  # to make room, and the small note was overlooked
    else:
        reserve_features(tmp_path, other)
    reserve_features(tmp_path, (30, 8))
    assert done(tmp_path) == 0


def test_a_folder_that_only_one_machine_sees_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(ReidgeError, match=r"features\.f16 is not there\. .* an --output that all of them see"),
        open_writer(tmp_path, (30, 8), slice(0, 30), key="a"),
    ):
        pass


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ReidgeError, match=r"of 1000000000000 crops take 3814697\.27 GiB in .*, where [\d.]+ are free"):
        reserve_features(tmp_path, (10**12, 2048))
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_refuses_is_said_before_anything_is_extracted(tmp_path: Path) -> None:
    # To a file that may not grow the kernel says much the same as on a full disk.
    program = f"""
import resource, pathlib
from reidge.train.features import reserve_features
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
reserve_features(pathlib.Path({str(tmp_path)!r}), (10_000, 1024))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ReidgeError: the features of 10000 crops take 0.02 GiB in" in ended.stderr
    assert "which fails: File too large. Free some space and go on with --resume" in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_once_the_features_are_removed(tmp_path: Path) -> None:
    stored(tmp_path, unit(30))
    remove_features(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The same 60 features in a file and in memory, to be read in several blocks."""
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(choose, "CLUSTERS_AT_ONCE", 3)
    on_disk = stored(tmp_path, unit(60))
    assert on_disk.dtype == torch.float16
    return [on_disk, on_disk.float()]


LABELS = torch.arange(60) % 11 + OUTLIER
"""Clusters 0 .. 9, and outliers."""


def test_rows_of_a_file_are_those_of_memory(both: list[torch.Tensor]) -> None:
    indices = torch.tensor([[3, 50], [0, 3]])
    assert torch.equal(take(both[0], indices, CPU), both[1][indices])


def test_centroids_of_a_file_are_those_of_memory(both: list[torch.Tensor]) -> None:
    on_disk, in_memory = (ClusterMemory.from_labels(x, LABELS, momentum=0.1, temperature=0.05) for x in both)
    assert torch.equal(on_disk.centroids_KD, in_memory.centroids_KD)
    assert on_disk.centroids_KD.shape == (10, 8)


def test_the_silhouette_of_a_file_is_that_of_memory(both: list[torch.Tensor]) -> None:
    on_disk, in_memory = (silhouette(x, LABELS.numpy(), rng=np.random.default_rng(0), sample=40) for x in both)
    assert on_disk == in_memory
    assert on_disk is not None


def test_attention_to_a_file_is_that_to_memory(both: list[torch.Tensor]) -> None:
    found = []
    for x_ND in both:
        torch.manual_seed(0)
        config = AttentionConfig(heads=2, head_dim=4, steps=3)
        attention = ClusterAttention(8, config)
        members = draw_members(LABELS.numpy(), 4, np.random.default_rng(0), CPU)
        train_attention(attention, x_ND, members, config, 0.05, np.random.default_rng(0))
        found.append(attention.prototypes(x_ND, members))
    assert torch.equal(*found)


def test_memories_of_images_begin_with_a_file_as_with_memory(both: list[torch.Tensor]) -> None:
    x_BD, images_B = unit(4), torch.tensor([9, 2, 3, 9])
    found = []
    for x_ND in both:
        memory = InstanceMemory(x_ND, LABELS, momentum=0.1, temperature=0.05)
        relations = Relations(unit(60), x_ND, DistilConfig())
        memory.update(x_BD, images_B)
        relations.update(x_BD[:3], images_B[:3])
        found.append((memory.logits(x_BD), relations.loss(x_BD, images_B)))
        assert torch.equal(x_ND[9].float(), both[1][9])  # theirs is a copy
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_one_number_that_is_none_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 7)
    x_ND = unit(30).half()
    assert all_finite(x_ND)
    x_ND[29, 3] = torch.inf
    assert not all_finite(x_ND)
