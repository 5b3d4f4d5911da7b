"""Self-attention among the members of a cluster: where its centroid starts, and which member is the odd one out.

A reconstruction of the cluster self-attention of robust contrastive learning (Int. J. Mach. Learn. Cyber., 2023,
10.1007/s13042-023-01997-1), of which only the abstract is public; it has no published number to compare with.
"""

# N = images, K = clusters, C = clusters at a time, M = members of a cluster (padded), D = embedding, A = heads,
# E = width of a head, B = batch

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.nn import functional

from reidge.train.cluster import OUTLIER
from reidge.train.features import take

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CLUSTERS_AT_ONCE = 32
"""Clusters that attention is computed or trained on at a time."""


class AttentionConfig(BaseModel, frozen=True, extra="forbid"):
    """Size and training of the self-attention."""

    heads: int = Field(4, ge=1)
    head_dim: int = Field(64, ge=1)
    """Width of a head's queries, keys and values."""
    max_members: int = Field(64, ge=2)
    """Members of a cluster that are looked at; of a larger one as many are drawn."""
    steps: int = Field(30, ge=0)
    """Training steps at the beginning of each epoch."""
    lr: float = Field(1e-3, gt=0)
    """Learning rate of Adam, begun anew each epoch."""


class ClusterAttention(nn.Module):
    """Z = X + W_o MHSA(X) over the members X of a cluster; W_o begins at 0, so Z begins as X."""

    def __init__(self, dim: int, config: AttentionConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_dim
        self.heads = config.heads
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.out = nn.Linear(inner, dim, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x_CMD: Tensor, present_CM: Tensor) -> tuple[Tensor, Tensor]:
        """Aggregate every member with the others of its cluster.

        Args:
            x_CMD: Unit-length embeddings; rows that are not present may hold anything finite.
            present_CM: Which rows are members; at least one a cluster.

        Returns:
            Z `(C, M, D)`, and the attention `(C, M, M)` from each member (row) to each (column), mean over the heads.
        """
        clusters, members, _ = x_CMD.shape
        queries, keys, values = (
            part.view(clusters, members, self.heads, -1).transpose(1, 2) for part in self.qkv(x_CMD).chunk(3, dim=2)
        )
        scores_CAMM = queries @ keys.transpose(2, 3) / keys.shape[3] ** 0.5
        attention_CAMM = scores_CAMM.masked_fill(~present_CM[:, None, None], -torch.inf).softmax(dim=3)
        mixed_CMI = (attention_CAMM @ values).transpose(1, 2).flatten(2)
        return x_CMD + self.out(mixed_CMI), attention_CAMM.mean(dim=1)

    @torch.no_grad()
    def dispersion(self, x_BD: Tensor, labels_B: Tensor) -> Tensor:
        """Say how little each image of a batch is attended to by those of its cluster.

        Returns:
            `(B,)`: 1 - n times the mean attention received among the n images of its cluster; 0 where all receive
            the same, 1 where none is received.
        """
        labels_B = labels_B.cpu()
        members = [(labels_B == label).nonzero().squeeze(1) for label in torch.unique(labels_B)]
        indices_CM, present_CM = (padded.to(x_BD.device) for padded in _padded(members))
        _, attention_CMM = self(x_BD[indices_CM], present_CM)
        sizes_C1 = present_CM.sum(dim=1, keepdim=True)
        received_CM = (attention_CMM * present_CM[:, :, None]).sum(dim=1) / sizes_C1
        dispersion_B = torch.empty(len(x_BD), device=x_BD.device)
        dispersion_B[indices_CM[present_CM]] = (1 - sizes_C1 * received_CM)[present_CM]
        return dispersion_B

    @torch.no_grad()
    def prototypes(self, features_ND: Tensor, members: Sequence[Tensor]) -> Tensor:
        """Return the mean of the aggregated members of each cluster, `(K, D)`, not normalised."""
        parts = []
        for start in range(0, len(members), CLUSTERS_AT_ONCE):
            indices_CM, present_CM = _padded(members[start : start + CLUSTERS_AT_ONCE])
            z_CMD, _ = self(take(features_ND, indices_CM, indices_CM.device), present_CM)
            parts.append((z_CMD * present_CM[:, :, None]).sum(dim=1) / present_CM.sum(dim=1, keepdim=True))
        return torch.cat(parts)


def draw_members(
    labels_N: NDArray[np.int64], max_members: int, rng: np.random.Generator, device: torch.device
) -> list[Tensor]:
    """List the images of each cluster, at most `max_members` of them, drawn at random."""
    order = np.argsort(labels_N, kind="stable")
    order = order[labels_N[order] != OUTLIER]
    groups = np.split(order, np.flatnonzero(np.diff(labels_N[order])) + 1)
    drawn = [
        group if len(group) <= max_members else np.sort(rng.choice(group, max_members, replace=False))
        for group in groups
    ]
    return [torch.from_numpy(group).to(device) for group in drawn]


def train_attention(
    attention: ClusterAttention,
    features_ND: Tensor,
    members: Sequence[Tensor],
    config: AttentionConfig,
    temperature: float,
    rng: np.random.Generator,
) -> None:
    """Teach the attention to bring each aggregated member to the plain prototype of its own cluster.

    Args:
        attention: Changed in place.
        features_ND: Unit length; no gradient reaches them.
        members: Images of each cluster.
        config: Steps and learning rate.
        temperature: Of the contrast.
        rng: Draws the clusters of each step.
    """
    plain_KD = functional.normalize(
        torch.stack([take(features_ND, images, images.device).mean(dim=0) for images in members]), dim=1
    )
    optimizer = torch.optim.Adam(attention.parameters(), lr=config.lr)
    for _ in range(config.steps):
        chosen = rng.choice(len(members), min(CLUSTERS_AT_ONCE, len(members)), replace=False)
        indices_CM, present_CM = _padded([members[k] for k in chosen])
        z_CMD, _ = attention(take(features_ND, indices_CM, indices_CM.device), present_CM)
        z_BD = functional.normalize(z_CMD[present_CM], dim=1)
        labels_CM = torch.from_numpy(chosen).to(z_BD.device)[:, None].expand(present_CM.shape)
        loss = functional.cross_entropy(z_BD @ plain_KD.T / temperature, labels_CM[present_CM])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _padded(members: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Write lists of images as rows of one length, `(C, M)`, and which places of a row are taken."""
    indices_CM = nn.utils.rnn.pad_sequence(list(members), batch_first=True)
    sizes_C = torch.tensor([len(images) for images in members], device=indices_CM.device)
    return indices_CM, torch.arange(indices_CM.shape[1], device=indices_CM.device) < sizes_C[:, None]
