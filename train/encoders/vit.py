"""ViT-S/16 (Dosovitskiy et al., ICLR 2021; the size is that of Touvron et al., ICML 2021) for images of any aspect."""

# B = batch, C = channels, T = tokens, h, w = rows and columns of patches, D = embedding, H, W = image height and width

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import VisionTransformer

from reidge.edge.errors import InputError
from reidge.train.encoders.layers import build_neck

if TYPE_CHECKING:
    from collections.abc import Mapping

PATCH = 16
"""Pixels on a side."""
LAYERS, HEADS, CHANNELS, HIDDEN = 12, 6, 384, 1536

TIMM_POSITIONS = "pos_embed"
POSITIONS = "encoder.pos_embedding"
TIMM_NAMES = (
    (r"^patch_embed\.proj\.", "conv_proj."),
    (r"^cls_token$", "class_token"),
    (rf"^{TIMM_POSITIONS}$", POSITIONS),
    (r"^norm\.", "encoder.ln."),
    (r"^blocks\.(\d+)\.", r"encoder.layers.encoder_layer_\1."),
    (r"(?<=\.)norm([12])\.", r"ln_\1."),
    (r"(?<=\.)attn\.qkv\.", "self_attention.in_proj_"),
    (r"(?<=\.)attn\.proj\.", "self_attention.out_proj."),
    (r"(?<=\.)mlp\.fc1\.", "mlp.0."),
    (r"(?<=\.)mlp\.fc2\.", "mlp.3."),
)
"""How timm's names, which DINO shares, become torchvision's."""


class VitBody(nn.Module):
    """torchvision's VisionTransformer without its head; the weights keep torchvision's names.

    The embedding is the class token, or the mean of the patches (`avg`). Positions are learnt for one input size.
    """

    def __init__(self, input_size: tuple[int, int], pooling: str) -> None:
        super().__init__()
        trunk = VisionTransformer(PATCH, PATCH, LAYERS, HEADS, CHANNELS, HIDDEN)
        rows, columns = (side // PATCH for side in input_size)
        self.grid = rows, columns
        self.averages = pooling == "avg"
        self.conv_proj, self.class_token, self.encoder = trunk.conv_proj, trunk.class_token, trunk.encoder
        # torchvision builds square ones only.
        self.encoder.pos_embedding = nn.Parameter(torch.empty(1, 1 + rows * columns, CHANNELS).normal_(std=0.02))
        self.embedding_dim = CHANNELS
        self.neck = build_neck(self.embedding_dim)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Map images to `(B, D)` features."""
        rows, columns = self.grid
        patches_BTC = self.conv_proj(images_B3HW).reshape(-1, CHANNELS, rows * columns).transpose(1, 2)
        # An expanded class token would bring the batch size into the exported graph; times 0, a patch becomes one.
        tokens_BTC = torch.cat([patches_BTC[:, :1] * 0 + self.class_token, patches_BTC], dim=1)
        tokens_BTC = tokens_BTC + self.encoder.pos_embedding
        tokens_BTC = self.encoder.ln(self.encoder.layers(tokens_BTC))
        pooled_BC = tokens_BTC[:, 1:].mean(dim=1) if self.averages else tokens_BTC[:, :1].flatten(1)
        features_BD: Tensor = self.neck(pooled_BC)
        return features_BD


def adapt(tensors: Mapping[str, Tensor], grid: tuple[int, int]) -> dict[str, Tensor]:
    """Give weights torchvision's names, and positions for another grid of patches than they were learnt for.

    Args:
        tensors: By timm's or torchvision's names.
        grid: Rows and columns.

    Raises:
        InputError: The positions were learnt for another grid, which is no square.
    """
    adapted = {_translate(name): tensor for name, tensor in tensors.items()}
    positions_1TC = adapted.get(POSITIONS)
    if positions_1TC is not None:
        # timm's are of square images; ours may have as many patches in another shape, and fit only as they are.
        fits = positions_1TC.shape[1] == 1 + math.prod(grid) and TIMM_POSITIONS not in tensors
        adapted[POSITIONS] = positions_1TC if fits else resample(positions_1TC, grid)
    return adapted


def _translate(name: str) -> str:
    for pattern, replacement in TIMM_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def resample(positions_1TC: Tensor, grid: tuple[int, int]) -> Tensor:
    """Interpolate the positions of a square grid, bicubic, to another; the class token keeps its own.

    Raises:
        InputError: The grid they were learnt for is no square.
    """
    patches = positions_1TC.shape[1] - 1
    side = math.isqrt(patches)
    if side * side != patches:
        raise InputError(
            f"the weights hold positions of {patches} patches, which is no square grid, and the input has "
            f"{grid[0]}x{grid[1]}. Give the input size that they were trained with."
        )
    first_11C, others_1TC = torch.split(positions_1TC, [1, patches], dim=1)
    maps_1Chw = others_1TC.transpose(1, 2).reshape(1, -1, side, side)
    maps_1Chw = functional.interpolate(maps_1Chw, grid, mode="bicubic", antialias=True)
    return torch.cat([first_11C, maps_1Chw.flatten(2).transpose(1, 2)], dim=1)
