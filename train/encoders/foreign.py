"""Filling a network with weights by the names that torchvision, torchreid, IBN-Net, timm or this project gave them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from reidge.train.encoders.encoder import Encoder

BODY = "body."
WRAPPERS = ("module.", "backbone.", BODY)
"""What DataParallel, DINO and this project put before every name."""
HEADS = ("fc.", "fc_norm.", "classifier.", "head.", "heads.", "head_dist.")
"""Layers of classifiers: no place for them is needed."""
FRESH = ("pool.", "neck.")
"""Layers that foreign weights lack."""


def fill(encoder: Encoder, tensors: Mapping[str, Tensor], file: Path) -> list[str]:
    """Fill `encoder` with weights of its architecture.

    Classifiers are dropped; pooling power and neck, which foreign weights lack, keep their fresh values.

    Args:
        encoder: Changed in place, or not at all.
        tensors: By name.
        file: Where they come from, for messages.

    Returns:
        Names of the encoder's weights that `tensors` lacks.

    Raises:
        InputError: Weights of the network itself are missing, of another shape, or more than it has.
    """
    own = {name.removeprefix(BODY): tensor for name, tensor in encoder.state_dict().items()}
    given = {_unwrap(name): tensor for name, tensor in tensors.items()}
    if encoder.architecture == "vit_small":
        from reidge.train.encoders.vit import VitBody, adapt

        given = adapt(given, cast("VitBody", encoder.body).grid)
    missing = [name for name in own if name not in given]
    lacking = [name for name in missing if not name.startswith(FRESH) and "num_batches" not in name]
    shapes = [name for name in own if name in given and given[name].shape != own[name].shape]
    # A deeper or otherwise extended network of the same family would fill this one, and be another.
    parts = {name.split(".")[0] for name in own if not name.startswith((*HEADS, *FRESH))}
    spare = [name for name in given if name not in own and name.split(".")[0] in parts]
    if lacking or shapes or spare:
        raise InputError(
            f"{file} does not fit {encoder.architecture}: {len(lacking)} weights are missing, {len(shapes)} have "
            f"another shape and {len(spare)} have no place, e.g. {(shapes or lacking or spare)[0]}. Give the "
            "architecture the file was made for."
        )
    encoder.load_state_dict({BODY + name: given[name] for name in own if name in given}, strict=False)
    return [BODY + name for name in missing]


def _unwrap(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.removeprefix(wrapper)
    return name
