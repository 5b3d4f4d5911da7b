"""Random views of crops, a batch at a time: flip, pad and crop, colour jitter, normalise, erase.

Crops come resized, which is the published order's first step and needs doing only once.
"""

# B = batch, H, W = input height and width

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, Field

from reidge.train.encoders.encoder import IMAGENET_MEAN
from reidge.train.extract import normalise

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.encoders.encoder import Encoder

GREY_BGR = (0.114, 0.587, 0.299)


class AugmentConfig(BaseModel, frozen=True, extra="forbid"):
    """How far a view may stray from its crop."""

    flip_p: float = Field(0.5, ge=0, le=1)
    """Probability of mirroring left and right."""
    pad: int = Field(10, ge=0)
    """Black pixels added on each side before a window of the input size is cut at random."""
    jitter: float = Field(0.0, ge=0, lt=1)
    """Strength of colour changes as a camera makes them: gain of each channel, gamma, contrast, saturation.
    0 switches them off; training without pretrained weights needs them (0.3 to 0.5)."""
    erasing_p: float = Field(0.5, ge=0, le=1)
    """Probability of covering a random rectangle."""
    erasing_area: tuple[float, float] = (0.02, 0.4)
    """Smallest and largest share of the view that it covers."""
    erasing_aspect: float = Field(0.3, gt=0, le=1)
    """Smallest aspect of the rectangle; the largest is its inverse."""


def augment(crops_BHW3: NDArray[np.uint8], config: AugmentConfig, encoder: Encoder, rng: np.random.Generator) -> Tensor:
    """Return one random view of each crop as the encoder takes it: `(B, 3, H, W)` float, on the CPU.

    Args:
        crops_BHW3: BGR, at the encoder's input size.
        config: Strength.
        encoder: Whose normalisation is applied.
        rng: Drawn from in a fixed order.
    """
    views_BHW3 = torch.from_numpy(shift(flip(crops_BHW3, config, rng), config, rng))
    if config.jitter > 0:
        views_BHW3 = jitter(views_BHW3, config.jitter, rng)
    return erase(normalise(views_BHW3, encoder), config, rng)


def flip(crops_BHW3: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mirror each crop with the configured probability."""
    mirrored = rng.random(len(crops_BHW3)) < config.flip_p
    flipped_BHW3 = crops_BHW3.copy()
    flipped_BHW3[mirrored] = crops_BHW3[mirrored, :, ::-1]
    return flipped_BHW3


def shift(crops_BHW3: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Pad with black and cut a random window of the old size."""
    pad = config.pad
    batch, height, width, _ = crops_BHW3.shape
    padded = np.pad(crops_BHW3, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    views_BHW3 = np.empty_like(crops_BHW3)
    for i, (top, left) in enumerate(rng.integers(0, 2 * pad + 1, size=(batch, 2))):
        views_BHW3[i] = padded[i, top : top + height, left : left + width]
    return views_BHW3


def jitter(views_BHW3: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """Change colours as another camera might: gamma and gain per channel, then saturation and contrast.

    Args:
        views_BHW3: uint8 BGR.
        strength: 0 to 1.
        rng: Drawn from in a fixed order.

    Returns:
        Float BGR, 0 to 255.
    """
    batch = len(views_BHW3)

    def draw(spread: float, channels: int = 1) -> Tensor:
        return torch.from_numpy(np.exp(rng.uniform(-spread, spread, (batch, 1, 1, channels))).astype(np.float32))

    gamma, exposure, gain = draw(strength), draw(strength), draw(strength / 2, 3)
    saturation, contrast = draw(strength), draw(strength)
    # Gamma and gain are curves of one value: 256 entries a channel instead of a power a pixel.
    levels = torch.arange(256, dtype=torch.float32).div(255).view(1, 1, 256, 1)
    curves_B13 = (levels**gamma * exposure * gain).clamp_(0, 1).mul_(255).squeeze(1)
    flat = views_BHW3.flatten(1, 2).long()
    colours = curves_B13.gather(1, flat).view(views_BHW3.shape)
    grey = (colours * torch.tensor(GREY_BGR)).sum(dim=-1, keepdim=True)
    mean = grey.mean(dim=(1, 2), keepdim=True)
    # Both are linear: first towards grey, then towards the mean.
    mixed = colours.mul_(saturation * contrast) + grey * ((1 - saturation) * contrast) + mean * (1 - contrast)
    return mixed.clamp_(0, 255)


def erase(images_B3HW: Tensor, config: AugmentConfig, rng: np.random.Generator) -> Tensor:
    """Cover a random rectangle of some images, in place (Zhong et al., AAAI 2020).

    The fill is the ImageNet mean, put in after normalising, as in the published code.
    """
    _, _, height, width = images_B3HW.shape
    fill = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
    for image_3HW in images_B3HW:
        if rng.random() >= config.erasing_p:
            continue
        for _ in range(100):  # draws that do not fit are drawn again
            area = rng.uniform(*config.erasing_area) * height * width
            # Uniform, as published; torchvision's erasing draws its logarithm.
            aspect = rng.uniform(config.erasing_aspect, 1 / config.erasing_aspect)
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < rows < height and 0 < columns < width:
                top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
                image_3HW[:, top : top + rows, left : left + columns] = fill
                break
    return images_B3HW
