"""The report of an export that failed its gate, kept beside the folder that did not come to be."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
REPORTS = (REPORT_JSON, REPORT_HTML)
"""For machines, and where there is more to see for people; the last one that was written is the one to read."""


def kept_report(output: Path) -> Path:
    """Where the report of a failed export of `output` stays."""
    return output.with_name(f"{output.name}.failed")


def keep_report(folder: Path, output: Path) -> Path:
    """Copy the report out of a folder that will vanish, over the one of an earlier failure; return what to read."""
    target = kept_report(output)
    target.mkdir(exist_ok=True)
    written = [name for name in REPORTS if (folder / name).exists()]
    for name in written:
        partial_path = target / f".{name}.partial"
        shutil.copyfile(folder / name, partial_path)
        partial_path.replace(target / name)
    return target / written[-1]


def remove_kept_report(output: Path) -> None:
    """Take away the report of an earlier failure, which what is there now would seem to belong to."""
    target = kept_report(output)
    if target.is_dir() and {path.name for path in target.iterdir()} <= set(REPORTS):
        shutil.rmtree(target, ignore_errors=True)
