from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from reidge.train.checkpoint import save_encoder

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.train.encoders.encoder import Encoder

# To a file that may not grow the kernel says much the same as on a full disk.
PROGRAM = """
import resource, sys
import torch
from reidge.cli.main import main

torch.set_num_threads(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
raise SystemExit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_one_line_and_leaves_no_part_of_a_bundle(
    tmp_path: Path, small_encoder: Encoder, crop_folder: Path
) -> None:
    save_encoder(small_encoder, tmp_path / "encoder.safetensors")
    command = ["export", str(tmp_path / "encoder.safetensors"), "--crops", str(crop_folder), "--method", "max"]
    command += ["--calibration-size", "8", "--output", str(tmp_path / "bundle")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("reidge export: ")
    assert str(tmp_path) in last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.safetensors"]
