"""Random views of crops, a batch at a time: flip, pad and crop, colour jitter, normalise, erase.

Crops come resized, which is the published order's first step and needs doing only once. Every view is drawn first and
painted after, on whichever device the crops are, so each process of a distributed run draws the whole batch and paints
its own part of it.
"""

# B = batch, H, W = input height and width

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, Field, field_validator
from torch.nn import functional

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

    @field_validator("erasing_area")
    @classmethod
    def _ordered_shares(cls, area: tuple[float, float]) -> tuple[float, float]:
        if not 0 < area[0] <= area[1] <= 1:
            raise ValueError("wants two shares above 0 and up to 1, the smaller first")
        return area


@dataclass(frozen=True, slots=True, kw_only=True)
class Colours:
    """A change of camera for each view, as factors."""

    gamma_B: NDArray[np.float32]
    exposure_B: NDArray[np.float32]
    gain_B3: NDArray[np.float32]
    """Of each channel, BGR."""
    saturation_B: NDArray[np.float32]
    contrast_B: NDArray[np.float32]

    def part(self, rows: slice) -> Colours:
        """Return the colours of some views."""
        return Colours(
            gamma_B=self.gamma_B[rows],
            exposure_B=self.exposure_B[rows],
            gain_B3=self.gain_B3[rows],
            saturation_B=self.saturation_B[rows],
            contrast_B=self.contrast_B[rows],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What was drawn for one view of each crop."""

    mirrored_B: NDArray[np.bool_]
    corners_B2: NDArray[np.int64]
    """Top and left of the window in the padded crop, pixels."""
    pad: int
    colours: Colours | None
    """None keeps them."""
    erased_B4: NDArray[np.int64]
    """Top, left, rows and columns of the covered rectangle, pixels; 0 rows cover nothing."""

    def part(self, rows: slice) -> Views:
        """Return what was drawn for some crops."""
        return Views(
            mirrored_B=self.mirrored_B[rows],
            corners_B2=self.corners_B2[rows],
            pad=self.pad,
            colours=None if self.colours is None else self.colours.part(rows),
            erased_B4=self.erased_B4[rows],
        )


def draw_views(count: int, config: AugmentConfig, size: tuple[int, int], rng: np.random.Generator) -> Views:
    """Draw one random view of each of `count` crops.

    Args:
        count: B.
        config: Strength.
        size: Height and width in pixels.
        rng: Drawn from in a fixed order.
    """
    return Views(
        mirrored_B=rng.random(count) < config.flip_p,
        corners_B2=rng.integers(0, 2 * config.pad + 1, size=(count, 2)),
        pad=config.pad,
        colours=_draw_colours(count, config.jitter, rng) if config.jitter > 0 else None,
        erased_B4=np.array([_draw_rectangle(config, size, rng) for _ in range(count)], dtype=np.int64).reshape(-1, 4),
    )


def _draw_colours(count: int, strength: float, rng: np.random.Generator) -> Colours:
    def factors(spread: float, *channels: int) -> NDArray[np.float32]:
        return np.exp(rng.uniform(-spread, spread, (count, *channels))).astype(np.float32)

    return Colours(
        gamma_B=factors(strength),
        exposure_B=factors(strength),
        gain_B3=factors(strength / 2, 3),
        saturation_B=factors(strength),
        contrast_B=factors(strength),
    )


def _draw_rectangle(
    config: AugmentConfig, size: tuple[int, int], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    height, width = size
    if rng.random() < config.erasing_p:
        for _ in range(100):  # draws that do not fit are drawn again
            area = rng.uniform(*config.erasing_area) * height * width
            # Uniform, as published; torchvision's erasing draws its logarithm.
            aspect = rng.uniform(config.erasing_aspect, 1 / config.erasing_aspect)
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < rows < height and 0 < columns < width:
                top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
                return int(top), int(left), rows, columns
    return 0, 0, 0, 0


def paint(crops_BHW3: Tensor, views: Views, encoder: Encoder) -> Tensor:
    """Return the drawn views as the encoder takes them: `(B, 3, H, W)` float, on the device of the crops.

    Args:
        crops_BHW3: uint8 BGR, at the encoder's input size.
        views: Drawn for as many crops.
        encoder: Whose normalisation is applied.
    """
    views_BHW3 = shift(flip(crops_BHW3, views), views)
    if views.colours is not None:
        views_BHW3 = change_colours(views_BHW3, views.colours)
    return erase(normalise(views_BHW3, encoder), views)


def flip(crops_BHW3: Tensor, views: Views) -> Tensor:
    """Mirror left and right where drawn so."""
    mirrored_B = torch.from_numpy(views.mirrored_B).to(crops_BHW3.device)
    return torch.where(mirrored_B.view(-1, 1, 1, 1), crops_BHW3.flip(2), crops_BHW3)


def shift(crops_BHW3: Tensor, views: Views) -> Tensor:
    """Pad with black and cut the drawn window of the old size."""
    _, height, width, _ = crops_BHW3.shape
    pad = views.pad
    padded_BHW3 = functional.pad(crops_BHW3, (0, 0, pad, pad, pad, pad))
    windows = [
        padded_HW3[top : top + height, left : left + width]
        for padded_HW3, (top, left) in zip(padded_BHW3, views.corners_B2.tolist(), strict=True)
    ]
    return torch.stack(windows)


def change_colours(views_BHW3: Tensor, colours: Colours) -> Tensor:
    """Change colours as another camera might: gamma and gain per channel, then saturation and contrast.

    Args:
        views_BHW3: uint8 BGR.
        colours: Of as many views.

    Returns:
        Float BGR, 0 to 255.
    """
    device = views_BHW3.device

    def factor(values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).to(device).view(len(values), 1, 1, -1)

    # Gamma and gain are curves of one value: 256 entries a channel instead of a power a pixel.
    levels = torch.arange(256, dtype=torch.float32, device=device).div(255).view(1, 1, 256, 1)
    curves_BL3 = levels ** factor(colours.gamma_B) * factor(colours.exposure_B) * factor(colours.gain_B3)
    curves_BL3 = curves_BL3.clamp_(0, 1).mul_(255).squeeze(1)
    changed_BHW3 = curves_BL3.gather(1, views_BHW3.flatten(1, 2).long()).view(views_BHW3.shape)
    grey_BHW1 = (changed_BHW3 * torch.tensor(GREY_BGR, device=device)).sum(dim=-1, keepdim=True)
    mean_B111 = grey_BHW1.mean(dim=(1, 2), keepdim=True)
    saturation, contrast = factor(colours.saturation_B), factor(colours.contrast_B)
    # Both are linear: first towards grey, then towards the mean.
    mixed_BHW3 = changed_BHW3.mul_(saturation * contrast) + grey_BHW1 * ((1 - saturation) * contrast)
    return mixed_BHW3.add_(mean_B111 * (1 - contrast)).clamp_(0, 255)


def erase(images_B3HW: Tensor, views: Views) -> Tensor:
    """Cover the drawn rectangles, in place (Zhong et al., AAAI 2020).

    The fill is the ImageNet mean, put in after normalising, as in the published code.
    """
    fill_311 = torch.tensor(IMAGENET_MEAN, device=images_B3HW.device).view(3, 1, 1)
    for image_3HW, (top, left, rows, columns) in zip(images_B3HW, views.erased_B4.tolist(), strict=True):
        if rows:
            image_3HW[:, top : top + rows, left : left + columns] = fill_311
    return images_B3HW
