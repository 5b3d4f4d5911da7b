"""The tables that the clustering benchmark leaves in docs/scaling.md, goals beside the figures."""

# N = images

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from publish import markdown_table, put_between_markers, ran_on

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GOALS = {"faster": 15.0, "faster_with_knn": 3.0, "memory": 0.1}
SCALE_GOALS = {100_000: "<= 40 s, 1.5 GiB", 1_000_000: "<= 15 min, 8 GiB, recall >= 0.97"}
"""Time and peak are of Jaccard and DBSCAN."""
GPU_GOALS = {12_936: 1.0, 32_621: 5.0}
"""Seconds of the whole step, at most."""
BEYOND = (3_000_000, 10_000_000)
"""Images that were not measured."""
FAR_APART = 2.0
"""Two sizes that say how a cost grows differ at least by this factor."""


def labels_table(rows: Sequence[dict[str, Any]]) -> str:
    """Whether labels and distances are those of the dense definition."""
    header = [
        "images", "noise", "copies", "isolated", "clusters", "outliers", "distances: largest difference",
        "pairs near on one side only", "labels, same ranking", "labels, own k-NN", "images with other neighbours",
        "of these not as near",
    ]  # fmt: skip
    lines = []
    for row in rows:
        simulation = row["simulation"]
        lines.append([
            count(row["images"]), str(simulation["noise"]), str(simulation["copies"]), str(simulation["isolated"]),
            str(row["clusters"]), percent(row["outliers"]), f"{row['largest_difference']:.0e}",
            str(row["missing"] + row["extra"]), _identical(row["same_ranking"]), _identical(row["own_ranking"]),
            str(row["own_ranking"]["other_neighbours"]), str(row["own_ranking"]["not_as_near"]),
        ])  # fmt: skip
    return markdown_table(header, lines)


def _identical(labels: dict[str, Any]) -> str:
    return "identical" if labels["identical"] else f"{labels['differing']} differ"


def speed_table(rows: Sequence[dict[str, Any]]) -> str:
    """Both sides and their ratios."""
    header = ["images", "", "k-NN", "Jaccard", "DBSCAN", "peak memory", "faster without k-NN", "with k-NN", "memory"]
    lines = []
    for row in rows:
        for side in ("dense", "sparse"):
            own = row[side]
            times = [f"{own[part]:.2f} s" for part in ("knn", "jaccard", "dbscan")]
            lines.append([count(row["images"]), f"{side}", *times, gib(own["peak_mib"]), "", "", ""])
        lines[-1][-3:] = [f"{row['faster']:.1f} x", f"{row['faster_with_knn']:.1f} x", f"1 / {1 / row['memory']:.0f}"]
    goals = [f">= {GOALS['faster']:.0f} x", f">= {GOALS['faster_with_knn']:.0f} x", f"<= 1 / {1 / GOALS['memory']:.0f}"]
    return markdown_table(header, [*lines, ["*goal, at 12,936*", *[""] * 5, *goals]])


def scale_table(rows: Sequence[dict[str, Any]]) -> str:
    """What was measured by number of images, and what follows from it for more."""
    header = [
        "images", "of a person", "noise", "in 128 components", "k-NN", "recall@30", "peak", "Jaccard", "DBSCAN", "peak",
        "goal", "clusters", "outliers",
    ]  # fmt: skip
    lines = []
    for shape in sorted({_shape(row) for row in rows}):
        # Sizes say how costs grow where all else is the same.
        alike = [row for row in rows if _shape(row) == shape]
        lines += [_scale_line(row) for row in alike]
        lines += [line for line in (_beyond_line(alike, images) for images in BEYOND) if any(line[4:])]
    return markdown_table(header, lines)


def _shape(row: dict[str, Any]) -> tuple[str, ...]:
    """What shapes the embeddings: images of a person, noise, share of the variance in 128 principal components."""
    simulation = row["simulation"]
    variances = [place ** (-2 * simulation["decay"]) for place in range(1, simulation["dimensions"] + 1)]
    return str(simulation["members"]), str(simulation["noise"]), percent(sum(variances[:128]) / sum(variances))


def _scale_line(row: dict[str, Any]) -> list[str]:
    knn, rest = [""] * 3, [""] * 3
    found = ["", ""]
    if "knn" in row:
        recall = "exact" if row["recall"] is None else f"{row['checked_recall']:.3f}"
        knn = [duration(row["knn"]["seconds"]), recall, gib(row["knn"]["peak_mib"])]
    if "jaccard" in row:
        rest = [*(duration(row[part]["seconds"]) for part in ("jaccard", "dbscan")), gib(_peak(row))]
        found = [count(row["clusters"]), percent(row["outliers"])]
    return [count(row["images"]), *_shape(row), *knn, *rest, SCALE_GOALS.get(row["images"], ""), *found]


def _beyond_line(rows: Sequence[dict[str, Any]], images: int) -> list[str]:
    searched = [row for row in rows if row.get("recall") is not None]
    clustered = [row for row in rows if "jaccard" in row]
    knn = extrapolate([(row["images"], row["knn"]["seconds"]) for row in searched], images)
    knn_mib = extrapolate([(row["images"], row["knn"]["peak_mib"]) for row in searched], images)
    costs = [
        extrapolate([(row["images"], row[part]["seconds"]) for row in clustered], images)
        for part in ("jaccard", "dbscan")
    ]
    mib = extrapolate([(row["images"], _peak(row)) for row in clustered], images)
    cells = [
        *_shape(rows[0]),
        _about(knn, duration),
        "",
        _about(knn_mib, gib),
        *(_about(cost, duration) for cost in costs),
    ]
    return [f"*{count(images)}, extrapolated*", *cells, _about(mib, gib), "", "", ""]


def _peak(row: dict[str, Any]) -> float:
    return float(max(row["jaccard"]["peak_mib"], row["dbscan"]["peak_mib"]))


def _about(value: float | None, unit: Any) -> str:
    return "" if value is None else f"*{unit(value)}*"


def extrapolate(measured: Sequence[tuple[int, float]], images: int) -> float | None:
    """Go on as a power of N, from the largest size measured and the next one that is far enough from it.

    Returns:
        A cost that grows at least with N; None where fewer than two sizes say how it grows.
    """
    if not measured:
        return None
    largest, cost = max(measured)
    smaller = [pair for pair in measured if pair[0] * FAR_APART <= largest]
    if not smaller:
        return None
    size, lower = max(smaller)
    power = max(1.0, math.log(max(cost, 1e-3) / max(lower, 1e-3)) / math.log(largest / size))
    return float(cost * (images / largest) ** power)


def hub_table(rows: Sequence[dict[str, Any]]) -> str:
    """Time and memory with and without images near everything, and how they grow."""
    header = [
        "images",
        "hubs",
        "images with a hub among their 6",
        "Jaccard + DBSCAN",
        "peak memory",
        "against fewer images",
    ]
    lines = []
    for row in sorted(rows, key=lambda row: (row["hubs"], row["images"])):
        smaller = [other for other in rows if other["hubs"] == row["hubs"] and other["images"] < row["images"]]
        grown = ""
        if smaller:
            base = max(smaller, key=lambda other: other["images"])
            factors = [row[cost] / base[cost] for cost in ("seconds", "peak_mib")]
            grown = f"N x {row['images'] / base['images']:g}: time x {factors[0]:.1f}, memory x {factors[1]:.1f}"
        lines.append([
            count(row["images"]), str(row["hubs"]), percent(row["near"]), f"{row['seconds']:.2f} s",
            gib(row["peak_mib"]), grown,
        ])  # fmt: skip
    return markdown_table(header, lines)


def gpu_table(rows: Sequence[dict[str, Any]]) -> str:
    """The whole step on a GPU."""
    header = ["images", "whole step", "goal", "peak memory of the GPU", "clusters", "outliers"]
    lines = []
    for row in rows:
        goal = f"<= {GPU_GOALS[row['images']]:g} s" if row["images"] in GPU_GOALS else ""
        took = [f"{row['seconds']:.2f} s", goal, gib(row["gpu_peak_mib"])]
        lines.append([count(row["images"]), *took, count(row["clusters"]), percent(row["outliers"])])
    return markdown_table(header, lines)


TABLES = {
    "labels": labels_table, "speed": speed_table, "scale": scale_table, "hub": hub_table, "gpu": gpu_table,
}  # fmt: skip


def write_tables(cases: dict[str, Any], case: str, document: Path) -> None:
    """Put the table of a case into the document, unless it has not been measured."""
    if case not in cases:
        return
    about = f"{cases[case]['threads']} threads. Ran on {ran_on(cases[case])}"
    put_between_markers(document, f"clustering-{case}", f"{TABLES[case](cases[case]['rows'])}\n\n{about}")


def count(number: int) -> str:
    """12936 as 12,936."""
    return f"{number:,}"


def percent(share: float) -> str:
    """A fraction in percent."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as one would say it."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def gib(mib: float) -> str:
    """MiB as GiB."""
    return f"{mib / 1024:.2f} GiB" if mib < 10 * 1024 else f"{mib / 1024:.0f} GiB"
