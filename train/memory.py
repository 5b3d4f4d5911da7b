"""The cluster memory: one unit-length centroid per cluster, contrasted with and moved by every batch."""

# N = images, B = batch, K = clusters, D = embedding

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic import BaseModel, Field
from torch.nn import functional

from reidge.train.cluster import OUTLIER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

UpdateRule = Literal["sequential", "hardest", "weighted"]


class MemoryConfig(BaseModel, frozen=True, extra="forbid"):
    """How the memory is contrasted with and moved."""

    momentum: float = Field(0.1, ge=0, lt=1)
    """Share of the old centroid that an update keeps."""
    temperature: float = Field(0.05, gt=0)
    """Divides the cosine similarities before the softmax."""
    rule: UpdateRule = "sequential"
    """`sequential`: each image in batch order; `hardest`: the least similar one of a cluster; `weighted`: their
    mean, weighted towards the least similar."""
    tau: float = Field(0.09, gt=0)
    """Temperature of the weights of rule `weighted`: towards 0 it becomes `hardest`, far above 1 the plain mean."""


class ClusterMemory:
    """Centroids of clusters (Dai et al., 2021); gradients never reach them, only `update` moves them.

    Attributes:
        centroids_KD: Unit length.
    """

    def __init__(
        self, centroids_KD: Tensor, *, momentum: float, temperature: float, rule: UpdateRule, tau: float
    ) -> None:
        if rule not in ("sequential", "hardest", "weighted"):
            raise ValueError(f"memory rule {rule!r} is unknown. Choose sequential, hardest or weighted.")
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
    ) -> ClusterMemory:
        """Start each centroid as the normalised mean of its cluster; outliers have no say.

        Args:
            features_ND: Unit length.
            labels_N: Pseudo labels 0 .. K-1, each at least once, or `OUTLIER`.
            momentum: Share of the old centroid that an update keeps.
            temperature: Divides the cosine similarities.
            rule: How a batch moves the centroids, see `MemoryConfig`.
            tau: Temperature of the weights of rule `weighted`.
        """
        features = torch.as_tensor(features_ND)
        labels = torch.as_tensor(labels_N, device=features.device)
        kept = labels != OUTLIER
        clusters = int(labels.max()) + 1 if kept.any() else 0
        sums_KD = torch.zeros(clusters, features.shape[1], dtype=features.dtype, device=features.device)
        # The sum points where the mean does, and only the direction stays.
        sums_KD.index_add_(0, labels[kept], features[kept])
        return cls(sums_KD, momentum=momentum, temperature=temperature, rule=rule, tau=tau)

    def __len__(self) -> int:
        return len(self.centroids_KD)

    def logits(self, x_BD: Tensor) -> Tensor:
        """Compare with every centroid as it stands now: `(B, K)` cosine similarities over the temperature."""
        return x_BD @ self.centroids_KD.T / self.temperature

    @torch.no_grad()
    def update(self, x_BD: Tensor, labels_B: Tensor) -> None:
        """Move the centroids of the labels in the batch towards its unit-length embeddings."""
        x_BD = x_BD.detach()
        if self.rule == "sequential":
            # Clusters do not touch each other, so their first images move them at once, then their second, ...
            for turn in _turns(labels_B):
                self._blend(labels_B[turn], x_BD[turn])
            return
        similarities_B = (x_BD * self.centroids_KD[labels_B]).sum(dim=1)
        for label in sorted(set(labels_B.tolist())):
            members = (labels_B == label).nonzero().squeeze(1)
            if self.rule == "hardest":
                target_1D = x_BD[members[similarities_B[members].argmin()]][None]
            else:
                weights = torch.softmax(-similarities_B[members] / self.tau, dim=0)
                target_1D = (weights[:, None] * x_BD[members]).sum(dim=0, keepdim=True)
            self._blend(labels_B.new_tensor([label]), target_1D)

    def _blend(self, labels_K: Tensor, targets_KD: Tensor) -> None:
        moved_KD = self.momentum * self.centroids_KD[labels_K] + (1 - self.momentum) * targets_KD
        self.centroids_KD[labels_K] = functional.normalize(moved_KD, dim=1)


def _turns(labels_B: Tensor) -> list[Tensor]:
    """Split the batch so that turn t holds the t-th image of each cluster, in batch order."""
    seen: dict[int, int] = {}
    turns: list[list[int]] = []
    for index, label in enumerate(labels_B.tolist()):
        turn = seen.get(label, 0)
        seen[label] = turn + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(index)
    return [torch.tensor(turn, device=labels_B.device) for turn in turns]
