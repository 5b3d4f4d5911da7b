from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from reidge.cli.main import main
from reidge.edge.crops import CropRecord, CropWriter

if TYPE_CHECKING:
    from pathlib import Path

TINY = (
    "encoder.input_size=[32, 16]", "encoder.stripes=1", "warmup.epochs=1", "warmup.iters=1", "loop.epochs=1",
    "loop.iters=1", "sampler.clusters=2", "sampler.images=2", "loop.device=cpu",
)  # fmt: skip
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def paint(pid: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 30, (32, 16, 3))
    return (np.array(COLOURS[pid]) + noise).astype(np.uint8)


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Three people of one colour each, eight crops in one camera."""
    with CropWriter(tmp_path / "crops") as writer:
        for pid in range(3):
            for i in range(8):
                record = CropRecord(
                    path=f"{pid}_{i}.jpg", camid="a", tracklet=str(pid), captured_at=i, x1=0, y1=0, x2=16, y2=32,
                    score=1, sharpness=1,
                )  # fmt: skip
                writer.add(paint(pid, 8 * pid + i), record)
    return tmp_path / "crops"


def write_split(root: Path, cameras: int) -> Path:
    for folder in ("query", "bounding_box_test"):
        (root / folder).mkdir(parents=True)
        for pid in range(3):
            for camera in range(cameras):
                path = root / folder / f"{pid + 1:04d}_c{camera + 1}s1_000000_00.jpg"
                cv2.imwrite(str(path), paint(pid, 100 + camera))
    return root


def settings() -> list[str]:
    return [part for setting in TINY for part in ("--set", setting)]


def test_train_then_evaluate(crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split, run = write_split(tmp_path / "split", 2), tmp_path / "run"
    assert main(["train", str(crops), "--output", str(run), "--split", str(split), "--json", *settings()]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert (trained["epochs"], trained["images"], trained["run"]) == (2, 24, str(run))
    assert main(["evaluate", str(run), "--data", str(split), "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated["map"] == pytest.approx(trained["map"], abs=0.01)
    assert (evaluated["queries"], evaluated["gallery"]) == (6, 6)
    assert main(["train", str(crops), "--output", str(run), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] == trained["loss"]


def test_histograms_tell_plain_colours_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = write_split(tmp_path / "split", 2)
    assert main(["evaluate", "histogram", "--data", str(split), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["map"] == pytest.approx(100)


def test_a_bundle_is_evaluated_on_its_runtime(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = write_split(tmp_path / "split", 2)
    arguments = ["--data", str(split), "--backend", "onnxruntime", "--json"]
    assert main(["evaluate", str(tiny_bundle), *arguments]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["map"] == pytest.approx(100)
    assert figures["model"] == "tiny_bundle (onnxruntime, float)"


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


def test_wrong_input_is_one_line_and_status_2(crops: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["--output", str(tmp_path / "run")]
    one_camera = write_split(tmp_path / "one", 1)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in failure(["train", str(tmp_path / "empty"), *run], capsys)
    assert "there is no recipe 'slow'" in failure(["train", str(crops), *run, "--recipe", "slow"], capsys)
    assert "unknown key" in failure(["train", str(crops), *run, "--set", "cluster.epz=1"], capsys)
    assert "holds no run" in failure(["train", str(crops), *run, "--resume"], capsys)
    assert "Leave out --recipe" in failure(["train", str(crops), *run, "--resume", "--set", "loop.seed=1"], capsys)
    assert "two cameras" in failure(["evaluate", "histogram", "--data", str(one_camera)], capsys)
    assert "does not exist" in failure(["evaluate", str(crops), "--data", str(one_camera)], capsys)
    assert "several data sets: crops, one" in failure(["evaluate", "histogram", "--data", str(tmp_path)], capsys)
    assert not (tmp_path / "run").exists()
