"""The one shape every re-ID network takes here: normalised images in, unit embeddings out."""

# B = batch, H, W = input height and width, D = embedding

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from reidge.edge.crops import ResizeMethod

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """All that is needed to build the same network again and feed it the same way."""

    architecture: str
    input_size: tuple[int, int]
    """Height and width in pixels."""
    resize: ResizeMethod
    """How crops are brought to `input_size`."""
    pooling: str
    """`gem`, `avg`, or `token`: the class token of a transformer."""
    stripes: int
    """Horizontal stripes pooled apart and concatenated; 1 pools the whole image."""


class Encoder(nn.Module):
    """A body that maps images to features, and the L2 normalisation that makes them embeddings.

    Attributes:
        body: Network from `(B, 3, H, W)` to `(B, D)`.
        spec: What the network was built from.
        embedding_dim: D.
        mean: Per RGB channel, of pixels scaled to 0..1; inputs are `(pixel / 255 - mean) / std`.
        std: Likewise.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD

    def __init__(self, body: nn.Module, spec: EncoderSpec, embedding_dim: int) -> None:
        super().__init__()
        self.body = body
        self.spec = spec
        self.embedding_dim = embedding_dim

    @property
    def architecture(self) -> str:
        """Name under which `build_encoder` knows the network."""
        return self.spec.architecture

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.spec.input_size

    @property
    def resize(self) -> ResizeMethod:
        """How crops are brought to `input_size`."""
        return self.spec.resize

    @property
    def options(self) -> dict[str, Any]:
        """The other arguments of `build_encoder` that give a network of this shape."""
        return {"resize": self.spec.resize, "pooling": self.spec.pooling, "stripes": self.spec.stripes}

    def features(self, images_B3HW: Tensor) -> Tensor:
        """Return the `(B, D)` output of the body before L2 normalisation."""
        features_BD: Tensor = self.body(images_B3HW)
        return features_BD

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Map float RGB images, normalised by `mean` and `std`, to `(B, D)` unit embeddings, always float32."""
        # In bfloat16, which autocast may leave, unit length would be off by up to 4e-3.
        return functional.normalize(self.features(images_B3HW).float(), dim=1)
