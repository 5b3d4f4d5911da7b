"""Layers that several networks share: pooling, the batch-norm neck, instance-batch norm, ghost batch norm."""

# B = batch, C = channels, h, w = height and width of the feature map, S = stripes

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GEM_START = 3.0
GEM_EPS = 1e-6


class StripePool(nn.Module):
    """Pool `(B, C, h, w)` to `(B, S * C)`, each of S horizontal stripes apart.

    Generalised-mean pooling (Radenovic et al., 2018, eq. 3) when `power` is given, which is then learnt;
    the average otherwise.
    """

    def __init__(self, stripes: int, power: float | None) -> None:
        super().__init__()
        self.stripes = stripes
        self.p = None if power is None else nn.Parameter(torch.tensor([power]))

    def forward(self, maps_BChw: Tensor) -> Tensor:
        """Pool; h must be a multiple of the number of stripes."""
        if self.p is not None:
            maps_BChw = maps_BChw.clamp(min=GEM_EPS).pow(self.p)
        stripes = maps_BChw.chunk(self.stripes, dim=2) if self.stripes > 1 else [maps_BChw]
        pooled_BSC = torch.cat([stripe_BChw.mean(dim=(2, 3)) for stripe_BChw in stripes], dim=1)
        return pooled_BSC if self.p is None else pooled_BSC.pow(1.0 / self.p)


def build_pool(pooling: str, stripes: int) -> StripePool:
    """Build the pooling named `gem` or `avg`."""
    assert pooling in ("gem", "avg"), pooling
    return StripePool(stripes, GEM_START if pooling == "gem" else None)


def build_neck(channels: int) -> nn.BatchNorm1d:
    """Build the batch-norm neck, whose bias stays 0 so that embeddings stay centred (Luo et al., 2019)."""
    neck = nn.BatchNorm1d(channels)
    neck.bias.requires_grad_(False)
    return neck


class InstanceBatchNorm2d(nn.Module):
    """The first half of the channels under instance norm, the others under batch norm (Pan et al., ECCV 2018).

    Parameters are named as in the published weights.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.halves = [channels // 2, channels - channels // 2]
        self.IN = nn.InstanceNorm2d(self.halves[0], affine=True)
        self.BN = nn.BatchNorm2d(self.halves[1])

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Normalise."""
        first, last = torch.split(x_BChw, self.halves, dim=1)
        return torch.cat([self.IN(first), self.BN(last)], dim=1)


class GhostBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics come from contiguous groups of the batch.

    Reproduces on one device what several devices of one group each compute: every group is normalised by its own
    statistics, and the running statistics follow the first group. A remainder joins the last group.
    """

    group_size = 64

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Normalise; in eval mode exactly as `BatchNorm2d`."""
        return _ghost_forward(self, x_BChw, super().forward)


class GhostBatchNorm1d(nn.BatchNorm1d):
    """As `GhostBatchNorm2d`, for `(B, C)`."""

    group_size = 64

    def forward(self, x_BC: Tensor) -> Tensor:
        """Normalise; in eval mode exactly as `BatchNorm1d`."""
        return _ghost_forward(self, x_BC, super().forward)


def _ghost_forward(norm: GhostBatchNorm1d | GhostBatchNorm2d, x: Tensor, plain: Callable[[Tensor], Tensor]) -> Tensor:
    groups = max(1, len(x) // norm.group_size)
    if not norm.training or groups == 1:
        return plain(x)
    sizes = [norm.group_size] * (groups - 1) + [len(x) - norm.group_size * (groups - 1)]
    first, *others = torch.split(x, sizes)
    normalised = [
        functional.batch_norm(group, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
        for group in others
    ]
    return torch.cat([plain(first), *normalised])


def use_ghost_batch_norm(network: nn.Module, group_size: int) -> None:
    """Make every batch norm of `network` a ghost batch norm, in place; parameters and their names stay."""
    for norm in network.modules():
        if type(norm) is nn.BatchNorm2d:
            norm.__class__ = GhostBatchNorm2d
        elif type(norm) is nn.BatchNorm1d:
            norm.__class__ = GhostBatchNorm1d
        if isinstance(norm, GhostBatchNorm1d | GhostBatchNorm2d):
            norm.group_size = group_size


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Keep the running statistics of every batch norm where they are, while batches still make their own."""
    norms = [norm for norm in network.modules() if isinstance(norm, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
