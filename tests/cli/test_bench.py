from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from reidge.cli.main import main
from reidge.edge.backends.choice import recall
from reidge.edge.bundle import Bundle

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, and a cache of this test's own."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("REIDGE_CACHE", str(tmp_path / "cache"))


QUICK = ["--batch", "1", "2", "--seconds", "0.01", "--threads", "1"]


def test_json_holds_every_figure_and_what_it_ran_on(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(tiny_bundle), "--json", *QUICK]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert {(speed["backend"], speed["batch"]) for speed in report["speeds"]} == {
        (name, batch) for name in ("openvino", "onnxruntime") for batch in (1, 2)
    }
    assert set(report["speeds"][0]) == {
        "backend", "precision", "batch", "calls", "images_per_second", "median_ms", "p95_ms", "start_seconds",
        "golden_cosine_mean", "golden_cosine_min",
    }  # fmt: skip
    assert report["threads"] == 1
    assert report["machine"]["cpu"]["cores"] >= 1
    assert "onnxruntime" in report["versions"]
    assert "tensorrt" in report["missing"]
    assert "not measured: tensorrt: " in err


def test_people_get_a_table_with_a_row_for_each_measurement(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), "--backend", "onnxruntime", *QUICK]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert " ".join(header.split()) == "backend precision batch images/s median ms p95 ms start s golden"
    assert {row.split()[-1] for row in rows} == {"1.0000"}
    assert [row.split()[:3] for row in rows] == [["onnxruntime", "float", "1"], ["onnxruntime", "float", "2"]]


def test_the_fastest_is_kept_only_when_asked(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = Bundle.load(tiny_bundle)
    command = ["bench", str(tiny_bundle), "--backend", "onnxruntime", *QUICK]
    assert main(command) == 0
    assert recall(bundle) is None
    assert main([*command, "--choose"]) == 0
    chosen = recall(bundle)
    assert chosen is not None
    assert chosen.backend == "onnxruntime"
    assert "onnxruntime, float is what auto takes here from now on." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "has no int8 graph, only float"),
        (["--precision", "int4"], "has no int4 graph, only float"),
        (["--backend", "openvino", "numpy"], "the backend 'numpy' is unknown. Choose of tensorrt, "),
        (["--backend", "int8"], "the backend 'int8' is unknown"),
        (["--batch", "65"], "batches are 1 to 64, got 65"),
        (["--seconds", "nan"], "seconds to measure must be more than 0"),
        (["--threads", "0"], "threads must be at least 1"),
    ],
)
def test_wrong_input_is_one_line(
    tiny_bundle: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("reidge bench: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_backend_that_is_not_here_is_one_line_with_its_reason(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_bundle), "--backend", "tensorrt"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("reidge bench: nothing could be measured: tensorrt: ")
