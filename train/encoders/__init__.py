"""The networks that can be trained and exported, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from reidge.edge.errors import InputError
from reidge.train.encoders.encoder import Encoder, EncoderSpec

if TYPE_CHECKING:
    from torch import nn

    from reidge.edge.crops import ResizeMethod

__all__ = ["ARCHITECTURES", "Encoder", "EncoderSpec", "build_encoder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What a network is given where the caller does not say, and what it can be given."""

    input_size: tuple[int, int] = (256, 128)
    """Height and width in pixels."""
    resize: ResizeMethod = "cubic"
    stripes: int = 1
    poolings: tuple[str, ...] = ("gem", "avg")
    """The first is the default."""
    striped: bool = True
    """Whether it can pool horizontal stripes apart."""
    stride: int = 16
    """Input pixels per cell of the last feature map."""
    imagenet: bool = False
    """Whether torchvision has ImageNet weights for it."""


RESNET = Architecture(imagenet=True)
OSNET = Architecture(resize="linear", poolings=("avg",), striped=False)
MOBILENET = Architecture(poolings=("avg", "gem"), imagenet=True)

ARCHITECTURES = {
    "small": Architecture(input_size=(128, 64), resize="linear", stripes=2),
    "resnet18": RESNET,
    "resnet34": RESNET,
    "resnet50": RESNET,
    "resnet50_ibn_a": Architecture(),
    "osnet_x0_25": OSNET,
    "osnet_x0_5": OSNET,
    "osnet_x0_75": OSNET,
    "osnet_x1_0": OSNET,
    "mobilenet_v3_small": MOBILENET,
    "mobilenet_v3_large": MOBILENET,
    "convnext_tiny": Architecture(poolings=("avg",), stride=32, imagenet=True),
    "vit_small": Architecture(poolings=("token", "avg"), striped=False),
}


def build_encoder(
    architecture: str,
    *,
    input_size: tuple[int, int] | None = None,
    resize: ResizeMethod | None = None,
    pooling: str | None = None,
    stripes: int | None = None,
) -> Encoder:
    """Build a network with fresh random weights; what is None takes the architecture's default.

    Args:
        architecture: One of `ARCHITECTURES`.
        input_size: Height and width in pixels, multiples of the architecture's stride; the height of that times
            `stripes`, and twice the stride at least.
        resize: How crops are brought to `input_size`.
        pooling: One of the architecture's `poolings`.
        stripes: Horizontal stripes pooled apart and concatenated.

    Raises:
        InputError: The architecture is unknown or cannot be had with these options.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"architecture {architecture!r} is unknown. Choose one of: {', '.join(ARCHITECTURES)}.")
    known = ARCHITECTURES[architecture]
    spec = EncoderSpec(
        architecture=architecture,
        input_size=known.input_size if input_size is None else input_size,
        resize=known.resize if resize is None else resize,
        pooling=known.poolings[0] if pooling is None else pooling,
        stripes=known.stripes if stripes is None else stripes,
    )
    _check(spec, known)
    body = _build_body(spec)
    return Encoder(body, spec, int(body.embedding_dim))  # type: ignore[arg-type]


def _check(spec: EncoderSpec, known: Architecture) -> None:
    name, stripes, stride = spec.architecture, spec.stripes, known.stride
    if spec.pooling not in known.poolings:
        raise InputError(f"pooling {spec.pooling!r} does not suit {name}. Choose {' or '.join(known.poolings)}.")
    if stripes < 1 or (stripes > 1 and not known.striped):
        raise InputError(f"{name} cannot pool {stripes} stripes. Give {'1 or more' if known.striped else '1'}.")
    height, width = spec.input_size
    step = stride * stripes
    # Two rows at least: instance norm cannot normalise a single cell.
    smallest = max(step, 2 * stride)
    if height < smallest or width < stride or height % step or width % stride:
        raise InputError(
            f"input size {height}x{width} does not suit {name} with {stripes} stripes: "
            f"give a height from {smallest} that is a multiple of {step} and a width that is one of {stride}."
        )


def _build_body(spec: EncoderSpec) -> nn.Module:
    # Imported here because torchvision costs a second that the other networks need not pay.
    name = spec.architecture
    if name == "small":
        from reidge.train.encoders.small import SmallBody

        return SmallBody(spec.pooling, spec.stripes)
    if name.startswith("osnet"):
        from reidge.train.encoders.osnet import OsnetBody

        return OsnetBody(name)
    if name.startswith("mobilenet"):
        from reidge.train.encoders.mobilenet import MobileNetBody

        return MobileNetBody(name, spec.pooling, spec.stripes)
    if name == "convnext_tiny":
        from reidge.train.encoders.convnext import ConvNeXtBody

        return ConvNeXtBody(name, spec.stripes)
    if name == "vit_small":
        from reidge.train.encoders.vit import VitBody

        return VitBody(spec.input_size, spec.pooling)
    from reidge.train.encoders.resnet import ResNetBody

    return ResNetBody(name, spec.pooling, spec.stripes)
