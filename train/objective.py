"""What the steps of an epoch pull the embeddings towards, in each of a run's phases."""

# N = images, B = batch, K = clusters, D = embedding

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn import functional

from reidge.train.attention import draw_members, train_attention
from reidge.train.cluster import OUTLIER
from reidge.train.contrast import contrastive_loss
from reidge.train.distil import Relations
from reidge.train.memory import ClusterMemory, InstanceMemory

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.attention import ClusterAttention
    from reidge.train.contrast import ContrastConfig
    from reidge.train.memory import UpdateRule
    from reidge.train.run import Run


class Objective(Protocol):
    """A loss, and the memory behind it that a step moves."""

    def loss(self, x_BD: Tensor, labels_B: Tensor, indices_B: Tensor, teacher_BD: Tensor | None) -> Tensor:
        """Mean over the images given, which may be a part of a batch."""

    def update(self, x_BD: Tensor, labels_B: Tensor, indices_B: Tensor) -> None:
        """Move the memory by the embeddings of a whole batch, in batch order."""


class TrackletContrast:
    """The warm-up: each image belongs to its tracklet, and may be contrasted with those of its own camera only."""

    def __init__(self, memory: ClusterMemory, camera_K: Tensor | None) -> None:
        self.memory = memory
        self.camera_K = camera_K
        """Camera of each tracklet; None contrasts with all."""

    def loss(self, x_BD: Tensor, labels_B: Tensor, indices_B: Tensor, teacher_BD: Tensor | None) -> Tensor:
        """Cross-entropy among the tracklets that may be contrasted."""
        logits_BK = self.memory.logits(x_BD)
        if self.camera_K is not None:
            logits_BK = logits_BK.masked_fill(self.camera_K[labels_B][:, None] != self.camera_K, -math.inf)
        return functional.cross_entropy(logits_BK, labels_B)

    def update(self, x_BD: Tensor, labels_B: Tensor, indices_B: Tensor) -> None:
        """Move the tracklets' centroids."""
        self.memory.update(x_BD, labels_B)


class ClusterContrast:
    """The training: each image belongs to its cluster, softly to others where a teacher says so."""

    def __init__(self, memory: ClusterMemory, config: ContrastConfig, attention: ClusterAttention | None) -> None:
        self.memory = memory
        self.config = config
        self.attention = attention

    def loss(self, x_BD: Tensor, labels_B: Tensor, indices_B: Tensor, teacher_BD: Tensor | None) -> Tensor:
        """Contrast with all centroids."""
        soft_BK = None if teacher_BD is None else self.memory.logits(teacher_BD)
        return contrastive_loss(self.memory.logits(x_BD), labels_B, soft_BK, self.config)

    def update(self, x_BD: Tensor, labels_B: Tensor, indices_B: Tensor) -> None:
        """Move the centroids by the configured rule."""
        dispersion_B = None if self.attention is None else self.attention.dispersion(x_BD, labels_B)
        self.memory.update(x_BD, labels_B, dispersion_B)


class InstanceContrast:
    """As `ClusterContrast`, with a memory of images."""

    def __init__(self, memory: InstanceMemory, config: ContrastConfig) -> None:
        self.memory = memory
        self.config = config

    def loss(self, x_BD: Tensor, labels_B: Tensor, indices_B: Tensor, teacher_BD: Tensor | None) -> Tensor:
        """Contrast with the mean of every cluster's vectors."""
        soft_BK = None if teacher_BD is None else self.memory.logits(teacher_BD)
        return contrastive_loss(self.memory.logits(x_BD), labels_B, soft_BK, self.config)

    def update(self, x_BD: Tensor, labels_B: Tensor, indices_B: Tensor) -> None:
        """Move the vectors of the batch's images."""
        self.memory.update(x_BD, indices_B)


class Distillation:
    """A student's training: each image is to be as similar to all others as a trained encoder finds it."""

    def __init__(self, relations: Relations) -> None:
        self.relations = relations

    def loss(self, x_BD: Tensor, labels_B: Tensor, indices_B: Tensor, teacher_BD: Tensor | None) -> Tensor:
        """Compare the relations."""
        return self.relations.loss(x_BD, indices_B)

    def update(self, x_BD: Tensor, labels_B: Tensor, indices_B: Tensor) -> None:
        """Remember the new embeddings."""
        self.relations.update(x_BD, indices_B)


def open_objective(
    run: Run, epoch: int, features_ND: Tensor, labels_N: NDArray[np.int64], rng: np.random.Generator
) -> Objective:
    """Build the objective of an epoch from the features and pseudo labels it begins with.

    Args:
        run: What the run works with; its attention is trained here.
        epoch: Counted from 0.
        features_ND: Unit length, on the run's device or in a file.
        labels_N: Pseudo labels or `OUTLIER`.
        rng: Drawn from in a fixed order.
    """
    recipe = run.recipe
    if run.guides_NT is not None:
        return Distillation(Relations(run.guides_NT, features_ND, recipe.distil))
    if epoch < recipe.warmup_epochs:
        camera_K = _camera_of_each(labels_N, run.images.camids).to(run.device) if recipe.warmup.within_camera else None
        return TrackletContrast(_cluster_memory(run, features_ND, labels_N, "sequential"), camera_K)
    if recipe.memory.level == "instance":
        momentum, temperature = recipe.memory.momentum, recipe.memory.temperature
        vectors = InstanceMemory(
            features_ND,
            torch.from_numpy(labels_N),
            momentum=momentum,
            temperature=temperature,
            device=run.device,
        )
        return InstanceContrast(vectors, recipe.contrast)
    if run.attention is None:
        memory = _cluster_memory(run, features_ND, labels_N, recipe.memory.rule)
        return ClusterContrast(memory, recipe.contrast, None)
    return _attentive(run, run.attention, features_ND, labels_N, rng)


def _cluster_memory(run: Run, features_ND: Tensor, labels_N: NDArray[np.int64], rule: UpdateRule) -> ClusterMemory:
    config = run.recipe.memory
    return ClusterMemory.from_labels(
        features_ND,
        labels_N,
        momentum=config.momentum,
        temperature=config.temperature,
        rule=rule,
        tau=config.tau,
        device=run.device,
    )


def _attentive(
    run: Run, attention: ClusterAttention, features_ND: Tensor, labels_N: NDArray[np.int64], rng: np.random.Generator
) -> ClusterContrast:
    """Train the attention on this epoch's clusters, and let it place the centroids where the recipe says so."""
    config, temperature = run.recipe.attention, run.recipe.memory.temperature
    members = draw_members(labels_N, config.max_members, rng, run.device)
    train_attention(attention, features_ND, members, config, temperature, rng)
    memory = _cluster_memory(run, features_ND, labels_N, run.recipe.memory.rule)
    if run.recipe.memory.initialiser == "attention":
        memory.centroids_KD = functional.normalize(attention.prototypes(features_ND, members), dim=1)
    return ClusterContrast(memory, run.recipe.contrast, attention if memory.rule == "dispersion" else None)


def _camera_of_each(labels_N: NDArray[np.int64], camids_N: NDArray[np.int64]) -> Tensor:
    """Return the camera of each label; any one of them where a cluster spans several."""
    camera_K = np.zeros(labels_N.max() + 1, dtype=np.int64)
    kept = labels_N != OUTLIER
    camera_K[labels_N[kept]] = camids_N[kept]
    return torch.from_numpy(camera_K)
