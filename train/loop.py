"""The training run: extract, label, remember, contrast; epoch after epoch."""

# N = images, B = batch, K = clusters, D = embedding

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from reidge.edge.errors import InputError, ReidgeError
from reidge.train import run_folder
from reidge.train.batches import Batch, read_batches
from reidge.train.checkpoint import load_encoder, weights_hash
from reidge.train.cluster import OUTLIER, num_clusters
from reidge.train.distributed import open_world
from reidge.train.evaluate import evaluate_split
from reidge.train.features import all_finite, map_features, open_writer, remove_features, reserve_features
from reidge.train.objective import Objective, open_objective
from reidge.train.pseudo_labels import Labelling, pseudo_labels, scored_clusters
from reidge.train.report import write_report
from reidge.train.run import Run, open_run
from reidge.train.run_folder import EpochRecord, Progression
from reidge.train.tensorboard import write_scalars

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.recipe import Recipe

CROPS_AT_ONCE = 256
"""Crops taken from memory or disk at a time for extraction."""
STEPS_UNREAD = 10
"""Steps whose losses are looked at together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """How a run ended."""

    run_dir: Path
    epochs: int
    chosen_epoch: int
    """Whose encoder was kept, counted from 1."""
    images: int
    clusters: int
    outliers: int
    loss: float
    mAP: float | None
    """Of the chosen epoch, fraction 0 to 1; None without a split or where that epoch was not evaluated."""
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
    bit, as one that is not. Under torchrun the processes share every batch.

    Args:
        recipe: What to do.
        crops: Crop folder, or a benchmark folder whose labels are not read.
        run_dir: Made; on resuming, continued after its last whole epoch.
        weights: In place of the recipe's: `imagenet` or a file.
        resume: Continue the run in `run_dir`.
        split: Labelled query/gallery folder for figures in the report; it chooses nothing.

    Raises:
        InputError: Something given cannot be used.
        ReidgeError: Training cannot go on; the run folder holds the last whole epoch.
    """
    if weights is not None:
        recipe = recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"weights": weights})})
    with open_world(recipe.loop.device) as (world, device):
        resume = world.from_leader(lambda: run_folder.prepare(run_dir, recipe, resume=resume))
        left_out = run_folder.read_left_out(run_dir) if resume else None
        run = open_run(recipe, crops, run_dir, split, world=world, device=device, left_out=left_out)
        progression = Progression(rng=np.random.default_rng(recipe.loop.seed), history=[])
        fingerprint = run.images.fingerprint()
        if resume:
            run_folder.restore(run, progression, fingerprint)
        elif world.leads:
            run_folder.start(run_dir, recipe)
        for _ in range(len(progression.history), recipe.total_epochs):
            record = _train_epoch(run, progression)
            progression.history.append(record)
            if world.leads:
                _keep(run, progression)
                write_scalars(run_dir, record)  # before the state: what is repeated after a kill is shown once
                run_folder.save(run, progression, fingerprint)
        scored = recipe.loop.choose != "last"
        features_ND = _extract(run, recipe.total_epochs - 1) if scored else None  # by every process
        if world.leads:
            _finish(run, progression, features_ND)
            remove_features(run_dir)
        return _summary(run, progression)


def _train_epoch(run: Run, progression: Progression) -> EpochRecord:
    began = time.perf_counter()
    recipe, epoch, phase = run.recipe, len(progression.history), run.phase(len(progression.history))
    lr = recipe.warmup.lr if phase == "warmup" else recipe.optim.lr_at(epoch - recipe.warmup_epochs, recipe.loop.epochs)

    features_ND = _extract(run, epoch)
    unreadable = run.world.union(run.images.unreadable)
    labelling = run.world.from_leader(lambda: pseudo_labels(run, progression, features_ND, unreadable))
    if run.world.leads:
        _keep_if_best(run, progression, labelling)
    objective = open_objective(run, epoch, features_ND, labelling.labels_N, progression.rng)
    if run.teacher is not None and epoch == recipe.warmup_epochs:
        run.teacher.copy(run.encoder)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    loss, images_per_second = _contrast(run, objective, labelling.labels_N, progression.rng, epoch)
    run.world.share_buffers(run.encoder)

    record = EpochRecord(
        epoch=epoch + 1,
        phase=phase,
        loss=loss,
        clusters=num_clusters(labelling.labels_N),
        outliers=int((labelling.labels_N == OUTLIER).sum()),
        eps=labelling.eps,
        lr=lr,
        seconds=round(time.perf_counter() - began, 3),
        images_per_second=round(images_per_second, 1),
        agreement=labelling.agreement,
        silhouette=labelling.silhouette,
        tracklets=labelling.tracklets,
        recall=labelling.recall,
    )
    return _evaluated(run, record)


def _extract(run: Run, epoch: int) -> Tensor:
    """Embed every crop without augmentation, in the order of the images.

    Returns:
        `(N, D)`: float32 on the run's device or, where that would take too much memory, float16 in a file.
    """
    rows, shape = run.world.part(len(run.images)), (len(run.images), run.encoder.embedding_dim)
    if run.features_in_memory:
        features_ND = torch.empty(shape, device=run.device)
        for start, x_RD in _embedded(run, epoch, rows):
            features_ND[start : start + len(x_RD)] = torch.from_numpy(x_RD)
        run.world.share_rows(features_ND)
    else:
        run.world.from_leader(lambda: reserve_features(run.run_dir, shape))
        key = f"{weights_hash(run.encoder)} {run.images.fingerprint()}"
        with open_writer(run.run_dir, shape, rows, key=key) as writer:
            for _, x_RD in _embedded(run, epoch, rows, done=writer.done):
                writer.write(x_RD)
        run.world.wait()
        features_ND = map_features(run.run_dir, shape)
    if not all_finite(features_ND):
        raise ReidgeError(_diverged(run, epoch - 1, "embeddings are not finite after epoch"))
    return features_ND


def _embedded(run: Run, epoch: int, rows: slice, *, done: int = 0) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield the embeddings of this process's crops, but for the first `done`, and which crop is the first of them."""
    with run.progress(epoch, "extract", total=rows.stop - rows.start, unit="crops") as progress:
        progress.advance(done)
        for start in range(rows.start + done, rows.stop, CROPS_AT_ONCE):
            indices_B = np.arange(start, min(start + CROPS_AT_ONCE, rows.stop))
            yield start, run.embed(run.images.take(indices_B))
            progress.advance(len(indices_B))


def _contrast(
    run: Run, objective: Objective, labels_N: NDArray[np.int64], rng: np.random.Generator, epoch: int
) -> tuple[float, float]:
    """Take the contrastive steps of an epoch; return the mean loss and the images per second."""
    steps = run.recipe.warmup.iters if run.phase(epoch) == "warmup" else run.recipe.loop.iters
    losses: list[Tensor] = []
    seen, began = 0, time.perf_counter()
    run.encoder.train()
    with (
        run.progress(epoch, "", total=steps, unit="steps") as progress,
        closing(read_batches(run, labels_N, rng, steps=steps, epoch=epoch)) as batches,
    ):
        for batch in batches:
            run.optimizer.zero_grad()
            x_BD, loss = _backward(run, objective, batch)
            run.optimizer.step()
            objective.update(x_BD, batch.labels_B, batch.indices_B)
            if run.teacher is not None and run.phase(epoch) == "cluster":
                run.teacher.follow(run.encoder)
            losses.append(loss)
            seen += len(batch)
            # Reading the loss waits for the device, so not at every step.
            note = f"loss {_finite(losses, run, epoch):.3f}" if len(losses) % STEPS_UNREAD in (0, 1) else None
            progress.advance(note=note)
    _finite(losses, run, epoch)
    return float(torch.stack(losses).mean()), seen / (time.perf_counter() - began)


def _backward(run: Run, objective: Objective, batch: Batch) -> tuple[Tensor, Tensor]:
    """Add up the gradients of a batch, part by part.

    Returns:
        The embeddings of the whole batch, `(B, D)` in batch order, without gradient, and the mean loss.
    """
    parts = batch.parts(run.recipe.loop.accumulate, run.group)
    embeddings, loss = [], torch.zeros((), device=run.device)
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        with run.accumulating(first=number == 0, last=last):
            with run.autocast():
                x_bD = run.network(part.views_b3HW).float()
                teacher_bD = None
                if part.teacher_views_b3HW is not None and run.teacher is not None:
                    teacher_bD = run.teacher.embed(part.teacher_views_b3HW).float()
            # DistributedDataParallel averages over the processes what should be added up.
            share = len(x_bD) * run.world.size / len(batch)
            part_loss = share * objective.loss(x_bD, part.labels_b, part.indices_b, teacher_bD)
            part_loss.backward()  # type: ignore[no-untyped-call]
        embeddings.append(x_bD.detach())
        loss += part_loss.detach()
    x_BD = run.world.gather(torch.cat(embeddings), len(batch), batch.unit)
    return x_BD, run.world.mean(loss)


def _finite(losses: list[Tensor], run: Run, epoch: int) -> float:
    values = torch.stack(losses[-STEPS_UNREAD:])
    if not values.isfinite().all():
        value = values[~values.isfinite()][0].item()
        raise ReidgeError(_diverged(run, epoch, f"the loss became {value} in epoch"))
    return float(values[-1])


def _diverged(run: Run, epoch: int, what: str) -> str:
    key = "warmup.lr" if epoch < run.recipe.warmup_epochs else "optim.lr"
    return (
        f"{what} {epoch + 1}: training diverged. Train again with a lower learning rate (--set {key}=...); "
        f"{run.run_dir} keeps the last whole epoch."
    )


def _evaluated(run: Run, record: EpochRecord) -> EpochRecord:
    last = record.epoch == run.recipe.total_epochs
    if run.split is None or not run.world.leads or (record.epoch % run.recipe.loop.evaluate_every and not last):
        return record
    try:
        ranking = evaluate_split(run.embed, run.split, size=run.encoder.input_size, resize=run.encoder.resize)
    except ReidgeError as error:  # an image of the split that can no longer be read must not cost the epoch
        run.warn(f"epoch {record.epoch} has no figures: {str(error).rstrip('.')}")
        return record
    return replace(record, mAP=ranking.mAP, rank1=ranking.rank1)


def _keep(run: Run, progression: Progression) -> None:
    """Keep the encoder of the epoch just over, unless a score has a say and has been heard."""
    if run.recipe.loop.choose == "last" or progression.best_score is None:
        run_folder.keep_encoder(run, progression)


def _keep_if_best(run: Run, progression: Progression, labelling: Labelling) -> None:
    """Keep the encoder that an epoch begins with where its clustering scores best so far."""
    choose = run.recipe.loop.choose
    score: float | None = None if choose == "last" else getattr(labelling, choose)
    untrained = len(progression.history) <= run.recipe.warmup_epochs
    if score is not None and not untrained and (progression.best_score is None or score > progression.best_score):
        run_folder.keep_encoder(run, progression, score=score)


def _finish(run: Run, progression: Progression, features_ND: Tensor | None) -> None:
    """Let the last encoder be scored too, where scores choose, and write the report of the one that is kept."""
    if features_ND is not None:
        _keep_if_best(run, progression, scored_clusters(run, progression, features_ND, run.images.unreadable))
        run.encoder.load_state_dict(load_encoder(run.run_dir).state_dict())
    kept_epoch = max(progression.best_epoch, 1)
    said = (run.run_dir, run.recipe, progression.history, run.images, progression.labels_N, run.embed)
    try:
        write_report(*said, run.split, kept_epoch=kept_epoch)
    except InputError as error:
        run.warn(f"the report comes without ranked galleries: {str(error).rstrip('.')}")
        write_report(*said, None, kept_epoch=kept_epoch)


def _summary(run: Run, progression: Progression) -> TrainSummary:
    history = progression.history
    last, chosen = history[-1], history[max(progression.best_epoch, 1) - 1]
    return TrainSummary(
        run_dir=run.run_dir,
        epochs=last.epoch,
        chosen_epoch=progression.best_epoch,
        images=len(run.images),
        clusters=last.clusters,
        outliers=last.outliers,
        loss=last.loss,
        mAP=chosen.mAP,
        rank1=chosen.rank1,
        seconds=sum(record.seconds for record in history),
        images_per_second=float(np.median([record.images_per_second for record in history])),
    )
