from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from reidge.cli.doctor import (
    EXTRAS,
    NEEDS,
    Requirement,
    examine_extra,
    examine_stage,
    findings,
    install_command,
    lines_of,
    requirements,
)
from reidge.cli.main import STAGES

if TYPE_CHECKING:
    from pathlib import Path

WORKS = {"version": "1"}
MISSING = {"missing": True}


def everything(**different: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every package present and well, except as told."""
    modules = {need.module for needs in requirements().values() for need in needs}
    return {module: different.get(module, WORKS) for module in modules}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """What the real command says of the machine the tests run on."""
    command = [sys.executable, "-m", "reidge.cli.main", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return dict(json.loads(done.stdout))


def test_the_machine_is_described(report: dict[str, Any]) -> None:
    assert report["cpu"]["cores"] >= 1
    assert report["memory"]["total_gib"] > 0
    assert report["python"] == ".".join(map(str, sys.version_info[:3]))


def test_the_runtimes_name_what_they_run_on(report: dict[str, Any]) -> None:
    assert "CPUExecutionProvider" in report["packages"]["onnxruntime"]["providers"]
    assert "CPU" in report["packages"]["openvino"]["devices"]
    assert "FFMPEG" in report["packages"]["cv2"]["video_backends"]


def test_every_stage_works_where_the_tests_run(report: dict[str, Any]) -> None:
    assert set(report["stages"]) == set(STAGES)
    broken = {stage for stage, state in report["stages"].items() if not state["works"]}
    assert broken <= {"engine"}
    assert report["stages"]["engine"]["works"] == ("missing" not in report["packages"]["tensorrt"])


def test_the_report_reads_as_lines(report: dict[str, Any]) -> None:
    text = "\n".join(lines_of(report))
    assert "  run          works on openvino, onnxruntime" in text
    assert all(f"\n  {extra} " in text for extra in EXTRAS)


def test_where_nothing_imports_each_package_is_a_finding_and_the_status_is_1(tmp_path: Path) -> None:
    for module in everything():
        if module != "tqdm":  # the command's own progress needs it
            (tmp_path / f"{module}.py").write_text("raise ImportError('broken on purpose')")
    command = [sys.executable, "-m", "reidge.cli.main", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "torch: ImportError: broken on purpose" in done.stdout
    assert "lacks" in done.stdout


def test_every_stage_says_what_it_needs() -> None:
    assert set(NEEDS) == set(STAGES)


def test_the_export_extra_includes_that_of_training() -> None:
    wanted = requirements()
    assert set(wanted["train"]) < set(wanted["export"])


def test_the_edge_runs_without_torch() -> None:
    packages = everything(torch=MISSING, torchvision=MISSING)
    wanted = requirements()
    assert examine_stage("run", wanted, packages)["works"]
    assert examine_stage("train", wanted, packages) == {"works": False, "lacking": ["torch", "torchvision"]}


def test_one_of_the_two_runtimes_is_enough() -> None:
    wanted = requirements()
    assert examine_stage("run", wanted, everything(openvino=MISSING))["on"] == ["onnxruntime"]
    neither = everything(openvino=MISSING, onnxruntime=MISSING)
    assert examine_stage("run", wanted, neither)["lacking"] == ["openvino or onnxruntime"]


def test_a_jetson_runs_on_its_tensorrt_alone() -> None:
    wanted = requirements()
    packages = everything(openvino=MISSING, onnxruntime=MISSING)
    assert examine_stage("run", wanted, packages, gpus=[{"name": "Orin"}])["on"] == ["tensorrt"]
    assert not examine_stage("run", wanted, packages, gpus=[])["works"]
    assert not examine_stage("export", wanted, packages, gpus=[{"name": "Orin"}])["works"]  # graphs are judged on CPUs


def test_the_command_for_a_missing_extra_names_its_packages_with_their_versions() -> None:
    needs = [
        Requirement(distribution="lap", specifier="lap>=0.5.12"),
        Requirement(distribution="av", specifier="av>=13"),
    ]
    state = examine_extra("edge", needs, {"lap": MISSING, "av": WORKS}, gpus=[])
    assert state["lacking"] == ["lap"]
    assert state["install"].endswith("'lap>=0.5.12'")
    assert sys.executable in state["install"]


def test_a_broken_package_is_installed_afresh() -> None:
    needs = [Requirement(distribution="lap", specifier="lap>=0.5.12")]
    assert "--force-reinstall" in install_command(needs, {"lap": {"error": "ImportError: x"}})


def test_onnx_runtime_for_gpus_replaces_the_one_for_cpus() -> None:
    # The two are one import package: installed together, each overwrites the other's files.
    needs = [Requirement(distribution="onnxruntime-gpu", specifier="onnxruntime-gpu>=1.19")]
    cpu_only = {"onnxruntime": {"version": "1", "providers": ["CPUExecutionProvider"]}}
    state = examine_extra("cuda", needs, cpu_only, gpus=[])
    assert "uninstall" in state["install"]
    assert "no NVIDIA GPU" in state["note"]
    cuda = {"onnxruntime": {"version": "1", "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}}
    assert examine_extra("cuda", needs, cuda, gpus=[]) == {"complete": True, "lacking": []}


def test_a_gpu_that_torch_cannot_use_is_a_finding() -> None:
    packages: dict[str, dict[str, Any]] = {"torch": {"version": "1", "built_for_cuda": None, "gpus": []}}
    (finding,) = findings(packages, [{"name": "NVIDIA H200"}])
    assert finding == "torch cannot use the NVIDIA H200: this is a build without CUDA."
    assert list(findings(packages, [])) == []
