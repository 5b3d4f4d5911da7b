from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType


def turn(**speeds: float) -> dict[str, float]:
    """A round, with `_` for the spaces in the names of its sides."""
    return {name.replace("_", " "): speed for name, speed in speeds.items()}


TURNS = [
    turn(
        onnxruntime_float_f32=20,
        openvino_float_f32_latency=30,
        openvino_float_bf16_latency=80,
        openvino_float_bf16_throughput=100,
        openvino_int8_latency=120,
        openvino_int8_throughput=150,
    ),
    turn(
        onnxruntime_float_f32=20,
        openvino_float_f32_latency=30,
        openvino_float_bf16_latency=100,
        openvino_float_bf16_throughput=90,
        openvino_int8_latency=160,
        openvino_int8_throughput=140,
    ),
]


def test_int8_is_held_against_the_best_float_of_its_round(benchmark: Callable[[str], ModuleType]) -> None:
    ratios = benchmark("int8_speed").ratios_of(TURNS)
    assert ratios["onnxruntime_float"] == {"median": 7, "least": 6, "largest": 8}  # 120 / 20, 160 / 20
    assert ratios["openvino_float"] == pytest.approx({"median": 1.55, "least": 1.5, "largest": 1.6})  # 150/100, 160/100
    assert ratios["openvino_float_as_run"] == pytest.approx({"median": 1.55, "least": 1.5, "largest": 1.6})  # 120/80


def test_all_sides_of_a_small_encoder_are_measured_and_written(
    benchmark: Callable[[str], ModuleType],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["int8_speed.py", "--encoder", "small", "--rounds", "2", "--seconds", "0.01", "--threads", "1"]
    command += ["--output", str(tmp_path / "work"), "--result", str(tmp_path / "speed.json")]
    monkeypatch.setattr(sys, "argv", command)
    module = benchmark("int8_speed")
    assert module.main() in (0, 1)  # whether such a small network reaches the goals is not the question here
    result = json.loads((tmp_path / "speed.json").read_text())
    assert len(result["rounds"]) == 2
    assert {"onnxruntime float f32", "openvino float f32 latency", "openvino int8 latency"} <= set(result["sides"])
    for name, side in result["sides"].items():
        assert 0 < side["least"] <= side["images_per_second"] <= side["largest"], name
        assert side["cosine"] > 0.98, name  # all sides compute the same
    assert list(result["sides"]["openvino float f32 latency"]["convolutions"]) == ["f32"]
    assert json.loads(capsys.readouterr().out)["reached"] == result["reached"]

    document = tmp_path / "page.md"
    document.write_text("<!-- int8-speed -->\n<!-- /int8-speed -->\n")
    module.write_table(result, document)
    assert "| openvino int8 latency | " in document.read_text()
    assert "times as fast as ONNX Runtime's float" in document.read_text()


def test_no_rounds_are_refused(benchmark: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["int8_speed.py", "--rounds", "0"])
    with pytest.raises(InputError, match="must be positive"):
        benchmark("int8_speed").main()
