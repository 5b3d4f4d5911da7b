"""What is installed is what stands in the tree."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
OURS = ("calibration", "cli", "demo", "edge", "export", "train")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in a wheel built from a copy of the tree, so that no build folder appears in it."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in OURS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(output)!r})"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = output.glob("reidge-*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_every_folder_with_an_init_is_listed_as_a_package(pyproject: dict[str, Any]) -> None:
    # One that is not listed still imports from a checkout and is silently absent from the wheel.
    inits = [path for name in OURS for path in (ROOT / name).rglob("__init__.py")]
    found = {"reidge." + ".".join(path.parent.relative_to(ROOT).parts) for path in inits}
    assert set(pyproject["tool"]["setuptools"]["packages"]) == found


def test_every_module_and_data_file_of_the_tree_is_in_the_wheel(wheel: set[str]) -> None:
    shipped = [path for name in OURS for path in (ROOT / name).rglob("*") if path.is_file()]
    expected = {
        f"reidge/{path.relative_to(ROOT).as_posix()}"
        for path in shipped
        if path.suffix in (".py", ".yaml", ".html", ".css", ".js", ".svg") or path.name == "py.typed"
    }
    assert expected <= wheel
    assert "reidge/edge/py.typed" in wheel


def test_no_test_or_benchmark_is_in_the_wheel(wheel: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"reidge"}
    assert {name.split("/")[1] for name in wheel if name.startswith("reidge/")} == set(OURS)


def test_type_checkers_find_each_package_where_it_stands() -> None:
    links = {path.name: path.resolve() for path in (ROOT / ".dev" / "reidge").iterdir()}
    assert links == {name: ROOT / name for name in OURS}


def test_constraints_pin_exactly_and_name_no_index() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[a-z0-9-]+==[^\s;/@]+( ; [^/@:]+)?", line), line


def test_constraints_never_hold_both_builds_of_onnx_runtime() -> None:
    names = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert "onnxruntime" in names
    assert "onnxruntime-gpu" not in names


def test_constraints_pin_all_that_make_installs(pyproject: dict[str, Any]) -> None:
    extras = pyproject["project"]["optional-dependencies"]
    wanted = pyproject["project"]["dependencies"] + [need for name in extras if name != "cuda" for need in extras[name]]
    names = {re.split(r"[^\w-]", need)[0].lower() for need in wanted} - {"reidge"}
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert names - pinned == set(), "run: make constraints"
