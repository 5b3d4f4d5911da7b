"""The documents are held against the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("calibration", "cli", "demo", "edge", "export", "train")


def links_of(document: Path) -> set[Path]:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    return {(document.parent / target).resolve() for target in targets if "://" not in target}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    assert [str(path.relative_to(ROOT)) for path in links_of(document) if not path.exists()] == []


def test_the_architecture_names_every_module() -> None:
    modules = {path for name in PACKAGES for path in (ROOT / name).rglob("*.py") if path.name != "__init__.py"}
    missing = modules - links_of(ROOT / "docs" / "architecture.md")
    assert sorted(str(path.relative_to(ROOT)) for path in missing) == []
