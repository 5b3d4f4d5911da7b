from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType


def test_every_way_to_quantise_has_its_row(benchmark: Callable[[str], ModuleType], shared: Path) -> None:
    module = benchmark("detector_int8")
    frames = [shared / "media" / "one-by-one-person-detection.mp4"]
    result = module.measure(shared / "weights" / "yolox_nano.onnx", frames, count=6, threads=1, methods=["mse"])
    assert (result["blocks"], result["depthwise_blocks"]) == (106, 30)
    table = module.describe(result)
    assert "| in float, mse |" in table
    assert table.count("\n| in ") == 2
