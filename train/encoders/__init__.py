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
class Defaults:
    """What an architecture is given where the caller does not say."""

    input_size: tuple[int, int] = (256, 128)
    """Height and width in pixels."""
    resize: ResizeMethod = "cubic"
    pooling: str = "gem"
    stripes: int = 1


ARCHITECTURES = {
    "small": Defaults(input_size=(128, 64), resize="linear", stripes=2),
    "resnet18": Defaults(),
    "resnet34": Defaults(),
    "resnet50": Defaults(),
    "osnet_x0_25": Defaults(resize="linear", pooling="avg"),
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
        input_size: Height and width in pixels, multiples of 16 x `stripes` and 16.
        resize: How crops are brought to `input_size`.
        pooling: `gem` or `avg`.
        stripes: Horizontal stripes pooled apart and concatenated.

    Raises:
        InputError: The architecture is unknown or cannot be had with these options.
    """
    if architecture not in ARCHITECTURES:
        raise InputError(f"architecture {architecture!r} is unknown. Choose one of: {', '.join(ARCHITECTURES)}.")
    defaults = ARCHITECTURES[architecture]
    spec = EncoderSpec(
        architecture=architecture,
        input_size=input_size or defaults.input_size,
        resize=resize or defaults.resize,
        pooling=pooling or defaults.pooling,
        stripes=stripes or defaults.stripes,
    )
    height, width = spec.input_size
    if spec.stripes < 1 or height < 16 or width < 16 or height % (16 * spec.stripes) or width % 16:
        raise InputError(
            f"input size {height}x{width} does not suit {architecture} with {spec.stripes} stripes: "
            f"give a height that is a multiple of {16 * max(spec.stripes, 1)} and a width that is one of 16."
        )
    body = _build_body(spec)
    return Encoder(body, spec, int(body.embedding_dim))  # type: ignore[arg-type]


def _build_body(spec: EncoderSpec) -> nn.Module:
    # Imported here because torchvision costs a second that the other networks need not pay.
    if spec.architecture == "small":
        from reidge.train.encoders.small import SmallBody

        return SmallBody(spec.pooling, spec.stripes)
    if spec.architecture == "osnet_x0_25":
        from reidge.train.encoders.osnet import OsnetBody

        if (spec.pooling, spec.stripes) != ("avg", 1):
            raise InputError("osnet_x0_25 pools the average of the whole image. Leave out pooling and stripes.")
        return OsnetBody()
    from reidge.train.encoders.resnet import ResNetBody

    return ResNetBody(spec.architecture, spec.pooling, spec.stripes)
