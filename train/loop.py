"""The training run: extract, label, remember, contrast; epoch after epoch."""

# N = images, B = batch, K = clusters, D = embedding

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from reidge.edge.errors import ReidgeError
from reidge.edge.progress import Progress
from reidge.train import run_folder
from reidge.train.augment import augment
from reidge.train.checkpoint import STATE_NAME
from reidge.train.cluster import OUTLIER, num_clusters
from reidge.train.evaluate import evaluate_split
from reidge.train.memory import ClusterMemory
from reidge.train.pseudo_labels import pseudo_labels
from reidge.train.report import write_report
from reidge.train.run import Run, open_run
from reidge.train.run_folder import EpochRecord, Progression
from reidge.train.sampler import batches

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.recipe import Recipe

CROPS_AT_ONCE = 256
"""Crops taken from memory or disk at a time for extraction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """How a run ended."""

    run_dir: Path
    epochs: int
    images: int
    clusters: int
    outliers: int
    loss: float
    mAP: float | None
    """Of the last epoch, fraction 0 to 1; None without a split."""
    rank1: float | None
    seconds: float
    """Of all epochs, those before an interruption included."""
    images_per_second: float
    """Of the contrastive steps, median over the epochs."""


def train(
    recipe: Recipe,
    crops: Path,
    run_dir: Path,
    *,
    weights: str | None = None,
    resume: bool = False,
    split: Path | None = None,
) -> TrainSummary:
    """Train an encoder on unlabeled crops and leave a run folder behind.

    On a CPU with the same number of threads, a run that is interrupted and resumed ends with the same weights, bit for
    bit, as one that is not.

    Args:
        recipe: What to do.
        crops: Crop folder, or a benchmark folder whose labels are not read.
        run_dir: Made; on resuming, continued after its last whole epoch.
        weights: In place of the recipe's: `imagenet` or a file.
        resume: Continue the run in `run_dir`.
        split: Labelled query/gallery folder for figures in the report; it chooses nothing.

    Raises:
        InputError: Something given cannot be used; nothing was written.
        ReidgeError: Training cannot go on; the run folder holds the last whole epoch.
    """
    if weights is not None:
        recipe = recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"weights": weights})})
    run_folder.prepare(run_dir, recipe, resume=resume)
    resume = resume and (run_dir / STATE_NAME).is_file()  # stopped in its first epoch, a run starts over
    run = open_run(recipe, crops, run_dir, split, pretrained=not resume)
    progression = Progression(rng=np.random.default_rng(recipe.loop.seed), history=[])
    fingerprint = run.images.fingerprint()
    if resume:
        run_folder.restore(run_dir, run.encoder, run.optimizer, progression, fingerprint)
    run_folder.start(run_dir, recipe)
    for _ in range(len(progression.history), recipe.total_epochs):
        progression.history.append(_train_epoch(run, progression))
        run_folder.save(run_dir, run.encoder, run.optimizer, progression, fingerprint)
    write_report(run_dir, recipe, progression.history, run.images, progression.labels_N, run.embed, run.split)
    return _summary(run, progression.history)


def _train_epoch(run: Run, progression: Progression) -> EpochRecord:
    began = time.perf_counter()
    recipe, epoch = run.recipe, len(progression.history)
    warming = epoch < recipe.warmup_epochs
    lr = recipe.warmup.lr if warming else recipe.optim.lr_at(epoch - recipe.warmup_epochs, recipe.loop.epochs)

    features_ND = _extract(run, epoch)
    labels_N = pseudo_labels(run, progression, features_ND)
    memory = ClusterMemory.from_labels(features_ND, labels_N, **recipe.memory.model_dump())
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    loss, images_per_second = _contrast(run, memory, labels_N, progression.rng, epoch)

    record = EpochRecord(
        epoch=epoch + 1,
        phase="warmup" if warming else "cluster",
        loss=loss,
        clusters=num_clusters(labels_N),
        outliers=int((labels_N == OUTLIER).sum()),
        eps=None if warming else recipe.cluster.eps,
        lr=lr,
        seconds=round(time.perf_counter() - began, 3),
        images_per_second=round(images_per_second, 1),
    )
    return _evaluated(run, record)


def _extract(run: Run, epoch: int) -> Tensor:
    """Embed every crop without augmentation, in the order of the images; the result is on the run's device."""
    features_ND = np.empty((len(run.images), run.encoder.embedding_dim), dtype=np.float32)
    with Progress(f"{run.label(epoch)} extract", total=len(features_ND), unit="crops") as progress:
        for start in range(0, len(features_ND), CROPS_AT_ONCE):
            indices_B = np.arange(start, min(start + CROPS_AT_ONCE, len(features_ND)))
            features_ND[indices_B] = run.embed(run.images.take(indices_B))
            progress.advance(len(indices_B))
    if not np.isfinite(features_ND).all():
        raise ReidgeError(_diverged(run, epoch - 1, "embeddings are not finite after epoch"))
    return torch.from_numpy(features_ND).to(run.device)


def _contrast(
    run: Run, memory: ClusterMemory, labels_N: NDArray[np.int64], rng: np.random.Generator, epoch: int
) -> tuple[float, float]:
    """Take the contrastive steps of an epoch; return the mean loss and the images per second."""
    recipe, images = run.recipe, run.images
    warming = epoch < recipe.warmup_epochs
    steps = recipe.warmup.iters if warming else recipe.loop.iters
    camera_K = _cluster_cameras(labels_N, images.camids).to(run.device)
    losses, seen, began = [], 0, time.perf_counter()
    run.encoder.train()
    with Progress(run.label(epoch), total=steps, unit="steps") as progress:
        for indices_B in islice(batches(labels_N, images.camids, recipe.sampler, rng), steps):
            views_B3HW = augment(images.take(indices_B), recipe.augment, run.encoder, rng).to(run.device)
            y_B = torch.from_numpy(labels_N[indices_B]).to(run.device)
            with run.autocast():
                x_BD = run.encoder(views_B3HW).float()
            logits_BK = memory.logits(x_BD)
            if warming and recipe.warmup.within_camera:
                logits_BK = logits_BK.masked_fill(camera_K[y_B][:, None] != camera_K, -math.inf)
            loss = functional.cross_entropy(logits_BK, y_B)
            losses.append(_finite(loss, run, epoch))
            run.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            run.optimizer.step()
            memory.update(x_BD.detach(), y_B)
            seen += len(indices_B)
            progress.advance(note=f"loss {losses[-1]:.3f}, {len(memory)} clusters")
    return float(np.mean(losses)), seen / (time.perf_counter() - began)


def _finite(loss: Tensor, run: Run, epoch: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise ReidgeError(_diverged(run, epoch, f"the loss became {value} in epoch"))
    return value


def _diverged(run: Run, epoch: int, what: str) -> str:
    key = "warmup.lr" if epoch < run.recipe.warmup_epochs else "optim.lr"
    return (
        f"{what} {epoch + 1}: training diverged. Train again with a lower learning rate (--set {key}=...); "
        f"{run.run_dir} keeps the last whole epoch."
    )


def _cluster_cameras(labels_N: NDArray[np.int64], camids_N: NDArray[np.int64]) -> Tensor:
    """Return the camera of each label; any one of them where a cluster spans several."""
    camera_K = np.zeros(labels_N.max() + 1, dtype=np.int64)
    kept = labels_N != OUTLIER
    camera_K[labels_N[kept]] = camids_N[kept]
    return torch.from_numpy(camera_K)


def _evaluated(run: Run, record: EpochRecord) -> EpochRecord:
    last = record.epoch == run.recipe.total_epochs
    if run.split is None or (record.epoch % run.recipe.loop.evaluate_every and not last):
        return record
    ranking = evaluate_split(run.embed, run.split, size=run.encoder.input_size, resize=run.encoder.resize)
    return replace(record, mAP=ranking.mAP, rank1=ranking.rank1)


def _summary(run: Run, history: list[EpochRecord]) -> TrainSummary:
    last = history[-1]
    return TrainSummary(
        run_dir=run.run_dir,
        epochs=last.epoch,
        images=len(run.images),
        clusters=last.clusters,
        outliers=last.outliers,
        loss=last.loss,
        mAP=last.mAP,
        rank1=last.rank1,
        seconds=sum(record.seconds for record in history),
        images_per_second=float(np.median([record.images_per_second for record in history])),
    )
