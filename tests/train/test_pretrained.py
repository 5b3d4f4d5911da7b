from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
import torchvision
from torch.nn import functional

from reidge.edge.errors import InputError, ReidgeError
from reidge.train.checkpoint import save_encoder
from reidge.train.encoders import ARCHITECTURES, build_encoder
from reidge.train.encoders.vit import resample
from reidge.train.pretrained import download_imagenet, load_pretrained

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from reidge.train.encoders.encoder import Encoder


def body_weights(encoder: Encoder) -> dict[str, Tensor]:
    """What a release of the bare network holds: no pooling power, no neck, a classifier on top."""
    weights = {name.removeprefix("body."): tensor.clone() for name, tensor in encoder.state_dict().items()}
    weights = {name: tensor for name, tensor in weights.items() if not name.startswith(("pool.", "neck."))}
    return weights | {"fc.weight": torch.zeros(1000, 8), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("architecture", ["mobilenet_v3_small", "convnext_tiny", "resnet34"])
def test_torchvision_weights_load(architecture: str, tmp_path: Path) -> None:
    released = getattr(torchvision.models, architecture)(weights=None).state_dict()
    torch.save(released, tmp_path / "weights.pth")
    encoder = build_encoder(architecture, input_size=(64, 32))
    load_pretrained(encoder, str(tmp_path / "weights.pth"))
    loaded = {name.removeprefix("body."): tensor for name, tensor in encoder.state_dict().items()}
    left = [name for name in released if name not in loaded]
    assert {name.split(".")[0] for name in left} <= {"classifier", "fc"}  # the classifier alone
    assert len(left) <= 4
    assert all(torch.equal(loaded[name], released[name]) for name in released if name in loaded)


def test_ibn_weights_load_by_the_names_of_the_release(tmp_path: Path) -> None:
    # Layout of resnet50_ibn_a-d9d0bb7b.pth: torchvision's ResNet-50, but the first norms of layers 1 to 3.
    released = torchvision.models.resnet50(weights=None).state_dict()
    for stage, blocks, half in (("layer1", 3, 32), ("layer2", 4, 64), ("layer3", 6, 128)):
        for block in range(blocks):
            norm = f"{stage}.{block}.bn1"
            for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                tensor = released.pop(f"{norm}.{part}")
                released[f"{norm}.BN.{part}"] = tensor[:half] if tensor.ndim else tensor
            released[f"{norm}.IN.weight"], released[f"{norm}.IN.bias"] = torch.rand(half), torch.rand(half)
    torch.save(released, tmp_path / "resnet50_ibn_a.pth")
    encoder = build_encoder("resnet50_ibn_a", input_size=(64, 32))
    load_pretrained(encoder, str(tmp_path / "resnet50_ibn_a.pth"))
    own = encoder.state_dict()
    assert {name for name in released if f"body.{name}" not in own} == {"fc.weight", "fc.bias"}
    assert all(torch.equal(own[f"body.{name}"], released[name]) for name in released if not name.startswith("fc."))
    # Scale, shift, mean and variance of 13 norms go by other names there.
    with pytest.raises(InputError, match="does not fit resnet50: 52 weights are missing"):
        load_pretrained(build_encoder("resnet50"), str(tmp_path / "resnet50_ibn_a.pth"))


@pytest.mark.parametrize("architecture", ["osnet_x0_5", "osnet_x1_0"])
def test_torchreid_weights_load_into_the_width_they_are_of_and_no_other(architecture: str, tmp_path: Path) -> None:
    weights = body_weights(build_encoder(architecture))
    wrapped = {"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}
    torch.save(wrapped, tmp_path / "osnet.pth.tar")
    encoder = build_encoder(architecture)
    load_pretrained(encoder, str(tmp_path / "osnet.pth.tar"))
    name = "conv3.0.conv2d.3.conv1.weight"
    assert torch.equal(encoder.get_parameter(f"body.{name}"), weights[name])
    with pytest.raises(InputError, match=r"does not fit osnet_x0_75.* another shape"):
        load_pretrained(build_encoder("osnet_x0_75"), str(tmp_path / "osnet.pth.tar"))


def test_a_deeper_network_of_the_same_family_does_not_pass_for_this_one(tmp_path: Path) -> None:
    # All that ResNet-18 needs is there, in the right shapes, but it would be another network.
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(InputError, match=r"does not fit resnet18: 0 weights are missing.* 96 have no place"):
        load_pretrained(build_encoder("resnet18"), str(tmp_path / "resnet34.pth"))


def timm_weights(side: int) -> dict[str, Tensor]:
    """A ViT-S/16 by timm's names, for square images of `side` patches a side."""
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, 384),
        "pos_embed": (1, 1 + side * side, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
        "patch_embed.proj.bias": (384,),
        "norm.weight": (384,),
        "norm.bias": (384,),
        "head.weight": (1000, 384),
        "head.bias": (1000,),
    }
    layers = {"attn.qkv": (1152, 384), "attn.proj": (384, 384), "mlp.fc1": (1536, 384), "mlp.fc2": (384, 1536)}
    for index in range(12):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{index}.{norm}.{part}": (384,) for part in ("weight", "bias")}
        for layer, shape in layers.items():
            shapes |= {f"blocks.{index}.{layer}.weight": shape, f"blocks.{index}.{layer}.bias": shape[:1]}
    torch.manual_seed(0)
    return {name: torch.randn(shape) * 0.05 for name, shape in shapes.items()}


def literal_vit(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """The class token of a ViT-S/16, straight from timm's weights, as the paper has it."""
    x = functional.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=16)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([weights["cls_token"].expand(len(x), -1, -1), x], dim=1) + weights["pos_embed"]

    def layer(name: str, y: Tensor) -> Tensor:
        return functional.linear(y, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, y: Tensor) -> Tensor:
        return functional.layer_norm(y, (384,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    for index in range(12):
        block = f"blocks.{index}"
        q, k, v = layer(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).chunk(3, dim=2)
        heads = [
            (q[..., part] @ k[..., part].transpose(1, 2) / 8).softmax(dim=2) @ v[..., part]
            for part in (slice(64 * head, 64 * head + 64) for head in range(6))
        ]
        x = x + layer(f"{block}.attn.proj", torch.cat(heads, dim=2))
        x = x + layer(f"{block}.mlp.fc2", functional.gelu(layer(f"{block}.mlp.fc1", norm(f"{block}.norm2", x))))
    return norm("norm", x)[:, 0]


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_timm_weights_give_what_the_formulas_give(prefix: str, tmp_path: Path) -> None:
    weights = timm_weights(side=4)
    torch.save({prefix + name: tensor for name, tensor in weights.items()}, tmp_path / "vit.pth")
    encoder = build_encoder("vit_small", input_size=(64, 64)).eval()
    load_pretrained(encoder, str(tmp_path / "vit.pth"))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = literal_vit(weights, images) / (1 + 1e-5) ** 0.5  # a fresh neck only adds its epsilon
        torch.testing.assert_close(encoder.features(images), expected, atol=1e-4, rtol=1e-4)


def test_positions_are_interpolated_row_by_row_and_column_by_column() -> None:
    # Channel 0 holds the row, channel 1 the column, the class token 9.
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    positions = torch.cat([torch.full((1, 1, 2), 9.0), torch.stack([rows, columns], dim=2).view(1, 16, 2)], dim=1)
    found = resample(positions, (8, 2))
    assert found.shape == (1, 17, 2)
    assert found[0, 0].tolist() == [9, 9]
    maps = found[0, 1:].view(8, 2, 2)
    torch.testing.assert_close(maps[:, 0, 0], maps[:, 1, 0])  # a row's place does not depend on the column
    torch.testing.assert_close(maps[0, :, 1], maps[7, :, 1])
    assert (maps[:, 0, 0].diff() > 0).all()
    assert maps[:, 0, 0].mean() == pytest.approx(1.5, abs=1e-5)
    torch.testing.assert_close(resample(positions, (4, 4)), positions)


def test_square_positions_are_not_taken_as_they_are_where_the_count_happens_to_fit(tmp_path: Path) -> None:
    weights = timm_weights(side=4)
    torch.save(weights, tmp_path / "vit.pth")
    encoder = build_encoder("vit_small", input_size=(128, 32))  # 8 x 2 patches, as many as 4 x 4
    load_pretrained(encoder, str(tmp_path / "vit.pth"))
    found = encoder.get_parameter("body.encoder.pos_embedding")
    torch.testing.assert_close(found, resample(weights["pos_embed"], (8, 2)))
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    again = build_encoder("vit_small", input_size=(128, 32))
    load_pretrained(again, str(tmp_path))  # our own of that size fit as they are
    assert torch.equal(again.get_parameter("body.encoder.pos_embedding"), found)


def test_positions_of_another_tall_grid_are_refused(tmp_path: Path) -> None:
    save_encoder(build_encoder("vit_small", input_size=(64, 32)), tmp_path / "encoder.safetensors")
    with pytest.raises(InputError, match=r"positions of 8 patches, .* input has 8x4.*input size"):
        load_pretrained(build_encoder("vit_small", input_size=(128, 64)), str(tmp_path))


def test_a_transformer_with_more_parts_than_ours_is_refused(tmp_path: Path) -> None:
    weights = timm_weights(side=4) | {"blocks.3.ls1.gamma": torch.ones(384)}
    torch.save(weights, tmp_path / "vit.pth")
    with pytest.raises(InputError, match=r"1 have no place, e\.g\. .*ls1\.gamma"):
        load_pretrained(build_encoder("vit_small", input_size=(64, 64)), str(tmp_path / "vit.pth"))


@pytest.mark.parametrize("architecture", [name for name, known in ARCHITECTURES.items() if not known.imagenet])
def test_architectures_that_torchvision_has_no_weights_for_say_so(architecture: str) -> None:
    with pytest.raises(InputError, match=f"torchvision has no ImageNet weights for {architecture}. .*--weights FILE"):
        download_imagenet(architecture)


def test_a_download_that_is_not_what_its_name_says_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "resnet18-00000000.pth").write_bytes(b"half of a file")
    url = (tmp_path / "resnet18-00000000.pth").as_uri()
    monkeypatch.setattr("reidge.train.encoders.resnet.imagenet_url", lambda name: url)
    with pytest.raises(ReidgeError, match=r"cannot be downloaded \(invalid hash value"):
        download_imagenet("resnet18")
    assert not [*(tmp_path / "cache").rglob("*.pth")]
