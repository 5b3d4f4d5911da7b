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

from reidge.train import choose, features
from reidge.train.choose import silhouette
from reidge.train.features import all_finite, map_features, open_writer, remove_features, take
from reidge.train.labels import OUTLIER
from reidge.train.memory import ClusterMemory, cluster_sums

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


def unit(number: int, width: int = 8) -> torch.Tensor:
    return functional.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(0)), dim=1)


def stored(folder: Path, x_ND: torch.Tensor) -> torch.Tensor:
    with open_writer(folder, (len(x_ND), x_ND.shape[1]), slice(0, len(x_ND)), key="a") as writer:
        writer.write(x_ND.numpy())
    return map_features(folder, (len(x_ND), x_ND.shape[1]))


def test_what_is_written_in_parts_is_read_as_one_float16_tensor(tmp_path: Path) -> None:
    x_ND = unit(30)
    with open_writer(tmp_path, (30, 8), slice(0, 30), key="a") as writer:
        for start in range(0, 30, 7):
            writer.write(x_ND[start : start + 7].numpy())
    assert torch.equal(map_features(tmp_path, (30, 8)), x_ND.half())


def test_each_process_writes_its_own_rows(tmp_path: Path) -> None:
    x_ND = unit(10)
    for rows in (slice(6, 10), slice(0, 6)):
        with open_writer(tmp_path, (10, 8), rows, key="a") as writer:
            writer.write(x_ND[rows].numpy())
    assert torch.equal(map_features(tmp_path, (10, 8)), x_ND.half())


def test_an_interrupted_extraction_goes_on_where_it_was_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SAVE_EVERY", 8)
    x_ND = unit(30)
    with suppress(KeyboardInterrupt), open_writer(tmp_path, (30, 8), slice(0, 30), key="a") as writer:
        for start in range(0, 20, 4):  # 16 rows are saved, 4 are not
            writer.write(x_ND[start : start + 4].numpy())
        raise KeyboardInterrupt
    with open_writer(tmp_path, (30, 8), slice(0, 30), key="a") as writer:
        assert writer.done == 16
        writer.write(x_ND[16:].numpy())
    assert torch.equal(map_features(tmp_path, (30, 8)), x_ND.half())


@pytest.mark.parametrize(("rows", "key"), [(slice(0, 30), "b"), (slice(0, 29), "a")])
def test_another_extraction_begins_anew(rows: slice, key: str, tmp_path: Path) -> None:
    stored(tmp_path, unit(30))
    with suppress(KeyboardInterrupt), open_writer(tmp_path, (30, 8), rows, key=key) as writer:
        assert writer.done == 0
        raise KeyboardInterrupt


@pytest.mark.parametrize("text", ["", "[]", '{"done": 3}', '{"key": '])
def test_a_damaged_note_of_the_progress_begins_anew(text: str, tmp_path: Path) -> None:
    stored(tmp_path, unit(30))
    note = tmp_path / "features.f16.0.json"
    assert json.loads(note.read_text())["done"] == 30
    note.write_text(text)
    with suppress(KeyboardInterrupt), open_writer(tmp_path, (30, 8), slice(0, 30), key="a") as writer:
        assert writer.done == 0
        raise KeyboardInterrupt


def test_a_full_disk_is_said_before_anything_is_extracted(tmp_path: Path) -> None:
    # To a file that may not grow the kernel says much the same as on a full disk.
    program = f"""
import resource, pathlib
from reidge.train.features import open_writer
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
with open_writer(pathlib.Path({str(tmp_path)!r}), (10_000, 64), slice(0, 10_000), key="a"):
    print("extracting")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "extracting" not in done.stdout
    assert "ReidgeError" in done.stderr
    assert "File too large. The features take 0.00 GiB; free some space and go on with --resume" in done.stderr


def test_nothing_is_left_once_the_features_are_removed(tmp_path: Path) -> None:
    stored(tmp_path, unit(30))
    remove_features(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_rows_and_sums_of_a_file_are_those_of_its_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 7)
    monkeypatch.setattr(choose, "CLUSTERS_AT_ONCE", 3)
    on_disk = stored(tmp_path, unit(60))
    in_memory = on_disk.float()
    labels_N = np.arange(60) % 11 + OUTLIER
    indices = torch.tensor([[3, 50], [0, 3]])
    assert torch.equal(take(on_disk, indices, CPU), in_memory[indices])
    labels = torch.from_numpy(labels_N)
    torch.testing.assert_close(cluster_sums(on_disk, labels), cluster_sums(in_memory, labels), rtol=0, atol=1e-6)
    memories = [ClusterMemory.from_labels(x, labels, momentum=0.1, temperature=0.05) for x in (on_disk, in_memory)]
    torch.testing.assert_close(memories[0].centroids_KD, memories[1].centroids_KD, rtol=0, atol=1e-6)
    scores = [silhouette(x, labels_N, rng=np.random.default_rng(0), sample=40) for x in (on_disk, in_memory)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_one_number_that_is_none_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 7)
    x_ND = unit(30).half()
    assert all_finite(x_ND)
    x_ND[29, 3] = torch.inf
    assert not all_finite(x_ND)
