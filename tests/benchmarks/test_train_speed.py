from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    import pytest


def test_both_sides_are_measured_in_one_run(
    benchmark: Callable[[str], ModuleType],
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "data-tiny").symlink_to(tiny_data)
    shape = ["encoder.input_size=[32, 32]", "sampler.clusters=4", "sampler.images=4"]
    command = ["train_speed.py", "--data", "tiny", "--rounds", "2", "--epochs", "1", "--steps", "2"]
    command += [part for value in shape for part in ("--set", value)]
    command += ["--output", str(tmp_path / "work"), "--result", str(tmp_path / "speed.json")]
    monkeypatch.setattr(sys, "argv", command)
    assert benchmark("train_speed").main() == 0
    result = json.loads((tmp_path / "speed.json").read_text())
    assert len(result["rounds"]) == 2
    assert all(turn["bare"] > 0 and turn["loop"] > 0 and turn["epoch"] > 0 for turn in result["rounds"])
    assert (result["batch"], result["encoder"], result["input_size"]) == (16, "small", [32, 32])
    assert json.loads(capsys.readouterr().out)["ratio"] == result["ratio"]


def test_the_table_shows_both_sides_and_the_machine(benchmark: Callable[[str], ModuleType], tmp_path: Path) -> None:
    document = tmp_path / "results.md"
    document.write_text("<!-- train-speed-cpu -->\n<!-- /train-speed-cpu -->\n")
    result = {
        "device": "cpu", "encoder": "small", "input_size": [128, 64], "batch": 128, "precision": "float32",
        "bare_images_per_second": 500.0, "loop_images_per_second": 450.0, "epoch_images_per_second": 300.0,
        "ratio": 0.9, "goal": 0.8, "threads": 2, "rounds": [{}] * 3, "date": "2026-01-01", "versions": {"torch": "2"},
        "machine": {"cpu": {"model": "x", "cores": 2}, "gpus": [], "system": {"python": "3"}},
    }  # fmt: skip
    benchmark("train_speed").write_table(result, document)
    assert "| 500.0 | 450.0 | 0.90 | 0.8 | 300.0 |" in document.read_text()
