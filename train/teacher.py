"""The teacher: a slowly following average of the encoder, which looks at a second view of each batch."""

# B = batch, D = embedding, H, W = input height and width

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from torch import Tensor

    from reidge.train.encoders import Encoder


class TeacherConfig(BaseModel, frozen=True, extra="forbid"):
    """How slowly the teacher follows; it is kept where `contrast.soft_weight` is above 0."""

    momentum: float = Field(0.999, ge=0, le=1)
    """Share of the teacher's parameters that a step keeps."""


class Teacher:
    """Exponential moving average of an encoder's parameters (Tarvainen and Valpola, NeurIPS 2017).

    Its batch-norm statistics are its own: it is kept in training mode and normalises the views it is shown.

    Attributes:
        encoder: The network; it takes no gradient.
    """

    def __init__(self, encoder: Encoder, config: TeacherConfig) -> None:
        self.encoder = copy.deepcopy(encoder).train().requires_grad_(False)
        self.momentum = config.momentum

    @torch.no_grad()
    def embed(self, views_B3HW: Tensor) -> Tensor:
        """Embed views in training mode, `(B, D)` unit length."""
        embeddings_BD: Tensor = self.encoder(views_B3HW)
        return embeddings_BD

    def copy(self, encoder: Encoder) -> None:
        """Begin as the encoder is now, statistics included."""
        self.encoder.load_state_dict(encoder.state_dict())

    @torch.no_grad()
    def follow(self, encoder: Encoder) -> None:
        """Move every parameter a step towards the encoder's."""
        own: list[Tensor] = list(self.encoder.parameters())
        others: list[Tensor] = list(encoder.parameters())
        torch._foreach_lerp_(own, others, 1 - self.momentum)  # one kernel in place of hundreds
