from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import torch

from reidge.train.checkpoint import save_encoder
from reidge.train.encoders import build_encoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    import pytest


def test_each_change_gets_a_verdict(
    benchmark: Callable[[str], ModuleType], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    save_encoder(build_encoder("small", input_size=(64, 32)).eval(), tmp_path / "encoder.safetensors")
    drift = benchmark("drift")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "data-tiny").symlink_to(tiny_data)
    monkeypatch.setattr(drift, "PARTS", 1)
    monkeypatch.setattr(drift, "CHANGES", {"at night": drift.at_night})
    command = ["drift.py", "--encoder", str(tmp_path / "encoder.safetensors"), "--data", "tiny"]
    command += ["--output", str(tmp_path / "work"), "--result", str(tmp_path / "drift.json")]
    monkeypatch.setattr(sys, "argv", command)
    assert drift.main() == 0
    rows = json.loads((tmp_path / "drift.json").read_text())["rows"]
    assert [row["change"] for row in rows] == ["nothing, part 1", "nothing", "at night"]
    assert {row["verdict"] for row in rows} <= {"fine", "look", "recalibrate"}
    assert all(0 < row["cosine_now"] <= 1.00001 for row in rows)


def test_the_table_has_a_line_for_each_change_and_counts_the_parts(
    benchmark: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    document = tmp_path / "results.md"
    document.write_text("<!-- drift -->\n<!-- /drift -->\n")
    row = {
        "verdict": "fine", "inhomogeneity": 0.001, "novel_share": 0.06, "saturation_now": 0.0005, "cosine_now": 0.998,
        "false_matches": None, "same_matches": 0.9,
    }  # fmt: skip
    changes = ["nothing, part 1", "nothing, part 2", "nothing", "at night"]
    result = {
        "encoder": "e", "rows": [{**row, "change": change} for change in changes], "date": "2026-01-01",
        "machine": {"cpu": {"model": "x", "cores": 2}, "gpus": [], "system": {"python": "3"}},
        "versions": {"torch": "2"},
    }  # fmt: skip
    benchmark("drift").write_table(result, document)
    text = document.read_text()
    assert "| at night: **fine** | 0.001 | 6% | 0.05% | 0.9980 |  | 90.0% |" in text
    assert text.count("| nothing") == 1
    assert "Of 2 parts of the unchanged half 2 are `fine`." in text
