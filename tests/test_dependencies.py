"""Who may import whom. Imports inside functions count too; what is lazy is no less a dependency."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "edge": {"edge"},
    "calibration": {"calibration", "edge"},
    "train": {"train", "edge"},
    "export": {"export", "train", "calibration", "edge"},
    "demo": {"demo", "export", "train", "calibration", "edge", "cli"},
    "cli": {"cli", "demo", "export", "train", "calibration", "edge"},
}
# What training and the edge agree on: folders, files, settings and the words for failures; never the edge's machinery.
CONTRACT = {f"reidge.edge.{name}" for name in ("bundle", "crops", "errors", "progress", "settings")}
AT_THE_FRONT_DOOR = {"reidge.edge.errors", "reidge.edge.log", "reidge.edge.progress", "reidge.edge.redact"}
EXTRAS = {
    "edge": {"edge", "encryption", "cpu", "cuda"},
    "calibration": {"edge", "cpu", "export"},  # activation ranges are observed in the exported graph
    "train": {"train"},
    "export": {"train", "export", "cpu"},
    "demo": {"train", "export", "edge", "cpu", "dev"},
    "cli": {"train", "export", "edge", "cpu", "cuda"},
}
# GStreamer's bindings belong to the system's Python and are done without where they are missing.
OF_THE_SYSTEM = {"gi"}
MODULES = {
    "faiss-cpu": "faiss",
    "opencv-python": "cv2",
    "paho-mqtt": "paho",
    "prometheus-client": "prometheus_client",
    "pyyaml": "yaml",
    "scikit-learn": "sklearn",
}


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, and whether importing the importer runs it."""

    source: Path
    line: int
    module: str
    at_import: bool

    def __str__(self) -> str:
        return f"{self.source.relative_to(ROOT)}:{self.line} imports {self.module}"


def imports_of(package: str) -> list[Import]:
    return [found for path in sorted((ROOT / package).rglob("*.py")) for found in imports_in(path)]


def imports_in(path: Path) -> list[Import]:
    found: list[Import] = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(path, node.lineno, alias.name, at_import) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            found.append(Import(path, node.lineno, node.module or "", at_import))
        checked_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        inner = at_import and not checked_only and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(ast.parse(path.read_text()), True)
    return found


def declared(*extras: str) -> set[str]:
    """Import names of what the core and the given extras ask for."""
    names = set()
    for text in requires("reidge") or []:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", text)
        if extra is None or extra[1] in extras:
            name = re.split(r"[^\w-]", text)[0].lower()
            names.add(MODULES.get(name, name))
    return names - {"reidge"}


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    # Not from the repository root, where `import train` would find a second copy of each module.
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "tests")


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_in_the_direction_of_the_design(package: str) -> None:
    wrong = [
        str(found)
        for found in imports_of(package)
        if found.module.startswith("reidge.") and found.module.split(".")[1] not in ALLOWED[package]
    ]
    assert wrong == []


def test_training_imports_of_the_edge_only_the_contract() -> None:
    edge = [found for found in imports_of("train") if found.module.startswith("reidge.edge")]
    assert [str(found) for found in edge if found.module not in CONTRACT] == []


def test_the_front_door_loads_the_stages_only_when_they_run() -> None:
    eager = {
        found.module: str(found)
        for found in imports_of("cli")
        if found.at_import and found.module.startswith("reidge.") and not found.module.startswith("reidge.cli")
    }
    assert {module: where for module, where in eager.items() if module not in AT_THE_FRONT_DOOR} == {}


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_their_extras_install(package: str) -> None:
    known = declared(*EXTRAS[package]) | set(sys.stdlib_module_names) | OF_THE_SYSTEM | {"reidge"}
    assert [str(found) for found in imports_of(package) if found.module.split(".")[0] not in known] == []


def test_every_package_that_is_asked_for_is_used() -> None:
    used = {found.module.split(".")[0] for package in ALLOWED for found in imports_of(package)}
    assert declared("edge", "encryption", "cpu", "train", "export") - used == set()


def test_no_package_imports_another_by_the_name_of_its_folder() -> None:
    wrong = [str(found) for name in (*ALLOWED, "tests") for found in imports_of(name) if found.module in ALLOWED]
    assert wrong == []


BLOCK = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("edge", sorted(declared("train", "export") - declared("edge", "cpu"))),
        ("calibration", ["torch", "torchvision"]),
    ],
)
def test_the_edge_and_calibration_import_where_there_is_no_torch(package: str, absent: list[str]) -> None:
    modules = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / package).rglob("[a-z]*.py"))]
    lines = [f"import reidge.{'.'.join(module.parts)}" for module in modules]
    assert "torch" in absent
    done = run_python(BLOCK.format(names=absent) + "\n".join(lines))
    assert done.returncode == 0, done.stderr


def test_every_stage_explains_itself_before_anything_heavy_is_imported() -> None:
    heavy = {
        "torch",
        "cv2",
        "numpy",
        "onnx",
        "onnxruntime",
        "openvino",
        "av",
        "pydantic",
        "scipy",
        "sklearn",
        "numba",
        "faiss",
    }
    code = """
from reidge.cli.main import STAGES, main
for stage in STAGES:
    try:
        main([stage, "--help"])
    except SystemExit as end:
        assert end.code == 0, stage
"""
    done = run_python(BLOCK.format(names=heavy) + code)
    assert done.returncode == 0, done.stderr
    assert "reidge run" in done.stdout
