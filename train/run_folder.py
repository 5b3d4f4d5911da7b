"""The run folder: what training leaves on disk, and what resuming finds there."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from reidge.edge.errors import InputError
from reidge.train.checkpoint import (
    ENCODER_NAME,
    STATE_NAME,
    load_state,
    save_encoder,
    save_state,
    write_atomically,
)
from reidge.train.recipe import Recipe, dump_recipe, load_recipe

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from reidge.train.encoders.encoder import Encoder

RECIPE_NAME = "recipe.yaml"
HISTORY_NAME = "history.jsonl"
REPORT_NAME = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One line of `history.jsonl`."""

    epoch: int
    """Counted from 1, warm-up included."""
    phase: str
    """`warmup` or `cluster`."""
    loss: float
    """Mean over the steps."""
    clusters: int
    outliers: int
    """Images left out of training in this epoch."""
    eps: float | None
    """None in the warm-up, which does not cluster."""
    lr: float
    seconds: float
    images_per_second: float
    """Of the contrastive steps alone."""
    mAP: float | None = None
    """Fraction 0 to 1, for the report only; None where no split was given or it was not this epoch's turn."""
    rank1: float | None = None


@dataclass(slots=True, kw_only=True)
class Progression:
    """What changes from epoch to epoch and must survive an interruption, beside network and optimiser."""

    rng: np.random.Generator
    """Drives sampling and augmentation."""
    history: list[EpochRecord]
    labels_N: NDArray[np.int64] | None = None
    """Pseudo labels of the last epoch that had any."""
    failures: int = 0
    """Clusterings in a row that found too little."""


def read_recipe(run_dir: Path) -> Recipe:
    """Read the recipe of a run.

    Raises:
        InputError: The folder holds no run, or its recipe is damaged.
    """
    path = run_dir / RECIPE_NAME
    if not path.is_file():
        raise InputError(f"{run_dir} holds no run: {RECIPE_NAME} is missing. Leave out --resume to start one.")
    return load_recipe(str(path))


def prepare(run_dir: Path, recipe: Recipe, *, resume: bool) -> None:
    """Check that `run_dir` is free, or on resuming that it holds a run of this very recipe.

    Raises:
        InputError: It is not so.
    """
    if resume:
        for section, value in read_recipe(run_dir):
            if value != getattr(recipe, section):
                raise InputError(
                    f"{run_dir} was trained with another recipe ({section} differs). Resume it without changing its "
                    "recipe, or choose another --output."
                )
    elif run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise InputError(f"{run_dir} already exists. Continue that run with --resume, or choose another --output.")


def start(run_dir: Path, recipe: Recipe) -> None:
    """Create the folder with its recipe."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(run_dir / RECIPE_NAME, lambda partial: partial.write_text(dump_recipe(recipe)))


def save(
    run_dir: Path, encoder: Encoder, optimizer: torch.optim.Optimizer, progression: Progression, fingerprint: str
) -> None:
    """Write the state after an epoch; at every moment the folder can be resumed from."""
    lines = [json.dumps(asdict(record)) for record in progression.history]
    state = {
        "model": encoder.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": len(progression.history),
        "step": int(max((int(s["step"]) for s in optimizer.state_dict()["state"].values()), default=0)),
        "fingerprint": fingerprint,
        "labels": None if progression.labels_N is None else torch.from_numpy(progression.labels_N),
        "failures": progression.failures,
        # JSON, because states of random numbers hold integers beyond 64 bits.
        "rng_sampling": json.dumps(progression.rng.bit_generator.state),
        "rng_python": json.dumps(random.getstate()),
        "rng_torch": torch.get_rng_state(),
        "history": lines,
    }
    save_encoder(encoder, run_dir / ENCODER_NAME)
    save_state(run_dir / STATE_NAME, state)
    # Last, and rewritten whole: after an interruption it never holds an epoch that the state does not.
    text = "\n".join([*lines, ""])
    write_atomically(run_dir / HISTORY_NAME, lambda partial: partial.write_text(text))


def restore(
    run_dir: Path, encoder: Encoder, optimizer: torch.optim.Optimizer, progression: Progression, fingerprint: str
) -> None:
    """Bring everything to where `save` left it.

    Raises:
        InputError: The state is damaged or belongs to other crops.
    """
    state: dict[str, Any] = load_state(run_dir / STATE_NAME)
    if state["fingerprint"] != fingerprint:
        raise InputError(
            f"{run_dir} was trained on other crops than these. Resume it with the folder it began with, or choose "
            "another --output."
        )
    encoder.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    progression.history = [EpochRecord(**json.loads(line)) for line in state["history"]]
    progression.labels_N = None if state["labels"] is None else state["labels"].numpy()
    progression.failures = state["failures"]
    progression.rng.bit_generator.state = json.loads(state["rng_sampling"])
    version, numbers, gauss = json.loads(state["rng_python"])
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["rng_torch"])
