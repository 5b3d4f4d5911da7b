"""Weights to start from: none, torchvision's ImageNet ones, or a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.parse import urlparse

import torch

from reidge.edge.errors import InputError, ReidgeError
from reidge.train.checkpoint import load_weights
from reidge.train.encoders import ARCHITECTURES

if TYPE_CHECKING:
    from reidge.train.encoders.encoder import Encoder

IMAGENET = "imagenet"
ELSEWHERE = {
    "resnet50_ibn_a": "resnet50_ibn_a-d9d0bb7b.pth of https://github.com/XingangPan/IBN-Net/releases",
    "osnet": "one of torchreid's model zoo, https://kaiyangzhou.github.io/deep-person-reid/MODEL_ZOO",
    "vit_small": "DINO's dino_deitsmall16_pretrain.pth or DeiT's deit_small_patch16_224-cd65a155.pth",
}
"""Weights that fit architectures torchvision has none for, by the beginning of the name."""


def load_pretrained(encoder: Encoder, weights: str) -> None:
    """Fill `encoder` with ImageNet weights or with those of a file.

    Args:
        encoder: Changed in place.
        weights: `imagenet`, a run folder, or a file of torchvision's, torchreid's, IBN-Net's, timm's or our own.

    Raises:
        InputError: The file does not fit, or the architecture has no ImageNet weights.
        ReidgeError: The ImageNet weights cannot be downloaded.
    """
    load_weights(encoder, download_imagenet(encoder.architecture) if weights == IMAGENET else Path(weights))


def download_imagenet(architecture: str) -> Path:
    """Return torchvision's weights in torch's cache, downloading them on first use.

    Raises:
        InputError: torchvision has none for this architecture.
        ReidgeError: The download failed.
    """
    if not ARCHITECTURES[architecture].imagenet:
        hints = [hint for name, hint in ELSEWHERE.items() if architecture.startswith(name)]
        raise InputError(
            f"torchvision has no ImageNet weights for {architecture}. Give a file: --weights FILE"
            f"{f', such as {hints[0]}' if hints else ''}."
        )
    from reidge.train.encoders.resnet import imagenet_url

    url = imagenet_url(architecture)
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if file.is_file():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # The first digits of its SHA-256 end the name of each file of torchvision's.
        digest = file.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(file), hash_prefix=digest, progress=sys.stderr.isatty())
    except (URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise ReidgeError(
            f"{url} cannot be downloaded ({reason}). Fetch it on a machine with network access and give the file: "
            "--weights FILE."
        ) from error
    return file
