"""Readers of data sets as they are unpacked; crop folders with an index are read by `reidge.edge.crops`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reidge.train.datasets.benchmark import Benchmark, LabelledImages
from reidge.train.datasets.layouts import find_layout

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.train.datasets.layouts import LayoutName

__all__ = ["Benchmark", "LabelledImages", "open_benchmark"]


def open_benchmark(
    root: Path,
    *,
    layout: LayoutName = "auto",
    pattern: str | None = None,
    csv: Path | None = None,
    quiet: bool = False,
) -> Benchmark:
    """Read names and labels of a labelled data set; the images stay on disk.

    What was recognised is said in one line on stderr, and so is a difference between the queries or the gallery and
    their published counts.

    Args:
        root: The folder as it was unpacked, or the one around it.
        layout: How to read it; `auto` looks.
        pattern: Regular expression for `pattern`: how own file names tell person and camera.
        csv: Table for `csv`: who and where each own image is.
        quiet: Whether to say nothing, as all but one of several processes do.

    Raises:
        InputError: The folder is of no known layout, lacks a part, or holds a name that does not follow the layout.
    """
    found = find_layout(root, layout, pattern=pattern, csv=csv)
    query, gallery = found.read("query"), found.read("gallery")
    if not quiet:
        found.say({"query": query, "gallery": gallery})
    return Benchmark(root=found.root, name=found.name, train=found.read_if_there("train"), query=query, gallery=gallery)
