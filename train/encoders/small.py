"""A small residual network for training from nothing on a CPU."""

# B = batch, C = channels, h, w = height and width of a feature map, H, W = of the image

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from reidge.train.encoders.layers import build_neck, build_pool

WIDTHS = (32, 64, 128, 256)
STRIDE = 16
"""Input pixels per cell of the last feature map."""


class Stem(nn.Module):
    """First convolution: half of its channels under instance norm, half under batch norm (after Pan et al., 2018).

    Instance norm takes the colour cast and the contrast of a camera out; batch norm keeps the colours as they are.
    They are two convolutions so that the batch norm folds into its own on export.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_instance = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1, bias=False)
        self.instance = nn.InstanceNorm2d(channels // 2, affine=True)
        self.conv_batch = nn.Conv2d(3, channels - channels // 2, 3, stride=2, padding=1, bias=False)
        self.batch = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Halve height and width."""
        instance = self.instance(self.conv_instance(images_B3HW))
        batch = self.batch(self.conv_batch(images_B3HW))
        return functional.relu(torch.cat([instance, batch], dim=1), inplace=True)


class Block(nn.Module):
    """Two 3x3 convolutions, the first with stride 2, and a shortcut around both."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut_conv = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        self.shortcut_norm = nn.BatchNorm2d(outputs)

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Halve height and width."""
        y = functional.relu(self.norm1(self.conv1(x_BChw)), inplace=True)
        shortcut = self.shortcut_norm(self.shortcut_conv(x_BChw))
        return functional.relu(self.norm2(self.conv2(y)) + shortcut, inplace=True)


class SmallBody(nn.Module):
    """Stem, three residual blocks, striped pooling, neck; about 1.2 million weights."""

    def __init__(self, pooling: str, stripes: int) -> None:
        super().__init__()
        self.stem = Stem(WIDTHS[0])
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(WIDTHS)))
        self.pool = build_pool(pooling, stripes)
        self.embedding_dim = WIDTHS[-1] * stripes
        self.neck = build_neck(self.embedding_dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Map images to `(B, D)` features."""
        features_BD: Tensor = self.neck(self.pool(self.blocks(self.stem(images_B3HW))))
        return features_BD
