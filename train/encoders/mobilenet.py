"""MobileNetV3 small and large (Howard et al., ICCV 2019) with last stride 1, pooling and batch-norm neck."""

# B = batch, D = embedding, H, W = image height and width

from __future__ import annotations

import torchvision
from torch import Tensor, nn

from reidge.train.encoders.layers import build_neck, build_pool


class MobileNetBody(nn.Module):
    """torchvision's MobileNetV3 without its classifier; the weights keep torchvision's names."""

    def __init__(self, name: str, pooling: str, stripes: int) -> None:
        super().__init__()
        self.features = getattr(torchvision.models, name)(weights=None).features
        strided = [module for module in self.features.modules() if getattr(module, "stride", None) == (2, 2)]
        # As in the ResNets: the last stage keeps twice the rows and columns.
        strided[-1].stride = (1, 1)
        self.pool = build_pool(pooling, stripes)
        self.embedding_dim = self.features[-1].out_channels * stripes
        self.neck = build_neck(self.embedding_dim)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Map images to `(B, D)` features."""
        features_BD: Tensor = self.neck(self.pool(self.features(images_B3HW)))
        return features_BD
