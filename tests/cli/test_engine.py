from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from reidge.cli.main import main
from reidge.edge.bundle import describe_file
from reidge.edge.engine_cache import EngineCache, EngineOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def spoil_golden(bundle: Path) -> None:
    """Give the bundle golden embeddings that its graph does not compute."""
    path = bundle / "golden.npz"
    with np.load(path) as archive:
        np.savez(path, crops=archive["crops"], embeddings=archive["embeddings"][::-1])
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"]["golden.npz"] = describe_file(path).model_dump()
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def test_an_engine_is_built_checked_and_reported(
    install_tensorrt: Callable[[str], Any], tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt = install_tensorrt("10.3")
    assert main(["engine", str(tiny_bundle), "--batch", "1", "4", "16", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["built"]
    assert (report["precision"], report["tensorrt"], report["golden"]) == ("float", "10.3.0", "passed")
    assert 0.999 < report["golden_cosine_min"] <= report["golden_cosine_mean"] < 1.001
    assert report["gpu"] == "Orin, compute capability 8.7"
    # What was chosen here holds for `reidge run`, which is told nothing.
    (sha256,) = {path.name[:12] for path in EngineCache().folder.glob("*.engine")}
    assert tensorrt.builds == 1
    assert main(["engine", str(tiny_bundle), "--batch", "1", "4", "16", "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["built"]
    assert main(["engine", str(tiny_bundle), "--batch", "1", "4", "16", "--rebuild"]) == 0
    assert tensorrt.builds == 2
    assert sha256 == describe_file(tiny_bundle / "encoder.onnx").sha256[:12]
    assert EngineCache().options_for(describe_file(tiny_bundle / "encoder.onnx").sha256) == EngineOptions(
        best_batch=4, max_batch=16
    )


def test_an_engine_that_misses_the_golden_check_is_not_kept(
    install_tensorrt: Callable[[str], Any], tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install_tensorrt("10.3")
    spoil_golden(tiny_bundle)
    assert main(["engine", str(tiny_bundle)]) == 1
    assert "does not reproduce the golden embeddings" in capsys.readouterr().err
    assert list(EngineCache().folder.glob("*.engine")) == []
    assert list(EngineCache().folder.glob("*.options.json")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "8", "4", "16"], "batches must grow"),
        (["--dla-core", "0"], "a DLA takes one batch size"),
        (["--level", "9"], "level: must be less than or equal to 5"),
        (["--precision", "int8"], "no int8 graph"),
        (["--trtexec", "7"], "must be 8, 10 or 11"),
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["engine", str(tiny_bundle), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_manifest_of_brackets_is_one_line(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny_bundle / "manifest.json").write_text("[" * 100_000)
    assert main(["engine", str(tiny_bundle)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not JSON" in line


def test_without_tensorrt_the_remedy_is_one_line(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    monkeypatch.setenv("REIDGE_CACHE", str(tmp_path))
    (tmp_path / "engines").mkdir(mode=0o700)
    assert main(["engine", str(tiny_bundle)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "JetPack" in line


def test_a_read_only_cache_is_one_line(
    install_tensorrt: Callable[[str], Any],
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install_tensorrt("10.3")
    monkeypatch.setenv("REIDGE_CACHE", "/sys/reidge")  # where Linux lets nobody make a folder
    assert main(["engine", str(tiny_bundle)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "/sys/reidge/engines cannot be used" in line


def test_the_trtexec_command_is_printed_for_each_release(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REIDGE_CACHE", str(tmp_path / "cache"))
    path = tiny_bundle / "encoder.onnx"
    assert main(["engine", str(tiny_bundle), "--trtexec", "10"]) == 0
    out, err = capsys.readouterr()
    assert out == (
        f"trtexec --onnx={path} --saveEngine=encoder.engine --minShapes=crops:1x32x16x3 "
        "--optShapes=crops:8x32x16x3 --maxShapes=crops:64x32x16x3 --fp16\n"
    )
    assert "for timing: it pins no layer to FP32" in err
    assert main(["engine", str(tiny_bundle), "--trtexec", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"command": out.rstrip()}
    assert main(["engine", str(tiny_bundle), "--trtexec", "10", "--no-half"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["engine", str(tiny_bundle), "--trtexec", "11"]) == 0
    written = capsys.readouterr().out.split("--onnx=")[1].split()[0]
    kinds = {tensor.data_type for tensor in onnx.load(written).graph.initializer}
    assert onnx.TensorProto.FLOAT16 in kinds
