from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from reidge.train.checkpoint import save_encoder
from reidge.train.encoders import build_encoder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType


def test_every_way_to_take_ranges_is_measured_and_tabulated(
    benchmark: Callable[[str], ModuleType], tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantisation = benchmark("quantisation")
    work, result = tmp_path / "work", tmp_path / "result.json"
    torch.manual_seed(0)
    save_encoder(build_encoder("small", input_size=(64, 32)).eval(), work / "small" / "encoder.safetensors")
    (work / "data").symlink_to(tiny_data)
    command = ["quantisation.py", "--setting", "tiny", "--encoder", "small", "--data", "simulated", "--threads", "1"]
    command += ["--calibration-size", "16", "--output", str(work), "--result", str(result)]
    monkeypatch.setattr(sys, "argv", command)
    quantisation.main()
    (part,) = json.loads(result.read_text())["parts"]
    assert set(part["ways"]) == {"max", "percentile", "mse", "entropy", "auto"}
    for found in part["ways"].values():
        assert 0 < found["all_int8"]["map"] <= 1
        assert found["searched"]["float_share"] <= 0.25
        assert found["all_int8"]["missed"] or found["searched"]["float_blocks"] == []
    document = tmp_path / "quantisation.md"
    document.write_text("<!-- quantisation -->\n<!-- /quantisation -->\n")
    monkeypatch.setattr(quantisation, "DOCUMENT", document)
    monkeypatch.setattr(sys, "argv", [*command, "--table"])
    quantisation.main()
    assert document.read_text().count("`small`, simulated") == 5


@pytest.mark.parametrize(
    ("found", "reference", "text"), [(0.701, 0.703, "70.1 (-0.2)"), (0.5, 0.49, "50.0 (+1.0)"), (None, None, "")]
)
def test_a_change_is_in_points(
    benchmark: Callable[[str], ModuleType], found: float | None, reference: float | None, text: str
) -> None:
    assert benchmark("quantisation").loss(found, reference) == text
