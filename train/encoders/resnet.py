"""ResNet-18/34/50 as the re-ID literature uses them: last stride 1, GeM pooling, batch-norm neck.

ResNet-50-IBN-a (Pan et al., ECCV 2018) differs in the first norm of every block of its first three stages, half of
whose channels are normalised image by image: what a camera does to colour and contrast is taken out there.
"""

# B = batch, D = embedding, H, W = image height and width

from __future__ import annotations

import torchvision
from torch import Tensor, nn

from reidge.train.encoders.layers import InstanceBatchNorm2d, build_neck, build_pool

IBN_SUFFIX = "_ibn_a"


class ResNetBody(nn.Module):
    """torchvision's ResNet without its classifier; the weights keep torchvision's names, or the IBN-Net release's."""

    def __init__(self, name: str, pooling: str, stripes: int) -> None:
        super().__init__()
        # Residual branches that start at zero: without them a deep network that starts from random weights stays so
        # rough that one grey level of noise moves its embeddings (Goyal et al., 2017, section 5.1).
        trunk = getattr(torchvision.models, name.removesuffix(IBN_SUFFIX))(weights=None, zero_init_residual=True)
        if name.endswith(IBN_SUFFIX):
            for stage in (trunk.layer1, trunk.layer2, trunk.layer3):
                for block in stage:
                    block.bn1 = InstanceBatchNorm2d(block.bn1.num_features)
        for module in trunk.layer4[0].modules():
            # Stride 2 -> 1 in the last stage keeps twice the rows and columns (Luo et al., 2019).
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (1, 1)
        self.conv1, self.bn1, self.relu, self.maxpool = trunk.conv1, trunk.bn1, trunk.relu, trunk.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
        self.pool = build_pool(pooling, stripes)
        self.embedding_dim = trunk.fc.in_features * stripes
        self.neck = build_neck(self.embedding_dim)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Map images to `(B, D)` features."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images_B3HW))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features_BD: Tensor = self.neck(self.pool(x))
        return features_BD


def imagenet_url(name: str) -> str:
    """Where torchvision keeps its ImageNet weights of `name`: the first version, which the published runs began with.

    For ResNet-50 torchvision's own default is a later one, trained another way.
    """
    return str(torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url)
