"""OSNet x0.25 to x1.0 (Zhou et al., ICCV 2019): omni-scale features at 0.2 to 2.2 million weights.

Module names are those of the published weights, which load exactly.
"""

# B = batch, C = channels, h, w = height and width of a feature map, H, W = of the image, D = embedding

from __future__ import annotations

from torch import Tensor, nn

WIDTHS = {
    "osnet_x0_25": (16, 64, 96, 128),
    "osnet_x0_5": (32, 128, 192, 256),
    "osnet_x0_75": (48, 192, 288, 384),
    "osnet_x1_0": (64, 256, 384, 512),
}
"""Channels of the stem and of the three stages."""
EMBEDDING_DIM = 512
SQUEEZE = 4
"""A block works on a quarter of its output channels."""
SCALES = 4
"""Streams of 1 to 4 light convolutions: receptive fields 3, 5, 7 and 9."""
GATE_REDUCTION = 16


class ConvNorm(nn.Module):
    """Convolution, batch norm and, unless `linear`, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, padding: int = 0, linear: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.activation: nn.Module = nn.Identity() if linear else nn.ReLU()

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Convolve."""
        y: Tensor = self.activation(self.bn(self.conv(x_BChw)))
        return y


class LightConv(nn.Module):
    """A 3x3 convolution factored into pointwise, then depthwise."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Convolve."""
        y: Tensor = self.relu(self.bn(self.conv2(self.conv1(x_BChw))))
        return y


class ChannelGate(nn.Module):
    """Weigh channels by what the whole image shows; one gate serves all scales of a block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // GATE_REDUCTION, 1)
        self.relu = nn.ReLU()
        self.fc2 = nn.Conv2d(channels // GATE_REDUCTION, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Weigh."""
        gate_BC11 = self.sigmoid(self.fc2(self.relu(self.fc1(x_BChw.mean(dim=(2, 3), keepdim=True)))))
        y: Tensor = x_BChw * gate_BC11
        return y


class OmniScaleBlock(nn.Module):
    """Sum of gated streams of different receptive field, and a shortcut around them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = outputs // SQUEEZE
        self.conv1 = ConvNorm(inputs, middle)
        self.conv2a = LightConv(middle)
        self.conv2b = nn.Sequential(*(LightConv(middle) for _ in range(2)))
        self.conv2c = nn.Sequential(*(LightConv(middle) for _ in range(3)))
        self.conv2d = nn.Sequential(*(LightConv(middle) for _ in range(SCALES)))
        self.gate = ChannelGate(middle)
        self.conv3 = ConvNorm(middle, outputs, linear=True)
        self.downsample: nn.Module = ConvNorm(inputs, outputs, linear=True) if inputs != outputs else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x_BChw: Tensor) -> Tensor:
        """Keep height and width."""
        y = self.conv1(x_BChw)
        scales = (stream(y) for stream in (self.conv2a, self.conv2b, self.conv2c, self.conv2d))
        mixed = self.conv3(sum(self.gate(scale) for scale in scales))
        z: Tensor = self.relu(mixed + self.downsample(x_BChw))
        return z


def _stage(inputs: int, outputs: int, *, halve: bool) -> nn.Sequential:
    blocks: list[nn.Module] = [OmniScaleBlock(inputs, outputs), OmniScaleBlock(outputs, outputs)]
    if halve:
        blocks.append(nn.Sequential(ConvNorm(outputs, outputs), nn.AvgPool2d(2, stride=2)))
    return nn.Sequential(*blocks)


class OsnetBody(nn.Module):
    """OSNet up to its 512-d features, after batch norm and ReLU; they are never negative."""

    def __init__(self, name: str) -> None:
        super().__init__()
        first, second, third, fourth = WIDTHS[name]
        self.conv1 = ConvNorm(3, first, 7, stride=2, padding=3)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = _stage(first, second, halve=True)
        self.conv3 = _stage(second, third, halve=True)
        self.conv4 = _stage(third, fourth, halve=False)
        self.conv5 = ConvNorm(fourth, fourth)
        self.embedding_dim = EMBEDDING_DIM
        self.fc = nn.Sequential(nn.Linear(fourth, EMBEDDING_DIM), nn.BatchNorm1d(EMBEDDING_DIM), nn.ReLU())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Map images to `(B, D)` features."""
        x = self.conv4(self.conv3(self.conv2(self.maxpool(self.conv1(images_B3HW)))))
        features_BD: Tensor = self.fc(self.conv5(x).mean(dim=(2, 3)))
        return features_BD
