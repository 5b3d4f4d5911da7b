"""Distilling a trained encoder into a smaller one: the student finds the same crops similar, without labels.

Only relations are compared, never the embeddings themselves, so the two may differ in width and need no layer between
them that is thrown away afterwards (after Tejankar et al., ICCV 2021, with all crops in place of a queue).
"""

# N = images, B = batch, D = embedding of the student, T = embedding of the trained encoder

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, Field
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


class DistilConfig(BaseModel, frozen=True, extra="forbid"):
    """What a student learns from; without a trained encoder no student is meant."""

    encoder: str | None = None
    """Run folder or encoder.safetensors of the trained encoder (`--teacher`)."""
    temperature: float = Field(0.1, gt=0)
    """Divides the student's cosine similarities to all crops."""
    teacher_temperature: float = Field(0.05, gt=0)
    """Divides the trained encoder's; lower looks at fewer neighbours."""


class Relations:
    """How similar every crop is to every other, as the trained encoder sees it and as the student does.

    Attributes:
        guides_NT: Embeddings by the trained encoder, unit length, never changed.
        vectors_ND: The student's, replaced as it embeds them anew.
    """

    def __init__(self, guides_NT: Tensor, features_ND: Tensor, config: DistilConfig) -> None:
        self.guides_NT = guides_NT
        self.vectors_ND = features_ND.to(guides_NT.device, torch.float32, copy=True)
        self.config = config

    def loss(self, x_BD: Tensor, indices_B: Tensor) -> Tensor:
        """Cross-entropy of the student's similarities with the trained encoder's, mean over the batch.

        A crop's similarity to itself says nothing and is left out of both.
        """
        itself = torch.arange(len(x_BD), device=x_BD.device), indices_B
        guide_BN = self.guides_NT[indices_B] @ self.guides_NT.T / self.config.teacher_temperature
        guide_BN[itself] = -torch.inf
        logits_BN = x_BD @ self.vectors_ND.T / self.config.temperature
        logits_BN[itself] = -1e4  # minus infinity times a target of 0 were no number
        return functional.cross_entropy(logits_BN, guide_BN.softmax(dim=1))

    @torch.no_grad()
    def update(self, x_BD: Tensor, indices_B: Tensor) -> None:
        """Remember the student's new embeddings."""
        self.vectors_ND[indices_B] = x_BD.detach()
