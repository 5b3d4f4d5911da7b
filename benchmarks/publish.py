"""How a benchmark leaves its figures: a JSON file that says what it ran on, and a table in docs/results.md."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidge.cli.machine import describe_cpu, describe_gpus, describe_memory, describe_system
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parents[1] / "docs" / "results.md"
PACKAGES = (
    "reidge",
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "scipy",
    "numba",
    "opencv-python",
    "onnx",
    "onnxruntime",
    "openvino",
)


def provenance() -> dict[str, Any]:
    """Date, machine and versions of what runs now."""
    return {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": {
            "system": describe_system(),
            "cpu": describe_cpu(),
            "memory": describe_memory(),
            "gpus": describe_gpus(),
        },
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # as opencv-python where the headless one stands in
        return "not installed"


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write JSON so that an interruption leaves the old file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.replace(path)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ran_on(result: dict[str, Any]) -> str:
    """One line about the machine, the versions and the date of a result."""
    machine, versions = result["machine"], result["versions"]
    gpus = "".join(f", {gpu['name']}" for gpu in machine["gpus"])
    return (
        f"{machine['cpu']['model']}, {machine['cpu']['cores']} cores{gpus}; Python {machine['system']['python']}, "
        f"torch {versions['torch']}; {result['date']}."
    )


def put_between_markers(document: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- name -->` and `<!-- /name -->`.

    Raises:
        InputError: The document lacks the markers.
    """
    old = document.read_text()
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    if not pattern.search(old):
        raise InputError(f"{document} has no place for {name}. Put <!-- {name} --> and <!-- /{name} --> where it goes.")
    document.write_text(pattern.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", old))
