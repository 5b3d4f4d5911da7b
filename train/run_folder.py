"""The run folder: what training leaves on disk, and what resuming finds there."""

from __future__ import annotations

import json
import random
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from reidge.edge.errors import InputError, ReidgeError
from reidge.train.checkpoint import (
    ENCODER_NAME,
    STATE_NAME,
    load_encoder,
    load_state,
    save_encoder,
    save_state,
    write_atomically,
)
from reidge.train.recipe import Recipe, dump_recipe, load_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from reidge.train.run import Run

RECIPE_NAME = "recipe.yaml"
HISTORY_NAME = "history.jsonl"
REPORT_NAME = "report.html"
TEACHER_NAME = "teacher.safetensors"
"""What a student learns from, so that resuming does not ask for it."""


class Stateful(Protocol):
    """What torch gives a state to."""

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and numbers by name."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Take them back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One line of `history.jsonl`."""

    epoch: int
    """Counted from 1, warm-up included."""
    phase: str
    """`warmup`, `cluster`, or `distil` for a student."""
    loss: float
    """Mean over the steps."""
    clusters: int
    outliers: int
    """Images left out of training in this epoch."""
    eps: float | None
    """None where nothing was clustered, as in the warm-up."""
    lr: float
    seconds: float
    images_per_second: float
    """Of the contrastive steps alone."""
    mAP: float | None = None
    """Fraction 0 to 1, for the report only; None where no split was given or it was not this epoch's turn."""
    rank1: float | None = None
    agreement: float | None = None
    """How far this epoch's clustering agrees with the one before. Like the next two it belongs to the encoder that the
    epoch began with, and needs no labels."""
    silhouette: float | None = None
    tracklets: float | None = None
    """How far tracklets stay whole in the clustering."""
    recall: float | None = None
    """Share of the true neighbours that the clustering was made from; None where all pairs were compared."""


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
    best_score: float | None = None
    """Of the encoder kept so far, where a score chooses it."""
    best_epoch: int = 0
    """After which it was taken, counted from 1; 0 before there is one."""


def read_recipe(run_dir: Path) -> Recipe:
    """Read the recipe of a run.

    Raises:
        InputError: The folder holds no run, or its recipe is damaged.
    """
    path = run_dir / RECIPE_NAME
    if not path.is_file():
        raise InputError(f"{run_dir} holds no run: {RECIPE_NAME} is missing. Leave out --resume to start one.")
    return load_recipe(str(path))


def prepare(run_dir: Path, recipe: Recipe, *, resume: bool) -> bool:
    """Check that `run_dir` is free, or on resuming that it holds a run of this very recipe.

    Returns:
        Whether there is a state to resume from: a run that was stopped in its first epoch starts over.

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
    return resume and (run_dir / STATE_NAME).is_file()


def start(run_dir: Path, recipe: Recipe) -> None:
    """Create the folder with its recipe, and with the trained encoder that a student learns from."""
    run_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(run_dir / RECIPE_NAME, lambda partial: partial.write_text(dump_recipe(recipe)))
    kept = run_dir / TEACHER_NAME
    if recipe.distil.encoder is not None and not kept.is_file():
        save_encoder(load_encoder(recipe.distil.encoder), kept)


def read_left_out(run_dir: Path) -> frozenset[str]:
    """Read which files could not be read when a run began: it goes on without them, and with all others.

    Raises:
        InputError: The state is damaged.
    """
    return frozenset(load_state(run_dir / STATE_NAME)["left_out"])


def keep_encoder(run: Run, progression: Progression, *, score: float | None = None) -> None:
    """Make the encoder as it is now, after the epochs of the history, the one that the run is asked for."""
    progression.best_score, progression.best_epoch = score, len(progression.history)
    with _kept_on_failure(run):
        save_encoder(run.encoder, run.run_dir / ENCODER_NAME)


def save(run: Run, progression: Progression, fingerprint: str) -> None:
    """Write the state after an epoch; at every moment the folder can be resumed from.

    Raises:
        ReidgeError: The disk is full or fails; what was there before still is.
    """
    lines = [json.dumps(asdict(record)) for record in progression.history]
    state = {
        **{name: part.state_dict() for name, part in _parts(run).items()},
        "epoch": len(progression.history),
        "step": int(max((int(s["step"]) for s in run.optimizer.state_dict()["state"].values()), default=0)),
        "fingerprint": fingerprint,
        "left_out": sorted(run.images.left_out),
        "labels": None if progression.labels_N is None else torch.from_numpy(progression.labels_N),
        "failures": progression.failures,
        "best": [progression.best_score, progression.best_epoch],
        # JSON, because states of random numbers hold integers beyond 64 bits.
        "rng_sampling": json.dumps(progression.rng.bit_generator.state),
        "rng_python": json.dumps(random.getstate()),
        "rng_torch": torch.get_rng_state(),
        "history": lines,
    }
    with _kept_on_failure(run):
        save_state(run.run_dir / STATE_NAME, state)
        # Last, and rewritten whole: after an interruption it never holds an epoch that the state does not.
        text = "\n".join([*lines, ""])
        write_atomically(run.run_dir / HISTORY_NAME, lambda partial: partial.write_text(text))


def restore(run: Run, progression: Progression, fingerprint: str) -> None:
    """Bring everything to where `save` left it.

    Raises:
        InputError: The state is damaged or belongs to other crops.
    """
    state: dict[str, Any] = load_state(run.run_dir / STATE_NAME)
    if state["fingerprint"] != fingerprint:
        raise InputError(
            f"{run.run_dir} was trained on other crops than these. Resume it with the folder it began with, or choose "
            "another --output."
        )
    for name, part in _parts(run).items():
        part.load_state_dict(state[name])
    progression.history = [EpochRecord(**json.loads(line)) for line in state["history"]]
    progression.labels_N = None if state["labels"] is None else state["labels"].numpy()
    progression.failures = state["failures"]
    progression.best_score, progression.best_epoch = state["best"]
    progression.rng.bit_generator.state = json.loads(state["rng_sampling"])
    version, numbers, gauss = json.loads(state["rng_python"])
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(state["rng_torch"])


def _parts(run: Run) -> dict[str, Stateful]:
    """Everything with a state of its own; what a recipe has no use for is absent."""
    parts: dict[str, Stateful] = {"model": run.encoder, "optimizer": run.optimizer}
    if run.teacher is not None:
        parts["teacher"] = run.teacher.encoder
    if run.attention is not None:
        parts["attention"] = run.attention
    return parts


@contextmanager
def _kept_on_failure(run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReidgeError(
            f"{run.run_dir} cannot be written: {error.strerror or error}. Free some space and go on with --resume; the "
            "last whole epoch is kept."
        ) from error
