"""One run of the ablation, made and measured in a process of its own, so that its peak memory is its own.

    .venv/bin/python benchmarks/trial.py ORDER

ORDER is JSON: recipe, overrides, weights, data and run; the figures are printed as JSON.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from simulated import CROPS, hidden_pids
from sklearn.metrics import normalized_mutual_info_score

from reidge.edge.crops import read_crop_folder
from reidge.edge.errors import ReidgeError
from reidge.train.checkpoint import load_encoder, load_state
from reidge.train.datasets import open_benchmark
from reidge.train.evaluate import evaluate_split
from reidge.train.extract import embed_crops
from reidge.train.loop import train
from reidge.train.recipe import load_recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

RANKS = (1, 5, 10)


def make_run(order: dict[str, Any]) -> dict[str, Any]:
    """Train and measure.

    Args:
        order: `recipe` and its `overrides`, `weights` to begin with, `data` and `run` folders.
    """
    data, run_dir = Path(order["data"]), Path(order["run"])
    shutil.rmtree(run_dir, ignore_errors=True)  # left behind by an interruption
    recipe = load_recipe(order["recipe"], order["overrides"])
    summary = train(recipe, data / CROPS, run_dir, weights=order["weights"], split=data)
    peak = {"memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024), **_gpu_memory()}
    history = [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
    state = load_state(run_dir / "last.pt")
    quality = {} if state["labels"] is None else label_quality(state["labels"].numpy(), _pids_in_order(data))
    (run_dir / "last.pt").unlink()  # a hundred runs of it would fill a disk
    return {
        **_score(run_dir, data, recipe.loop.device),
        "clusters": summary.clusters,
        "outliers": summary.outliers,
        **quality,
        "seconds": round(summary.seconds, 1),
        **peak,
        "history": history,
    }


def _score(run_dir: Path, data: Path, device: str) -> dict[str, float]:
    encoder = load_encoder(run_dir / "encoder.safetensors").to("cpu" if device == "auto" else device)
    ranking = evaluate_split(
        partial(embed_crops, encoder), open_benchmark(data), size=encoder.input_size, resize=encoder.resize
    )
    return {"mAP": ranking.mAP, **{f"rank{rank}": float(ranking.cmc[rank - 1]) for rank in RANKS}}


def _gpu_memory() -> dict[str, int]:
    return {"gpu_memory_mb": round(torch.cuda.max_memory_allocated() / 2**20)} if torch.cuda.is_available() else {}


def _pids_in_order(data: Path) -> NDArray[np.int64]:
    """Hidden identity of each crop, in the order in which training sees them."""
    pids = hidden_pids(data)
    return np.array([pids[record.path] for record in read_crop_folder(data / CROPS).records])


def label_quality(labels_N: NDArray[np.int64], pids_N: NDArray[np.int64]) -> dict[str, float]:
    """Purity and normalised mutual information of clusters against identities, over the images that are in clusters.

    Purity is the share of images that are of the commonest identity of their cluster.
    """
    kept = labels_N >= 0
    labels, pids = labels_N[kept], pids_N[kept]
    commonest = sum(np.unique(pids[labels == label], return_counts=True)[1].max() for label in np.unique(labels))
    return {
        "purity": float(commonest / len(labels)),
        "nmi": float(normalized_mutual_info_score(pids, labels)),
    }


if __name__ == "__main__":
    try:
        print(json.dumps(make_run(json.loads(sys.argv[1]))))
    except ReidgeError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)
