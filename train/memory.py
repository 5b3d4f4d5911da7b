"""The memory a batch is contrasted with and moves: a centroid for each cluster, or a vector for each image."""

# N = images, B = batch, K = clusters, D = embedding

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch
from pydantic import BaseModel, Field
from torch.nn import functional

from reidge.train.cluster import OUTLIER
from reidge.train.features import blocks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

UpdateRule = Literal["sequential", "hardest", "weighted", "dispersion"]


class MemoryConfig(BaseModel, frozen=True, extra="forbid"):
    """How the memory is contrasted with and moved."""

    level: Literal["cluster", "instance"] = "cluster"
    """`cluster`: a centroid for each; `instance`: a vector for each image, averaged over its cluster when contrasted,
    which is what Cluster Contrast argues against."""
    initialiser: Literal["mean", "attention"] = "mean"
    """Where a centroid starts: the mean of its cluster, or the mean after self-attention among its members."""
    rule: UpdateRule = "sequential"
    """What moves a centroid. `sequential`: each image in batch order; `hardest`: the least similar one of a cluster;
    `weighted`: their mean, weighted towards the least similar; `dispersion`: the one that the others attend to
    least. Level `instance` has no rule: each image moves its own vector."""
    momentum: float = Field(0.1, ge=0, lt=1)
    """Share of the old vector that an update keeps."""
    temperature: float = Field(0.05, gt=0)
    """Divides the cosine similarities before the softmax."""
    tau: float = Field(0.09, gt=0)
    """Temperature of the weights of rule `weighted`: towards 0 it becomes `hardest`, far above 1 the plain mean."""

    @property
    def needs_attention(self) -> bool:
        """Whether self-attention among the members of clusters has to be trained."""
        return self.level == "cluster" and (self.initialiser == "attention" or self.rule == "dispersion")


class ClusterMemory:
    """Centroids of clusters (Dai et al., 2021); gradients never reach them, only `update` moves them.

    Attributes:
        centroids_KD: Unit length.
    """

    def __init__(
        self, centroids_KD: Tensor, *, momentum: float, temperature: float, rule: UpdateRule, tau: float
    ) -> None:
        if rule not in get_args(UpdateRule):
            raise ValueError(f"memory rule {rule!r} is unknown. Choose one of: {', '.join(get_args(UpdateRule))}.")
        self.centroids_KD = functional.normalize(centroids_KD.detach(), dim=1)
        self.momentum = momentum
        self.temperature = temperature
        self.rule = rule
        self.tau = tau

    @classmethod
    def from_labels(
        cls,
        features_ND: NDArray[np.float32] | Tensor,
        labels_N: NDArray[np.int64] | Tensor,
        *,
        momentum: float,
        temperature: float,
        rule: UpdateRule = "sequential",
        tau: float = 0.09,
        device: torch.device | None = None,
    ) -> ClusterMemory:
        """Start each centroid as the normalised mean of its cluster; outliers have no say.

        Args:
            features_ND: Unit length.
            labels_N: Pseudo labels 0 .. K-1, each at least once, or `OUTLIER`.
            momentum: Share of the old centroid that an update keeps.
            temperature: Divides the cosine similarities.
            rule: How a batch moves the centroids, see `MemoryConfig`.
            tau: Temperature of the weights of rule `weighted`.
            device: Of the centroids; None is where the features are.
        """
        sums_KD = cluster_sums(torch.as_tensor(features_ND), torch.as_tensor(labels_N), device)
        # The sum points where the mean does, and only the direction stays.
        return cls(sums_KD, momentum=momentum, temperature=temperature, rule=rule, tau=tau)

    def __len__(self) -> int:
        return len(self.centroids_KD)

    def logits(self, x_BD: Tensor) -> Tensor:
        """Compare with every centroid as it stands now: `(B, K)` cosine similarities over the temperature."""
        return x_BD @ self.centroids_KD.T / self.temperature

    @torch.no_grad()
    def update(self, x_BD: Tensor, labels_B: Tensor, dispersion_B: Tensor | None = None) -> None:
        """Move the centroids of the labels in the batch towards its unit-length embeddings.

        Args:
            x_BD: In batch order, which rule `sequential` depends on.
            labels_B: Their clusters; best on the CPU, where what they decide needs no word from the device.
            dispersion_B: How far each image is from its cluster; rule `dispersion` moves the centroid by the image
                with the largest.
        """
        x_BD = x_BD.detach()
        labels_B = labels_B.cpu()
        if self.rule == "sequential":
            # Clusters do not touch each other, so their first images move them at once, then their second, ...
            for images, labels in _uploaded(_turns(labels_B), labels_B, x_BD.device):
                self._blend(labels, x_BD[images])
            return
        distances_B = -(x_BD * self.centroids_KD[labels_B.to(x_BD.device)]).sum(dim=1)
        if self.rule == "dispersion":
            assert dispersion_B is not None, "rule `dispersion` needs the dispersion of each image"
            distances_B = dispersion_B
        for members, labels in _uploaded(_groups(labels_B), labels_B, x_BD.device):
            if self.rule == "weighted":
                weights = torch.softmax(distances_B[members] / self.tau, dim=0)
                target_1D = (weights[:, None] * x_BD[members]).sum(dim=0, keepdim=True)
            else:
                target_1D = x_BD[members][distances_B[members].argmax(dim=0, keepdim=True)]
            self._blend(labels[:1], target_1D)

    def _blend(self, labels_K: Tensor, targets_KD: Tensor) -> None:
        moved_KD = self.momentum * self.centroids_KD[labels_K] + (1 - self.momentum) * targets_KD
        self.centroids_KD[labels_K] = functional.normalize(moved_KD, dim=1)


class InstanceMemory:
    """A vector for each image, whose mean over a cluster stands for it (Ge et al., NeurIPS 2020, without outliers).

    Every image moves its own vector alone, so the vectors of a cluster are of different ages: the inconsistency that
    Cluster Contrast removes.

    Attributes:
        vectors_ND: Unit length, those of outliers unused.
    """

    def __init__(
        self,
        features_ND: Tensor,
        labels_N: Tensor,
        *,
        momentum: float,
        temperature: float,
        device: torch.device | None = None,
    ) -> None:
        self.vectors_ND = features_ND.detach().to(
            device, torch.promote_types(features_ND.dtype, torch.float32), copy=True
        )
        self.vectors_ND /= self.vectors_ND.norm(dim=1, keepdim=True).clamp_min(1e-12)
        self.labels_N = labels_N.to(self.vectors_ND.device)
        self.momentum = momentum
        self.temperature = temperature
        self._sizes_K = torch.bincount(self.labels_N[self.labels_N != OUTLIER])

    def __len__(self) -> int:
        return len(self._sizes_K)

    def logits(self, x_BD: Tensor) -> Tensor:
        """Compare with every cluster: `(B, K)` mean cosine similarities to its vectors over the temperature."""
        sums_KD = self.vectors_ND.new_zeros(len(self) + 1, self.vectors_ND.shape[1])
        # Outliers add to a last row that nobody looks at: to leave them out would copy all others.
        sums_KD.index_add_(0, self.labels_N % len(sums_KD), self.vectors_ND)
        sums_KD = sums_KD[:-1]
        return x_BD @ (sums_KD / self._sizes_K[:, None]).T / self.temperature

    @torch.no_grad()
    def update(self, x_BD: Tensor, indices_B: Tensor) -> None:
        """Move the vectors of these images; an image that comes twice in a batch moves its own twice."""
        indices_B = indices_B.cpu()
        for turn, images in _uploaded(_turns(indices_B), indices_B, x_BD.device):
            moved_BD = self.momentum * self.vectors_ND[images] + (1 - self.momentum) * x_BD[turn].detach()
            self.vectors_ND[images] = functional.normalize(moved_BD, dim=1)


def cluster_sums(features_ND: Tensor, labels_N: Tensor, device: torch.device | None = None) -> Tensor:
    """Add up the features of each cluster, `(K, D)` float32; outliers have no say.

    Args:
        features_ND: In memory or in a file.
        labels_N: 0 .. K-1 or `OUTLIER`.
        device: Of the sums; None is where the features are.
    """
    device = features_ND.device if device is None else device
    labels_N = labels_N.to(device)
    clusters = int(labels_N.max()) + 1 if len(labels_N) else 0
    sums_KD = torch.zeros(clusters, features_ND.shape[1], device=device)
    for rows, x_RD in blocks(features_ND, device):
        kept_R = labels_N[rows] != OUTLIER
        sums_KD.index_add_(0, labels_N[rows][kept_R], x_RD[kept_R])
    return sums_KD


def _turns(labels_B: Tensor) -> list[Tensor]:
    """Split the batch so that turn t holds the t-th image of each label, in batch order."""
    seen: dict[int, int] = {}
    turns: list[list[int]] = []
    for index, label in enumerate(labels_B.tolist()):
        turn = seen.get(label, 0)
        seen[label] = turn + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(index)
    return [torch.tensor(turn) for turn in turns]


def _groups(labels_B: Tensor) -> list[Tensor]:
    """Split the batch so that each group holds the images of one label."""
    return [(labels_B == label).nonzero().squeeze(1) for label in torch.unique(labels_B)]


def _uploaded(groups: list[Tensor], labels_B: Tensor, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Bring groups of images and their labels to the device, all in one copy: each copy would wait for it."""
    sizes = [len(group) for group in groups]
    images = torch.cat(groups)
    both = torch.stack([images, labels_B[images]]).to(device)
    return list(zip(torch.split(both[0], sizes), torch.split(both[1], sizes), strict=True))
