"""The report of an export: `report.json` for machines, `report.html` for people, both inside the bundle."""

# N = crops, H, W = input height and width, P = pairs

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import cv2
import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.calibration.threshold import PairSimilarities
    from reidge.edge.bundle import Manifest
    from reidge.export.parity import Gate

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
WORST_SHOWN = 8
COLOURS = {"different": "#b3382c", "same": "#1f7a5a", "all": "#9aa3ad", "line": "#20262d"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is drawn."""

    crops_NHW3: NDArray[np.uint8]
    """Held out of calibration."""
    cosines_N: NDArray[np.float64]
    """INT8 against the trained encoder, for these crops."""
    pairs: PairSimilarities
    """Of tracklets, by the INT8 graph."""
    gate: Gate
    """What the INT8 graph had to reach."""


def write_report(folder: Path, manifest: Manifest, evidence: Evidence, warnings: Sequence[str]) -> None:
    """Write both files into a bundle that is being made."""
    figures = report_figures(manifest, evidence.gate, warnings)
    (folder / REPORT_JSON).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    source = files("reidge.export").joinpath("templates", "report.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    order = np.argsort(evidence.cosines_N)[:WORST_SHOWN]
    page = template.render(
        manifest=manifest,
        gate=evidence.gate,
        warnings=warnings,
        cosine_plot=plot_cosines(evidence.cosines_N, evidence.gate),
        pairs_plot=plot_pairs(evidence.pairs, manifest.threshold["int8"].min_similarity),
        worst=[(picture(evidence.crops_NHW3[index]), float(evidence.cosines_N[index])) for index in order],
    )
    (folder / REPORT_HTML).write_text(page, encoding="utf-8")


def report_figures(manifest: Manifest, gate: Gate, warnings: Sequence[str]) -> dict[str, Any]:
    """All figures of the report."""
    content = manifest.model_dump(mode="json", include={"parity", "threshold", "quantisation", "golden_min_cosine"})
    return {**content, "gate": {"int8": gate.model_dump()}, "warnings": list(warnings)}


def plot_cosines(cosines_N: NDArray[np.float64], gate: Gate) -> str:
    """Histogram of INT8 cosines with the gate's lines, as inline SVG."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    low = min(float(cosines_N.min()), gate.min_cosine_p1) - 0.002
    axes.hist(cosines_N, bins=np.linspace(low, 1, 60).tolist(), color=COLOURS["same"])
    for value, name in ((gate.min_cosine_mean, "mean"), (gate.min_cosine_p1, "1st percentile")):
        axes.axvline(value, color=COLOURS["line"], linestyle="--", linewidth=1)
        axes.text(value, 0.98, f" gate: {name}", transform=axes.get_xaxis_transform(), fontsize=8, va="top")
    axes.set(xlabel="cosine of INT8 and trained encoder", ylabel="held-out crops", xlim=(low, 1))
    return to_svg(figure)


def plot_pairs(pairs: PairSimilarities, min_similarity: float | None) -> str:
    """Histograms of tracklet similarities with the threshold, as inline SVG."""
    figure = Figure(figsize=(6.4, 2.6), layout="constrained")
    axes = figure.subplots()
    kinds = (
        ("all", "all pairs", pairs.all_P),
        ("different", "in view at once: different people", pairs.different_P),
        ("same", "halves of one tracklet: same person", pairs.same_P),
    )
    drawn = [similarities_P for _, _, similarities_P in kinds if len(similarities_P)]
    low = min((float(similarities_P.min()) for similarities_P in drawn), default=0.0)
    for colour, label, similarities_P in kinds:
        if len(similarities_P):
            weights_P = np.full(len(similarities_P), 1 / len(similarities_P))
            bins = np.linspace(low, 1, 50).tolist()
            label = f"{label} ({len(similarities_P)})"
            axes.hist(similarities_P, bins=bins, weights=weights_P, alpha=0.6, color=COLOURS[colour], label=label)
    if min_similarity is not None:
        label = f"min_similarity {min_similarity:.3f}"
        axes.axvline(min_similarity, color=COLOURS["line"], linestyle="--", linewidth=1, label=label)
    axes.set(xlabel="similarity of mean embeddings", ylabel="share of pairs")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False)
    return to_svg(figure)


def to_svg(figure: Figure) -> str:
    """SVG element of a figure, the same bytes for the same figure."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "reidge", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def picture(crop_HW3: NDArray[np.uint8]) -> str:
    """A crop as a data URL."""
    encoded, data = cv2.imencode(".jpg", crop_HW3, [cv2.IMWRITE_JPEG_QUALITY, 85])
    assert encoded
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
