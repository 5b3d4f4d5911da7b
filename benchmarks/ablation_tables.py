"""The tables that the ablation leaves in docs/results.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from publish import markdown_table, put_between_markers, ran_on

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

START = "warm-up"
"""Name of the run that every configuration of a seed begins with."""
SCORES = ("agreement", "silhouette", "tracklets")


def ablation_table(runs: Sequence[dict[str, Any]], names: Iterable[str]) -> str:
    """One line for each configuration: mean and standard deviation over its seeds."""
    header = ["configuration", "mAP", "rank-1", "rank-5", "rank-10", "clusters", "purity", "NMI", "seconds", "MB"]
    rows = []
    for name in names:
        own = [run for run in runs if run["name"] == name]
        if own:
            percent = [_spread([100 * run[key] for run in own], 1) for key in ("mAP", "rank1", "rank5", "rank10")]
            labels = [_spread([100 * run[key] for run in own if key in run], 1) for key in ("purity", "nmi")]
            rows.append([
                name, *percent, _spread([run["clusters"] for run in own], 0), *labels,
                _spread([run["seconds"] for run in own], 0),
                _spread([run.get("gpu_memory_mb", run["memory_mb"]) for run in own], 0),
            ])  # fmt: skip
    return markdown_table(header, rows)


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return ""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.{digits}f}"


def claims_table(runs: Sequence[dict[str, Any]], claims: Iterable[tuple[str, str, str]]) -> str:
    """Whether each claimed ordering holds: the difference of mAP, seed by seed, against its own spread."""
    maps = {(run["name"], run["seed"]): 100 * run["mAP"] for run in runs}
    rows = []
    for claim, better, worse in claims:
        seeds = sorted(seed for name, seed in maps if name == better and (worse, seed) in maps)
        if seeds:
            gains = [maps[better, seed] - maps[worse, seed] for seed in seeds]
            rows.append([claim, _spread(gains, 1), _verdict(gains)])
    return markdown_table(["claim", "gain in mAP", "here"], rows)


def _verdict(gains: Sequence[float]) -> str:
    """One standard deviation is little to go by, and all that three seeds give."""
    if len(gains) < 2 or abs(np.mean(gains)) <= np.std(gains, ddof=1):
        return "undecided"
    return "holds" if np.mean(gains) > 0 else "does not hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Test mAP, fraction, of the encoders that different choices keep from one run."""

    last: float
    best: float
    """By test mAP itself: what no choice without labels can exceed."""
    by_score: dict[str, float]


def choose(history: Sequence[dict[str, Any]]) -> Choice | None:
    """Compare the choices of an epoch's encoder in one run; None where nothing was scored.

    A score in the record of epoch e judges the encoder that epoch e began with, so its test mAP stands in the record
    before. The encoder after the last epoch has no score in the history and can be had by choice `last` only.
    """
    after = [record["mAP"] for record in history]
    if len(after) < 3 or any(value is None for value in after):
        return None
    by_score = {}
    for score in SCORES:
        judged = [(record[score], after[e]) for e, record in enumerate(history[1:]) if record.get(score) is not None]
        if not judged:
            return None
        by_score[score] = max(judged, key=lambda pair: pair[0])[1]
    return Choice(last=after[-1], best=max(after), by_score=by_score)


def choice_table(runs: Sequence[dict[str, Any]]) -> str:
    """How much test mAP each choice of an epoch gives up against the best epoch."""
    choices = [choice for choice in (choose(run["history"]) for run in runs if run["name"] != START) if choice]
    kept: dict[str, list[tuple[float, float]]] = {"the last epoch": [(c.last, c.best) for c in choices]}
    kept |= {f"largest `{score}`": [(c.by_score[score], c.best) for c in choices] for score in SCORES}
    kept |= {"largest test mAP (an oracle)": [(c.best, c.best) for c in choices]}
    rows = []
    for name, pairs in kept.items():
        given_up = [100 * (best - own) for own, best in pairs]
        if pairs:
            mean = 100 * float(np.mean([own for own, _ in pairs]))
            rows.append([name, f"{mean:.1f}", f"{np.mean(given_up):.1f}", f"{np.max(given_up):.1f}", str(len(pairs))])
    return markdown_table(["kept encoder", "mAP", "given up, mean", "given up, at most", "runs"], rows)


def write_tables(
    result: dict[str, Any], names: Sequence[str], claims: Iterable[tuple[str, str, str]], document: Path
) -> None:
    """Put the tables of a result into the document.

    Args:
        result: As benchmarks/results/ablation-SETTING.json holds it.
        names: Of the configurations, in the order of the lines.
        claims: What is claimed, and the names of the better and the worse configuration.
        document: With markers for this setting.
    """
    setting, runs, data = result["setting"], result["runs"], result["data"]
    seeds = len({run["seed"] for run in runs})
    about = f"{seeds} seeds, mean ± standard deviation. Ran on {ran_on(result)}"
    put_between_markers(document, f"ablation-{setting}", f"{ablation_table(runs, names)}\n\n{about}")
    put_between_markers(document, f"claims-{setting}", claims_table(runs, claims))
    put_between_markers(document, f"choice-{setting}", choice_table(runs))
    rows = [[part, str(n["images"]), str(n["people"])] for part, n in data["counts"].items()]
    histogram, untrained = data["difficulty"]["map_histogram"], data["difficulty"]["map_untrained"]
    difficulty = f"mAP of colour histograms: {histogram}; of `small` at 64 x 32 with random weights: {untrained}."
    counts = markdown_table(["folder", "images", "people"], rows)
    put_between_markers(document, f"data-{setting}", f"{counts}\n\n{difficulty}")
