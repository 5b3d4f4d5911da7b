from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "train_speed.py"


def test_both_sides_are_measured_in_one_run(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "data-tiny").symlink_to(tiny_data)
    shape = ["encoder.input_size=[32, 32]", "sampler.clusters=4", "sampler.images=4"]
    command = [sys.executable, str(BENCHMARK), "--data", "tiny", "--rounds", "2", "--epochs", "1", "--steps", "2"]
    command += [part for value in shape for part in ("--set", value)]
    command += ["--output", str(tmp_path / "work"), "--result", str(tmp_path / "speed.json")]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "speed.json").read_text())
    assert len(result["rounds"]) == 2
    assert all(turn["bare"] > 0 and turn["loop"] > 0 and turn["epoch"] > 0 for turn in result["rounds"])
    assert (result["batch"], result["threads"], result["encoder"]) == (16, 1, "small")
    assert json.loads(done.stdout)["ratio"] == result["ratio"]
