"""What a batch is pulled towards: its own cluster, or softly also the clusters that a teacher finds similar."""

# B = batch, K = clusters

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


class ContrastConfig(BaseModel, frozen=True, extra="forbid"):
    """How hard and soft targets are mixed."""

    soft_weight: float = Field(0.0, ge=0, le=1)
    """Lambda: weight of the soft contrastive loss; the rest is cross-entropy with the pseudo label. Above 0 a teacher
    is kept."""
    smoothing: float = Field(0.1, ge=0, le=1)
    """s: share of the soft target that follows the teacher instead of the pseudo label."""


def contrastive_loss(
    logits_BK: Tensor, labels_B: Tensor, teacher_logits_BK: Tensor | None, config: ContrastConfig
) -> Tensor:
    """Mix ClusterNCE with the soft contrastive loss, mean over the batch.

    Args:
        logits_BK: Similarities to the centroids over the temperature, with gradient.
        labels_B: Pseudo labels.
        teacher_logits_BK: The same of the teacher's view; None where nothing soft is asked for.
        config: The mixture.
    """
    if teacher_logits_BK is None:
        return functional.cross_entropy(logits_BK, labels_B)  # ClusterNCE: Dai et al., 2021, eq. 2
    soft = soft_contrastive_loss(logits_BK, labels_B, teacher_logits_BK, config.smoothing)
    if config.soft_weight == 1:
        return soft
    return (1 - config.soft_weight) * functional.cross_entropy(logits_BK, labels_B) + config.soft_weight * soft


def soft_contrastive_loss(logits_BK: Tensor, labels_B: Tensor, teacher_logits_BK: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with (1 - s) onehot(y) + s softmax(teacher), mean over the batch (L_ss of He et al., ICASSP 2024).

    No gradient reaches the teacher.
    """
    targets_BK = smoothing * teacher_logits_BK.detach().softmax(dim=1)
    hard_B1 = targets_BK.new_full((len(labels_B), 1), 1 - smoothing)
    targets_BK.scatter_add_(1, labels_B[:, None], hard_B1)
    return functional.cross_entropy(logits_BK, targets_BK)
