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

if TYPE_CHECKING:
    from reidge.train.encoders.encoder import Encoder

IMAGENET = "imagenet"


def load_pretrained(encoder: Encoder, weights: str) -> None:
    """Fill `encoder` from `imagenet` or from a torchvision, torchreid or own file of weights.

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
    if not architecture.startswith("resnet"):
        raise InputError(f"there are no ImageNet weights for {architecture}. Give a file: --weights FILE.")
    from reidge.train.encoders.resnet import imagenet_url

    url = imagenet_url(architecture)
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if file.is_file():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), progress=sys.stderr.isatty())
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise ReidgeError(
            f"{url} cannot be downloaded ({reason}). Fetch it on a machine with network access and give the file: "
            "--weights FILE."
        ) from error
    return file
