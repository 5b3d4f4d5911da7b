"""The report of an export: `report.json` for machines, `report.html` for people, both inside the bundle."""

# N = crops, H, W = input height and width

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np

from reidge.calibration.threshold import rate_curve
from reidge.export.kept import REPORT_HTML, REPORT_JSON
from reidge.export.plots import picture, plot_cosines, plot_costs, plot_pairs, plot_rates

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.calibration.pairs import PairSimilarities
    from reidge.edge.backends.presence import Backend
    from reidge.edge.bundle import Manifest, Parity, Precision
    from reidge.export.parity import Check, Gate

WORST_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFigures:
    """One graph on one backend of the machine that made the bundle."""

    precision: Precision
    backend: Backend
    parity: Parity
    """With the trained encoder, on held-out crops."""
    crops_per_second: float
    """In batches of eight; a first impression, not a benchmark."""
    size: int
    """Of the ONNX file, bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is shown beside the manifest."""

    crops_NHW3: NDArray[np.uint8]
    """Held out of calibration."""
    cosines_N: NDArray[np.float64]
    """INT8 against the trained encoder, for these crops."""
    pairs: PairSimilarities
    """Of tracklets, by the INT8 graph."""
    gate: Gate
    """What the INT8 graph had to reach."""
    checks: tuple[Check, ...]
    """What it reached of that."""
    backend: Backend
    """That the INT8 graph ran on for it."""
    costs: Mapping[str, float] = field(default_factory=dict)
    """Mean cosine that each block alone loses in INT8, where the search had to measure it."""
    no_room: tuple[str, ...] = ()
    """Blocks that the search passed over, as they would burst the budget of what may stay in float."""
    graphs: tuple[GraphFigures, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def write_report(folder: Path, manifest: Manifest, evidence: Evidence, warnings: Sequence[str]) -> None:
    """Write both files into a bundle that is being made."""
    figures = report_figures(manifest, evidence, warnings)
    (folder / REPORT_JSON).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    source = files("reidge.export").joinpath("templates", "report.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    order = np.argsort(evidence.cosines_N)[:WORST_SHOWN]
    threshold, quantisation = manifest.threshold["int8"], manifest.quantisation
    assert quantisation is not None
    page = template.render(
        manifest=manifest,
        checks=evidence.checks,
        backend=evidence.backend,
        graphs=evidence.graphs,
        warnings=warnings,
        cosine_plot=plot_cosines(evidence.cosines_N, evidence.gate),
        cost_plot=plot_costs(evidence.costs, quantisation.float_blocks, evidence.no_room, passed=evidence.passed)
        if evidence.costs
        else "",
        pairs_plot=plot_pairs(evidence.pairs, threshold),
        rates_plot=plot_rates(rate_curve(evidence.pairs, seed=manifest.provenance.seed), threshold),
        worst=[(picture(evidence.crops_NHW3[index]), float(evidence.cosines_N[index])) for index in order],
    )
    (folder / REPORT_HTML).write_text(page, encoding="utf-8")


def report_figures(manifest: Manifest, evidence: Evidence, warnings: Sequence[str]) -> dict[str, Any]:
    """All figures of the report."""
    content = manifest.model_dump(
        mode="json", include={"parity", "accuracy", "threshold", "quantisation", "golden_min_cosine"}
    )
    graphs = [
        {
            "precision": graph.precision,
            "backend": graph.backend,
            "crops_per_second": round(graph.crops_per_second, 2),
            "bytes": graph.size,
            **graph.parity.model_dump(),
        }
        for graph in evidence.graphs
    ]
    return {
        **content,
        "passed": evidence.passed,
        "checks": [check.figures for check in evidence.checks],
        "block_costs": dict(evidence.costs),
        "graphs": graphs,
        "warnings": list(warnings),
    }
