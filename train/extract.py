"""Crops to embeddings with a torch encoder."""

# N = crops, B = batch, D = embedding, H, W = input height and width

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from reidge.edge.crops import CropFolder, read_image, resize_crops

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from reidge.train.encoders.encoder import Encoder


def normalise(crops_BHW3: Tensor, encoder: Encoder) -> Tensor:
    """Turn uint8 BGR crops into what the encoder takes: float RGB `(B, 3, H, W)`, channels last in memory."""
    mean = torch.tensor(encoder.mean, device=crops_BHW3.device) * 255
    std = torch.tensor(encoder.std, device=crops_BHW3.device) * 255
    images_BHW3 = (crops_BHW3.flip(-1).float() - mean) / std
    return images_BHW3.permute(0, 3, 1, 2)


def embed_crops(encoder: Encoder, crops_NHW3: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.float32]:
    """Embed crops that are already at the encoder's input size, on the encoder's device, in eval mode.

    Args:
        encoder: Its training mode is restored afterwards.
        crops_NHW3: uint8 BGR.
        batch_size: Crops at a time.

    Returns:
        `(N, D)` float32, unit length.
    """
    device = next(encoder.parameters()).device
    embeddings_ND = np.empty((len(crops_NHW3), encoder.embedding_dim), dtype=np.float32)
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(crops_NHW3), batch_size):
                crops_BHW3 = torch.from_numpy(np.ascontiguousarray(crops_NHW3[start : start + batch_size])).to(device)
                embeddings_ND[start : start + batch_size] = (
                    encoder(normalise(crops_BHW3, encoder)).float().cpu().numpy()
                )
    finally:
        encoder.train(was_training)
    return embeddings_ND


def extract(encoder: Encoder, crops: CropFolder | Sequence[Path], batch_size: int = 64) -> NDArray[np.float32]:
    """Read, resize and embed image files a batch at a time, so memory does not grow with their number.

    Returns:
        `(N, D)` float32, in the order given.

    Raises:
        InputError: A file is missing or not a readable image.
    """
    if isinstance(crops, CropFolder):
        crops = [crops.root / record.path for record in crops.records]
    embeddings_ND = np.empty((len(crops), encoder.embedding_dim), dtype=np.float32)
    for start in range(0, len(crops), batch_size):
        images = (read_image(path) for path in crops[start : start + batch_size])
        resized = resize_crops(images, size=encoder.input_size, method=encoder.resize)
        embeddings_ND[start : start + batch_size] = embed_crops(encoder, resized, batch_size)
    return embeddings_ND
