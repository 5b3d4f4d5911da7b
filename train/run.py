"""What a training run works with, opened from its recipe."""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from reidge.edge.errors import InputError
from reidge.train.datasets.market1501 import Market1501, read_market1501
from reidge.train.encoders import Encoder, build_encoder
from reidge.train.encoders.layers import use_ghost_batch_norm
from reidge.train.extract import embed_crops
from reidge.train.images import TrainingImages, read_training_images
from reidge.train.pretrained import load_pretrained

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from reidge.train.recipe import EncoderConfig, Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What stays the same from epoch to epoch, or is changed in place by every step."""

    recipe: Recipe
    run_dir: Path
    images: TrainingImages
    split: Market1501 | None
    encoder: Encoder
    optimizer: torch.optim.Optimizer
    device: torch.device
    bfloat16: bool

    def embed(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed crops in eval mode."""
        with self.autocast():
            return embed_crops(self.encoder, crops_NHW3)

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in bfloat16 where the recipe says so and the machine is good at it."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()

    def label(self, epoch: int) -> str:
        """Name an epoch, counted from 0, for people."""
        phase = "warm-up" if epoch < self.recipe.warmup_epochs else "train"
        return f"{phase} {epoch + 1}/{self.recipe.total_epochs}"


def open_run(recipe: Recipe, crops: Path, run_dir: Path, split: Path | None, *, pretrained: bool = True) -> Run:
    """Build network and optimiser and read the crops; nothing is written.

    Args:
        recipe: What to do.
        crops: Crop folder, or a benchmark folder whose labels are not read.
        run_dir: Where the run will leave its files.
        split: Labelled query/gallery folder, for reported figures.
        pretrained: Whether to load the recipe's weights; a resumed run has its own.

    Raises:
        InputError: Something given cannot be used.
        ReidgeError: The recipe's weights cannot be downloaded.
    """
    torch.manual_seed(recipe.loop.seed)
    device = _device(recipe.loop.device)
    labelled = None if split is None else read_market1501(split)
    # Channels last halves the time of a step on a CPU and lets a GPU use its tensor cores.
    encoder = _encoder(recipe.encoder, pretrained=pretrained).to(memory_format=torch.channels_last).to(device)
    images = read_training_images(crops, recipe.data, size=encoder.input_size, resize=encoder.resize)
    if recipe.warmup_epochs and images.tracklets is None:
        raise InputError(f"{crops} has no tracklets to warm up with. Add --set warmup.epochs=0 and --weights.")
    if len(images) < recipe.cluster.min_samples:
        raise InputError(f"{crops} holds {len(images)} crops, too few to cluster. Harvest more footage.")
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    return Run(
        recipe=recipe,
        run_dir=run_dir,
        images=images,
        split=labelled,
        encoder=encoder,
        optimizer=torch.optim.Adam(parameters, lr=recipe.optim.lr, weight_decay=recipe.optim.weight_decay),
        device=device,
        bfloat16=_bfloat16(recipe.loop.precision, device),
    )


def _encoder(config: EncoderConfig, *, pretrained: bool) -> Encoder:
    encoder = build_encoder(
        config.architecture,
        input_size=config.input_size,
        resize=config.resize,
        pooling=config.pooling,
        stripes=config.stripes,
    )
    if config.weights is not None and pretrained:
        load_pretrained(encoder, config.weights)
    if config.ghost_batch is not None:
        use_ghost_batch_norm(encoder, config.ghost_batch)
    return encoder


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here. Set loop.device to auto, cpu or cuda.") from error
    return device


def _bfloat16(precision: str, device: torch.device) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported()
