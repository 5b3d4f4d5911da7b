"""ConvNeXt-T (Liu et al., CVPR 2022) with average pooling and batch-norm neck."""

# B = batch, S = stripes, C = channels, D = embedding, H, W = image height and width

from __future__ import annotations

import torchvision
from torch import Tensor, nn

from reidge.train.encoders.layers import build_neck, build_pool


class ConvNeXtBody(nn.Module):
    """torchvision's ConvNeXt without its last layer; the weights keep torchvision's names.

    Its stages shrink by convolutions as wide as their stride, so the last stride stays 2. GeM is not offered: the
    features are of both signs, and it sees only the positive ones.
    """

    def __init__(self, name: str, stripes: int) -> None:
        super().__init__()
        # A block left out at random would be another one in each pass of gradient accumulation.
        trunk = getattr(torchvision.models, name)(weights=None, stochastic_depth_prob=0.0)
        norm = trunk.classifier[0]
        (channels,) = norm.normalized_shape
        self.pooled_shape = -1, stripes, channels
        self.features = trunk.features
        self.pool = build_pool("avg", stripes)
        # torchvision counts the norm of the pooled features to its classifier.
        self.classifier = nn.Sequential(nn.LayerNorm(channels, eps=norm.eps))
        self.embedding_dim = channels * stripes
        self.neck = build_neck(self.embedding_dim)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Map images to `(B, D)` features."""
        pooled_BSC = self.pool(self.features(images_B3HW)).reshape(self.pooled_shape)
        features_BD: Tensor = self.neck(self.classifier(pooled_BSC).flatten(1))
        return features_BD
