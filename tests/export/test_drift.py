from __future__ import annotations

import json
from typing import TYPE_CHECKING

from reidge.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from reidge.export.bundle import ExportReport


def test_the_crops_of_the_export_itself_are_no_drift(
    exported: ExportReport, crop_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drift", str(exported.path), "--crops", str(crop_folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["reasons"] == [
        "little to go by: tracklets 12, better 16 or more. Harvest longer before you trust this."
    ]
    assert report["enough"] is False
    assert (report["precision"], report["appearance"]["p_value"]) == ("int8", 1)
    assert len(report["saturation"]) == len(json.loads((exported.path / "scales.json").read_text())["activations"])
    assert abs(report["cosine_now"] - report["cosine_then"]) < 0.003
