"""The training run: extract, cluster, remember, contrast; epoch after epoch."""

# N = images, B = batch, K = clusters, D = embedding

from __future__ import annotations

import math
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.progress import Progress
from reidge.train import run_folder
from reidge.train.augment import augment
from reidge.train.cluster import OUTLIER, ClusterConfig, dbscan, num_clusters
from reidge.train.datasets.market1501 import Market1501, read_market1501
from reidge.train.encoders import build_encoder
from reidge.train.encoders.layers import use_ghost_batch_norm
from reidge.train.evaluate import evaluate_split
from reidge.train.extract import embed_crops
from reidge.train.images import TrainingImages, read_training_images
from reidge.train.jaccard import jaccard_distances
from reidge.train.memory import ClusterMemory
from reidge.train.pretrained import load_pretrained
from reidge.train.report import write_report
from reidge.train.run_folder import EpochRecord, Progression
from reidge.train.sampler import batches

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.encoders.encoder import Encoder
    from reidge.train.recipe import Recipe

MAX_FAILURES = 3
"""Clusterings in a row that may find too little before the run stops."""
MIN_CLUSTERS = 2
"""With fewer there is nothing to contrast."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What stays the same from epoch to epoch."""

    recipe: Recipe
    run_dir: Path
    images: TrainingImages
    split: Market1501 | None
    encoder: Encoder
    optimizer: torch.optim.Optimizer
    device: torch.device
    bfloat16: bool

    def embed(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed crops in eval mode."""
        with self.autocast():
            return embed_crops(self.encoder, crops_NHW3)

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in bfloat16 where the recipe says so and the machine is good at it."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()


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

    On a CPU, a run that is interrupted and resumed ends with the same weights, bit for bit, as one that is not.

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
    run = _open_run(recipe, crops, run_dir, split)
    progression = Progression(rng=np.random.default_rng(recipe.loop.seed), history=[])
    fingerprint = run.images.fingerprint()
    if resume:
        run_folder.restore(run_dir, run.encoder, run.optimizer, progression, fingerprint)
    run_folder.start(run_dir, recipe)
    for epoch in range(len(progression.history), recipe.total_epochs):
        progression.history.append(_train_epoch(run, progression, epoch))
        run_folder.save(run_dir, run.encoder, run.optimizer, progression, fingerprint)
    write_report(run_dir, recipe, progression.history, run.images, progression.labels_N, run.embed, run.split)
    return _summary(run, progression.history)


def _open_run(recipe: Recipe, crops: Path, run_dir: Path, split: Path | None) -> Run:
    torch.manual_seed(recipe.loop.seed)
    device = _device(recipe.loop.device)
    config = recipe.encoder
    encoder = build_encoder(
        config.architecture,
        input_size=config.input_size,
        resize=config.resize,
        pooling=config.pooling,
        stripes=config.stripes,
    )
    if config.weights is not None:
        load_pretrained(encoder, config.weights)
    if config.ghost_batch is not None:
        use_ghost_batch_norm(encoder, config.ghost_batch)
    # Channels last halves the time of a step on a CPU and lets a GPU use its tensor cores.
    encoder = encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = read_training_images(crops, recipe.data, size=encoder.input_size, resize=encoder.resize)
    if recipe.warmup_epochs and images.tracklets is None:
        raise InputError(f"{crops} has no tracklets to warm up with. Add --set warmup.epochs=0 and --weights.")
    if len(images) < recipe.cluster.min_samples:
        raise InputError(f"{crops} holds {len(images)} crops, too few to cluster. Harvest more footage.")
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    return Run(
        recipe=recipe,
        run_dir=run_dir,
        images=images,
        split=None if split is None else read_market1501(split),
        encoder=encoder,
        optimizer=torch.optim.Adam(parameters, lr=recipe.optim.lr, weight_decay=recipe.optim.weight_decay),
        device=device,
        bfloat16=_bfloat16(recipe.loop.precision, device),
    )


def _train_epoch(run: Run, progression: Progression, epoch: int) -> EpochRecord:
    """Run one epoch: extract, label, remember, contrast."""
    began = time.perf_counter()
    recipe = run.recipe
    warming = epoch < recipe.warmup_epochs
    features_ND = _extract(run, epoch)
    labels_N = _tracklets(run) if warming else _cluster(run, progression, features_ND)
    memory = ClusterMemory.from_labels(
        torch.from_numpy(features_ND).to(run.device), labels_N, **recipe.memory.model_dump()
    )
    lr = recipe.warmup.lr if warming else recipe.optim.lr_at(epoch - recipe.warmup_epochs, recipe.loop.epochs)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    stepping = time.perf_counter()
    steps = recipe.warmup.iters if warming else recipe.loop.iters
    loss, seen = _contrast(run, memory, labels_N, progression.rng, steps, epoch, warming=warming)
    speed = seen / (time.perf_counter() - stepping)
    record = EpochRecord(
        epoch=epoch + 1,
        phase="warmup" if warming else "cluster",
        loss=loss,
        clusters=num_clusters(labels_N),
        outliers=int((labels_N == OUTLIER).sum()),
        eps=None if warming else recipe.cluster.eps,
        lr=lr,
        seconds=round(time.perf_counter() - began, 3),
        images_per_second=round(speed, 1),
    )
    return _evaluated(run, record)


def _contrast(
    run: Run,
    memory: ClusterMemory,
    labels_N: NDArray[np.int64],
    rng: np.random.Generator,
    steps: int,
    epoch: int,
    *,
    warming: bool,
) -> tuple[float, int]:
    """Take the contrastive steps of an epoch; return the mean loss and how many images were seen."""
    recipe, images = run.recipe, run.images
    within_camera = warming and recipe.warmup.within_camera
    camera_K = _cluster_cameras(labels_N, images.camids).to(run.device)
    losses, seen = [], 0
    run.encoder.train()
    with Progress(_label(run, epoch), total=steps, unit="steps") as progress:
        for indices_B in islice(batches(labels_N, images.camids, recipe.sampler, rng), steps):
            views_B3HW = augment(images.take(indices_B), recipe.augment, run.encoder, rng).to(run.device)
            y_B = torch.from_numpy(labels_N[indices_B]).to(run.device)
            with run.autocast():
                x_BD = run.encoder(views_B3HW)
            logits_BK = memory.logits(x_BD.float())
            if within_camera:
                logits_BK = logits_BK.masked_fill(camera_K[y_B][:, None] != camera_K, -math.inf)
            loss = functional.cross_entropy(logits_BK, y_B)
            losses.append(_finite(loss, run, epoch))
            run.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            run.optimizer.step()
            memory.update(x_BD.detach().float(), y_B)
            seen += len(indices_B)
            progress.advance(note=f"loss {losses[-1]:.3f}, {len(memory)} clusters")
    return float(np.mean(losses)), seen


def _finite(loss: Tensor, run: Run, epoch: int) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise ReidgeError(
            f"the loss became {value} in epoch {epoch + 1}: training diverged. Train again with a lower learning rate, "
            f"e.g. --set optim.lr={run.recipe.optim.lr / 3:.1e}; {run.run_dir} keeps the last whole epoch."
        )
    return value


def _extract(run: Run, epoch: int) -> NDArray[np.float32]:
    """Embed every crop without augmentation, in the order of the images."""
    features_ND = np.empty((len(run.images), run.encoder.embedding_dim), dtype=np.float32)
    with Progress(f"{_label(run, epoch)} extract", total=len(features_ND), unit="crops") as progress:
        for start in range(0, len(features_ND), 256):
            indices_B = np.arange(start, min(start + 256, len(features_ND)))
            features_ND[indices_B] = run.embed(run.images.take(indices_B))
            progress.advance(len(indices_B))
    return features_ND


def _tracklets(run: Run) -> NDArray[np.int64]:
    assert run.images.tracklets is not None
    return run.images.tracklets


def _cluster(run: Run, progression: Progression, features_ND: NDArray[np.float32]) -> NDArray[np.int64]:
    """Find pseudo labels; where there are too few, go on with the last ones or the tracklets, but not for long.

    Raises:
        ReidgeError: Clustering has failed `MAX_FAILURES` times in a row, or there is nothing to go on with.
    """
    config = clamp(run.recipe.cluster, len(features_ND))
    if config.k1 < run.recipe.cluster.k1 and not progression.history[run.recipe.warmup_epochs :]:
        _warn(f"{len(features_ND)} crops are few: k1 is {config.k1} instead of {run.recipe.cluster.k1}, k2 {config.k2}")
    distances = jaccard_distances(features_ND, k1=config.k1, k2=config.k2, max_distance=config.eps)
    labels_N = dbscan(distances, eps=config.eps, min_samples=config.min_samples)
    found = num_clusters(labels_N)
    if found >= MIN_CLUSTERS:
        progression.labels_N, progression.failures = labels_N, 0
        return labels_N
    progression.failures += 1
    fallback_N = progression.labels_N if progression.labels_N is not None else run.images.tracklets
    what = f"clustering found {found} clusters among {len(features_ND)} crops ({(labels_N == OUTLIER).sum()} outliers)"
    todo = "Change --set cluster.eps (larger joins more, smaller splits more), or harvest more footage."
    if progression.failures >= MAX_FAILURES or fallback_N is None:
        raise ReidgeError(f"{what}, {progression.failures} times in a row. {todo}")
    _warn(f"{what}; this epoch goes on with the {'tracklets' if progression.labels_N is None else 'last'} labels")
    return fallback_N


def clamp(config: ClusterConfig, images: int) -> ClusterConfig:
    """Keep neighbourhoods a fraction of a small set: k1 at most a tenth of it (but 4), k2 at most a fifth of k1."""
    k1 = min(config.k1, max(4, images // 10))
    return config if k1 == config.k1 else config.model_copy(update={"k1": k1, "k2": min(config.k2, max(1, k1 // 5))})


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


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here. Set loop.device to auto, cpu or cuda.") from error
    return device


def _bfloat16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # torch has no public way to ask for AMX.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def _label(run: Run, epoch: int) -> str:
    phase = "warm-up" if epoch < run.recipe.warmup_epochs else "train"
    return f"{phase} {epoch + 1}/{run.recipe.total_epochs}"


def _warn(message: str) -> None:
    print(f"warning: {message}.", file=sys.stderr, flush=True)
