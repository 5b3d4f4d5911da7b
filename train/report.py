"""The report of a run: one self-contained page with its curves and pictures of what it learnt."""

# N = images, Q = queries, G = gallery, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment

from reidge.edge.crops import read_image
from reidge.edge.errors import ReidgeError
from reidge.train.charts import GREEN, NEUTRAL, RED, crop_row, draw_curves
from reidge.train.checkpoint import write_atomically
from reidge.train.evaluate import embed_paths, evaluate_ranking, squared_distances
from reidge.train.labels import OUTLIER
from reidge.train.recipe import dump_recipe
from reidge.train.run_folder import REPORT_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from reidge.train.datasets import Benchmark
    from reidge.train.images import TrainingImages
    from reidge.train.recipe import Recipe
    from reidge.train.run_folder import EpochRecord

    Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

TOP = 5
"""Gallery images shown for a query."""
EXAMPLES = 6
"""People shown from each end of the ranking."""
SHEETS = 8
"""Clusters shown."""
SHEET_IMAGES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of crops with its caption."""

    caption: str
    picture: str
    """Data URI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Rows under a heading."""

    heading: str
    explanation: str
    rows: list[Row]


def write_report(
    run_dir: Path,
    recipe: Recipe,
    history: Sequence[EpochRecord],
    images: TrainingImages,
    labels_N: NDArray[np.int64] | None,
    embed: Embed,
    split: Benchmark | None,
    *,
    kept_epoch: int | None = None,
) -> None:
    """Write `report.html`: curves, sheets of clusters, and ranked examples where a labelled split is given.

    Args:
        run_dir: Of the run.
        recipe: Of the run.
        history: Of at least one epoch.
        images: The crops that were trained on.
        labels_N: Their pseudo labels in the last epoch that clustered; None where none did.
        embed: From `(N, H, W, 3)` uint8 BGR to `(N, D)`.
        split: Queries and gallery for examples.
        kept_epoch: After which the encoder was as it is kept, and as `embed` uses it; None where that is the last.

    Raises:
        InputError: An image of the split is unreadable.
        ReidgeError: The page cannot be written.
    """
    sections = []
    if split is not None:
        sections += ranked_examples(embed, split, images)
    if labels_N is not None and (labels_N != OUTLIER).any():
        sections.append(cluster_sheets(labels_N, images))
    template = (files("reidge.train") / "templates" / "report.html").read_text(encoding="utf-8")
    page = (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            title=run_dir.resolve().name,
            origin=_origin(recipe),
            figures=_figures(recipe, history, images, kept_epoch or len(history)),
            curves=draw_curves(history),
            remarks=_remarks(history),
            sections=sections,
            recipe=dump_recipe(recipe),
        )
    )
    try:
        write_atomically(run_dir / REPORT_NAME, lambda partial: partial.write_text(page, encoding="utf-8"))
    except OSError as error:
        raise ReidgeError(
            f"{run_dir / REPORT_NAME} cannot be written: {error.strerror or error}. The encoder is complete; free some "
            "space and go on with --resume for the page."
        ) from error


def _origin(recipe: Recipe) -> str:
    if recipe.distil.encoder is not None:
        return "taught by another encoder, without labels"
    return "trained with labels" if recipe.cluster.method == "labels" else "trained without labels"


def _figures(recipe: Recipe, history: Sequence[EpochRecord], images: TrainingImages, kept_epoch: int) -> dict[str, str]:
    last, kept = history[-1], history[kept_epoch - 1]
    figures = {
        "recipe": recipe.name,
        "encoder": recipe.encoder.architecture,
        "crops": f"{len(images):,}",
        "cameras": str(len(np.unique(images.camids))),
        "epochs": str(last.epoch),
        "minutes": f"{sum(record.seconds for record in history) / 60:.1f}",
        "images / s": f"{np.median([record.images_per_second for record in history]):,.0f}",
    }
    if kept is not last:
        figures["kept epoch"] = str(kept.epoch)
    if last.phase != "distil":
        figures |= {"clusters": f"{last.clusters:,}", "outliers": f"{last.outliers / len(images):.1%}"}
    if kept.mAP is not None and kept.rank1 is not None:
        figures |= {"mAP": f"{kept.mAP:.1%}", "rank-1": f"{kept.rank1:.1%}"}
    return figures


def _remarks(history: Sequence[EpochRecord]) -> list[str]:
    """Say what the curves of scores mean, where there are any."""
    remarks = []
    if any(record.silhouette is not None for record in history):
        remarks.append(
            "Agreement, silhouette and tracklets need no labels and are 1 at best. They belong to the clusters, and so "
            "to the encoder, that an epoch begins with."
        )
    if any(record.mAP is not None for record in history):
        remarks.append("mAP and rank-1 are of the labelled split after an epoch; they choose nothing.")
    return remarks


def ranked_examples(embed: Embed, split: Benchmark, images: TrainingImages) -> list[Section]:
    """Show the queries with the highest and the lowest average precision."""
    query_QD, gallery_GD = (
        embed_paths(embed, part.paths, size=images.size, resize=images.resize) for part in (split.query, split.gallery)
    )
    query, gallery = split.query, split.gallery
    ranking = evaluate_ranking(query_QD, gallery_GD, query.pids, gallery.pids, query.camids, gallery.camids)
    counted = np.flatnonzero(~np.isnan(ranking.ap_Q))
    order = counted[np.argsort(ranking.ap_Q[counted], kind="stable")]

    def row(q: int) -> Row:
        allowed = np.flatnonzero((gallery.pids != query.pids[q]) | (gallery.camids != query.camids[q]))
        distances = squared_distances(query_QD[q : q + 1], gallery_GD[allowed])[0]
        top = allowed[np.argsort(distances, kind="stable")[:TOP]]
        crops = [read_image(query.paths[q]), *(read_image(gallery.paths[g]) for g in top)]
        frames = [NEUTRAL, *(GREEN if gallery.pids[g] == query.pids[q] else RED for g in top)]
        to_find = np.count_nonzero(gallery.pids[allowed] == query.pids[q])
        caption = (
            f"person {query.pids[q]}, camera {query.camids[q]}: average precision {ranking.ap_Q[q]:.0%}, "
            f"{to_find} to find"
        )
        return Row(caption=caption, picture=crop_row(crops, frames, lead=True))

    tell = (
        f"Left the query, then its {TOP} nearest gallery images, without those of the same person in the same camera. "
        "Green: the same person. Red: another one."
    )
    worst, best = (_one_each(ends, query.pids)[:EXAMPLES] for ends in (order, order[::-1]))
    return [
        Section(heading="Hardest queries", explanation=tell, rows=[row(q) for q in worst]),
        Section(heading="Easiest queries", explanation=tell, rows=[row(q) for q in best]),
    ]


def _one_each(order_Q: NDArray[np.int64], pids_Q: NDArray[np.int64]) -> NDArray[np.int64]:
    """Keep the first query of each person, in order."""
    first = np.unique(pids_Q[order_Q], return_index=True)[1]
    return order_Q[np.sort(first)]


def cluster_sheets(labels_N: NDArray[np.int64], images: TrainingImages) -> Section:
    """Show clusters from the largest to the smallest, each by images spread over its cameras."""
    labels, sizes = np.unique(labels_N[labels_N != OUTLIER], return_counts=True)
    by_size = labels[np.argsort(-sizes, kind="stable")]
    shown = by_size[np.unique(np.linspace(0, len(by_size) - 1, SHEETS).round().astype(int))]
    rows = []
    for label in shown:
        members = np.flatnonzero(labels_N == label)
        members = members[np.argsort(images.camids[members], kind="stable")]
        picked = members[np.unique(np.linspace(0, len(members) - 1, SHEET_IMAGES).round().astype(int))]
        cameras = len(np.unique(images.camids[members]))
        plural = "cameras" if cameras > 1 else "camera"
        caption = f"cluster {label}: {len(members)} images from {cameras} {plural}"
        rows.append(Row(caption=caption, picture=crop_row(list(images.take(picked)), [NEUTRAL] * len(picked))))
    tell = "From the largest to the smallest. A good cluster shows one person, seen by several cameras."
    return Section(heading="Clusters of the last epoch", explanation=tell, rows=rows)
