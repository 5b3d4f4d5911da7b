"""torch -> ONNX: one file at opset 17 that takes camera crops as they are and gives unit embeddings."""

# N = crops, H, W = input height and width, C, h, w = channels, height and width of a feature map, D = embedding,
# O = output channels of a convolution, T = tokens, A = heads of attention, d = channels of a head

from __future__ import annotations

import copy
import inspect
import warnings
from typing import TYPE_CHECKING, Any

import onnx
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from reidge.edge.errors import ReidgeError
from reidge.train.encoders.layers import GEM_EPS, InstanceBatchNorm2d, StripePool

if TYPE_CHECKING:
    from pathlib import Path

    from reidge.train.encoders.encoder import Encoder

OPSET = 17
INPUT_NAME = "crops"
OUTPUT_NAME = "embeddings"
BATCH_NAME = "N"
NORM_EPS = 1e-12


class EdgeGraph(nn.Module):
    """What is exported: preprocessing, the encoder's body and L2 normalisation in one graph.

    Channel order and scale cost nothing at run time, they are in the weights of the first convolutions. The mean
    stays a subtraction: folding it into the bias would be wrong where a convolution pads with zeros.
    """

    mean_3: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        encoder = copy.deepcopy(encoder).cpu().float().eval()
        freeze_layers(encoder.body)
        fold_scale(encoder)
        self.body = encoder.body
        self.register_buffer("mean_3", torch.tensor(encoder.mean[::-1]) * 255)

    def forward(self, crops_NHW3: Tensor) -> Tensor:
        """Map uint8 BGR crops to `(N, D)` unit embeddings."""
        images_N3HW = (crops_NHW3.float() - self.mean_3).permute(0, 3, 1, 2)
        features_ND: Tensor = self.body(images_N3HW)
        # functional.normalize becomes Shape and Expand nodes; this stays arithmetic.
        return features_ND * torch.rsqrt(features_ND.square().sum(dim=1, keepdim=True) + NORM_EPS)


class FrozenPool(nn.Module):
    """`StripePool` with its power as a constant, in operations whose shapes are all known at export."""

    def __init__(self, pool: StripePool) -> None:
        super().__init__()
        self.stripes = pool.stripes
        self.power = None if pool.p is None else float(pool.p)

    def forward(self, maps_NChw: Tensor) -> Tensor:
        """Pool to `(N, stripes * C)`."""
        if self.power is not None:
            maps_NChw = maps_NChw.clamp(min=GEM_EPS).pow(self.power)
        pooled_ND = functional.adaptive_avg_pool2d(maps_NChw, (self.stripes, 1)).transpose(1, 2).flatten(1)
        return pooled_ND if self.power is None else pooled_ND.pow(1 / self.power)


class FrozenAttention(nn.Module):
    """`nn.MultiheadAttention` of a sequence with itself, in operations whose shapes are all known at export."""

    def __init__(self, attention: nn.MultiheadAttention, tokens: int) -> None:
        super().__init__()
        self.tokens, self.heads, self.head_dim = tokens, attention.num_heads, attention.head_dim
        self.project_in = nn.Linear(attention.embed_dim, 3 * attention.embed_dim)
        self.project_in.weight, self.project_in.bias = attention.in_proj_weight, attention.in_proj_bias
        self.project_out = attention.out_proj

    def forward(self, query_NTC: Tensor, key_NTC: Tensor, value_NTC: Tensor, **_: bool) -> tuple[Tensor, None]:
        """Attend; the three are one, as in every encoder block."""
        assert query_NTC is key_NTC is value_NTC
        parts_NTAd = self.project_in(query_NTC).reshape(-1, self.tokens, 3 * self.heads, self.head_dim)
        query_NATd, key_NATd, value_NATd = torch.split(parts_NTAd.transpose(1, 2), self.heads, dim=1)
        weights_NATT = (query_NATd * self.head_dim**-0.5 @ key_NATd.transpose(2, 3)).softmax(dim=-1)
        mixed_NTC = (weights_NATT @ value_NATd).transpose(1, 2).reshape(-1, self.tokens, self.heads * self.head_dim)
        return self.project_out(mixed_NTC), None


class HalfInstanceNorm(nn.Module):
    """What is left of an `InstanceBatchNorm2d` once its batch norm is in the convolution before it."""

    def __init__(self, norm: InstanceBatchNorm2d) -> None:
        super().__init__()
        self.halves, self.instance = norm.halves, norm.IN

    def forward(self, x_NChw: Tensor) -> Tensor:
        """Normalise the first half of the channels."""
        first, last = torch.split(x_NChw, self.halves, dim=1)
        return torch.cat([self.instance(first), last], dim=1)


def freeze_layers(body: nn.Module) -> None:
    """Replace the layers of `body` that would not export well, in place."""
    for name, module in list(body.named_modules()):
        parent_name, _, attribute = name.rpartition(".")
        parent = body.get_submodule(parent_name)
        if isinstance(module, StripePool):
            setattr(parent, attribute, FrozenPool(module))
        elif isinstance(module, nn.MultiheadAttention):
            # Networks with attention learn a position for each token.
            tokens = body.get_parameter("encoder.pos_embedding").shape[1]
            setattr(parent, attribute, FrozenAttention(module, tokens))
        elif isinstance(module, InstanceBatchNorm2d):
            fold_batch_half(parent.get_submodule("conv1"), module)
            setattr(parent, attribute, HalfInstanceNorm(module))


def fold_batch_half(conv: nn.Module, norm: InstanceBatchNorm2d) -> None:
    """Fold the batch norm of the last channels into the convolution before it, in place.

    The exporter folds a batch norm only where it takes all channels.
    """
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is None
    batch = norm.BN
    assert batch.running_mean is not None
    assert batch.running_var is not None
    first, last = torch.split(conv.weight.detach(), norm.halves)
    last, bias = fuse_conv_bn_weights(
        last, None, batch.running_mean, batch.running_var, batch.eps, batch.weight, batch.bias
    )
    conv.weight = nn.Parameter(torch.cat([first, last]), requires_grad=False)
    conv.bias = nn.Parameter(torch.cat([torch.zeros(len(first)), bias]), requires_grad=False)


def fold_scale(encoder: Encoder) -> None:
    """Fold 1 / (255 std) and RGB -> BGR into the convolutions that see the image, in place."""
    std_3 = torch.tensor(encoder.std) * 255
    for conv in first_convolutions(encoder):
        weights_O3hw = conv.weight.detach() / std_3.view(1, 3, 1, 1)
        conv.weight = nn.Parameter(weights_O3hw.flip(1), requires_grad=False)


def first_convolutions(encoder: Encoder) -> list[nn.Conv2d]:
    """Find the convolutions whose input is the image itself.

    Raises:
        ReidgeError: There is none, so the encoder starts with something that preprocessing cannot be folded into.
    """
    image = torch.zeros(1, 3, *encoder.input_size)
    found: list[nn.Conv2d] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if inputs[0] is image and isinstance(module, nn.Conv2d):
            found.append(module)

    hooks = [module.register_forward_pre_hook(note) for module in encoder.body.modules()]
    try:
        with torch.no_grad():
            encoder.body(image)
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise ReidgeError(f"{encoder.architecture} does not start with a convolution: it cannot be exported.")
    return found


def export_onnx(encoder: Encoder, path: Path) -> onnx.ModelProto:
    """Write an encoder as ONNX.

    Args:
        encoder: Any architecture of `reidge.train.encoders`; it is left as it was.
        path: The file to write.

    Returns:
        What was written. Input `crops` uint8 `[N, H, W, 3]` BGR, output `embeddings` float32 `[N, D]`.

    Raises:
        ReidgeError: The graph is not as the contract asks.
    """
    example = torch.zeros(2, *encoder.input_size, 3, dtype=torch.uint8)
    options: dict[str, Any] = {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False  # the newer exporter stays at opset 18 when 17 is asked for
    with warnings.catch_warnings(), torch.no_grad():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*legacy TorchScript.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.onnx")
        # Layers of torch itself check shapes while they are traced; the shapes are the same at run time.
        warnings.filterwarnings("ignore", category=TracerWarning, module=r"torch\.")
        # Instance norm takes its statistics from the image at run time too: that is what it is for.
        warnings.filterwarnings("ignore", category=UserWarning, message=".*'instance_norm' is set to train=True")
        torch.onnx.export(
            EdgeGraph(encoder).eval(),
            (example,),
            path,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={INPUT_NAME: {0: BATCH_NAME}, OUTPUT_NAME: {0: BATCH_NAME}},
            opset_version=OPSET,
            **options,
        )
    model = onnx.load(path)
    remove_identities(model)
    check_contract(model, (*encoder.input_size, 3), encoder.embedding_dim)
    onnx.save(model, path)
    return model


def remove_identities(model: onnx.ModelProto) -> None:
    """Drop the Identity nodes that the exporter puts where two weights are equal, in place."""
    source = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Identity"}
    kept = [node for node in model.graph.node if node.op_type != "Identity"]
    for node in kept:
        for index, name in enumerate(node.input):
            while name in source:
                name = source[name]
            node.input[index] = name
    del model.graph.node[:]
    model.graph.node.extend(kept)


def check_contract(model: onnx.ModelProto, input_shape: tuple[int, int, int], embedding_dim: int) -> None:
    """Name the output's dimension, then hold the graph against the bundle contract.

    Raises:
        ReidgeError: Opset, names, types or shapes differ.
    """
    onnx.checker.check_model(model, full_check=True)
    (source,), (target,) = model.graph.input, model.graph.output
    target.type.tensor_type.shape.dim[1].dim_value = embedding_dim
    found = model.opset_import[0].version, describe(source), describe(target), model.graph.node[0].op_type
    expected = (
        OPSET,
        (INPUT_NAME, onnx.TensorProto.UINT8, (BATCH_NAME, *input_shape)),
        (OUTPUT_NAME, onnx.TensorProto.FLOAT, (BATCH_NAME, embedding_dim)),
        "Cast",
    )
    if found != expected:
        raise ReidgeError(f"the exported graph is {found}, the bundle asks for {expected}. Report this as a bug.")


def describe(value: onnx.ValueInfoProto) -> tuple[str, int, tuple[str | int, ...]]:
    """Name, element type and dimensions of a graph's input or output."""
    tensor = value.type.tensor_type
    return value.name, tensor.elem_type, tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
