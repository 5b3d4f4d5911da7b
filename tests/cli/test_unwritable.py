from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reidge.cli.main import main
from reidge.edge.crops import CropRecord, CropWriter
from reidge.train.checkpoint import save_encoder
from reidge.train.encoders import build_encoder

LOCKED = Path("/sys/reidge")
"""Linux lets nobody make a folder here, not even root."""


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    with CropWriter(tmp_path / "crops") as writer:
        for shot in range(64):
            record = CropRecord(
                path=f"{shot}.jpg",
                camid=f"cam{shot % 2}",
                tracklet=f"t{shot // 4}",
                captured_at=float(shot),
                x1=0,
                y1=0,
                x2=32,
                y2=64,
                score=1,
                sharpness=1,
            )
            writer.add(rng.integers(0, 255, (64, 32, 3), dtype=np.uint8), record)
    return tmp_path / "crops"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "encoder.safetensors"
    save_encoder(build_encoder("small", input_size=(64, 32)), path)
    return path


@pytest.fixture
def site(tmp_path: Path, tiny_bundle: Path, walks: dict[str, Path]) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(
        f"bundle: {tiny_bundle}\ncameras:\n  - {{name: cam1, source: {walks['cam1']}}}\n"
        f"identity: {{min_similarity: 0.5}}\noutputs: {{events: {LOCKED}/events.jsonl}}\n"
    )
    return path


@pytest.fixture
def commands(crops: Path, encoder: Path, site: Path, walks: dict[str, Path]) -> dict[str, list[str]]:
    tiny = ["--set", "warmup.epochs=1", "--set", "warmup.iters=1", "--set", "loop.epochs=1", "--set", "loop.iters=1"]
    return {
        "demo": ["demo", "--output", str(LOCKED)],
        "harvest": ["harvest", "--footage", f"cam1={walks['cam1']}", "--output", str(LOCKED)],
        "train": ["train", str(crops), "--output", str(LOCKED), *tiny],
        "export": ["export", str(encoder), "--crops", str(crops), "--output", str(LOCKED)],
        "run": ["run", str(site), "--json"],
    }


@pytest.mark.parametrize("stage", ["demo", "harvest", "train", "export", "run"])
def test_an_output_nobody_may_write_is_one_line(
    stage: str, commands: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(commands[stage]) in (1, 2)
    failures = [line for line in capsys.readouterr().err.splitlines() if line.startswith(f"reidge {stage}: ")]
    assert len(failures) == 1
    assert "/sys" in failures[0]
    assert "Operation not permitted" in failures[0] or "cannot be" in failures[0]
