from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reidge.edge.errors import InputError
from reidge.train.checkpoint import load_encoder, save_encoder
from reidge.train.encoders import ARCHITECTURES, build_encoder
from reidge.train.encoders.layers import InstanceBatchNorm2d, StripePool, use_ghost_batch_norm
from reidge.train.encoders.resnet import imagenet_url
from reidge.train.extract import embed_crops, normalise

SHARED = Path(__file__).parents[2].parent / "shared" / "weights"


DIMENSIONS = {
    "small": 512,
    "resnet18": 512,
    "resnet34": 512,
    "resnet50": 2048,
    "resnet50_ibn_a": 2048,
    "osnet_x0_25": 512,
    "osnet_x0_5": 512,
    "osnet_x0_75": 512,
    "osnet_x1_0": 512,
    "mobilenet_v3_small": 576,
    "mobilenet_v3_large": 960,
    "convnext_tiny": 768,
    "vit_small": 384,
}
FAMILIES = ("small", "osnet_x0_25", "mobilenet_v3_small", "resnet50_ibn_a", "convnext_tiny", "vit_small")
"""One of each family."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_network_gives_unit_embeddings_and_every_weight_learns(architecture: str) -> None:
    encoder = build_encoder(architecture, input_size=(64, 32))
    images = torch.rand(4, 3, 64, 32, requires_grad=True)
    embeddings = encoder(images)
    assert embeddings.shape == (4, encoder.embedding_dim) == (4, DIMENSIONS[architecture])
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))
    embeddings[:, 0].sum().backward()
    assert images.grad is not None
    assert images.grad.any()
    # A weight without a gradient would also stop distributed training.
    for name, parameter in encoder.named_parameters():
        assert not parameter.requires_grad or parameter.grad is not None, name


@pytest.mark.parametrize("architecture", FAMILIES)
def test_an_encoder_draws_no_random_numbers(architecture: str) -> None:
    encoder = build_encoder(architecture, input_size=(64, 32))
    before = torch.get_rng_state()
    encoder(torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)))
    # Else the two passes of gradient accumulation would see different networks.
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_smallest_input_that_is_accepted_trains(architecture: str) -> None:
    known = ARCHITECTURES[architecture]
    size = (max(2, known.stripes) * known.stride, known.stride)
    assert build_encoder(architecture, input_size=size)(torch.rand(2, 3, *size)).isfinite().all()


@pytest.mark.parametrize("architecture", ["osnet_x0_25", "mobilenet_v3_small", "vit_small"])
def test_embeddings_keep_unit_length_in_mixed_precision(architecture: str) -> None:
    encoder = build_encoder(architecture, input_size=(64, 32))
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = encoder(torch.rand(4, 3, 64, 32))
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_comes_back_from_disk_as_it_was(architecture: str, tmp_path: Path) -> None:
    encoder = build_encoder(architecture, input_size=(64, 32))
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    loaded = load_encoder(tmp_path)
    assert loaded.spec == encoder.spec
    own = encoder.state_dict()
    assert loaded.state_dict().keys() == own.keys()
    assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.parametrize("architecture", ["small", "resnet18", "osnet_x0_25"])
def test_embeddings_have_unit_length_whatever_the_batch(architecture: str) -> None:
    encoder = build_encoder(architecture, input_size=(64, 32))
    crops = np.random.default_rng(0).integers(0, 256, (5, 64, 32, 3), dtype=np.uint8)
    embeddings = embed_crops(encoder, crops, batch_size=2)
    assert embeddings.shape == (5, encoder.embedding_dim)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embeddings, embed_crops(encoder, crops), atol=1e-5)
    assert encoder.training  # as it was


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published OSNet weights are not in ../shared")
def test_osnet_equals_the_published_one() -> None:
    golden = np.load(SHARED / "osnet_x0_25_msmt17_golden.npz")
    encoder = load_encoder(SHARED / "osnet_x0_25_msmt17.pth", "osnet_x0_25")
    assert encoder.input_size == golden["crops_bgr_uint8"].shape[1:3]
    with torch.inference_mode():
        features = encoder.features(normalise(torch.from_numpy(golden["crops_bgr_uint8"]), encoder))
    np.testing.assert_allclose(features.numpy(), golden["embeddings"], atol=1e-4)


def test_normalising_turns_bgr_into_scaled_rgb() -> None:
    blue = torch.zeros(1, 1, 1, 3, dtype=torch.uint8)
    blue[..., 0] = 255
    red, green, blue_value = normalise(blue, build_encoder("small")).flatten().tolist()
    assert (red, green) == (pytest.approx(-0.485 / 0.229), pytest.approx(-0.456 / 0.224))
    assert blue_value == pytest.approx((1 - 0.406) / 0.225)


def test_gem_pooling_by_hand() -> None:
    maps = torch.tensor([[[[1.0], [3.0], [2.0], [2.0]]]])  # one channel, four rows
    assert StripePool(2, power=None)(maps).tolist() == [[2.0, 2.0]]
    # The cube root of (1 + 27) / 2, and 2.
    assert StripePool(2, power=3.0)(maps)[0].tolist() == pytest.approx([14 ** (1 / 3), 2.0])


def test_ghost_batch_norm_uses_groups_and_remembers_the_first() -> None:
    plain, ghost = nn.BatchNorm2d(3), nn.Sequential(nn.BatchNorm2d(3))
    use_ghost_batch_norm(ghost, 4)
    x = torch.randn(10, 3, 2, 2) + torch.arange(10.0).view(10, 1, 1, 1)
    # Groups of 4 and of 6: the remainder joins the last.
    expected = torch.cat([plain(x[:4]), nn.BatchNorm2d(3)(x[4:])])
    torch.testing.assert_close(ghost(x), expected)
    torch.testing.assert_close(ghost[0].running_mean, plain.running_mean)
    torch.testing.assert_close(ghost[0].running_var, plain.running_var)
    torch.testing.assert_close(ghost.eval()(x), plain.eval()(x))


def test_instance_batch_norm_normalises_each_half_its_own_way() -> None:
    norm, x = InstanceBatchNorm2d(4), torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(norm(x)[:, :2], nn.InstanceNorm2d(2)(x[:, :2]))
    torch.testing.assert_close(norm(x)[:, 2:], nn.BatchNorm2d(2)(x[:, 2:]))


def test_ghost_batch_norm_reaches_the_batch_half_of_an_ibn_block() -> None:
    x = torch.randn(8, 4, 2, 2) + torch.arange(8.0).view(8, 1, 1, 1)
    ghost = InstanceBatchNorm2d(4)
    use_ghost_batch_norm(ghost, 4)
    expected = torch.cat([InstanceBatchNorm2d(4)(x[:4]), InstanceBatchNorm2d(4)(x[4:])])
    torch.testing.assert_close(ghost(x), expected)


def test_a_camera_that_scales_colours_leaves_the_instance_half_alone() -> None:
    norm, x = InstanceBatchNorm2d(4).eval(), torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(norm(3 * x + 1)[:, :2], norm(x)[:, :2], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("architecture", "shape"), [("mobilenet_v3_small", (4, 2)), ("convnext_tiny", (2, 1))])
def test_the_last_feature_map_has_the_stride_that_is_promised(architecture: str, shape: tuple[int, int]) -> None:
    encoder = build_encoder(architecture, input_size=(64, 32))
    assert encoder.body.get_submodule("features")(torch.zeros(1, 3, 64, 32)).shape[2:] == shape
    assert 64 // ARCHITECTURES[architecture].stride == shape[0]


def test_convnext_normalises_each_stripe_by_itself() -> None:
    torch.manual_seed(0)
    body = build_encoder("convnext_tiny", input_size=(64, 32), stripes=2).body.eval()
    whole = build_encoder("convnext_tiny", input_size=(64, 32)).body.eval()
    assert body.get_parameter("neck.weight").shape == (2 * 768,)
    images = torch.rand(1, 3, 64, 32)
    maps = body.get_submodule("features")(images)
    norm = whole.get_submodule("classifier")
    expected = torch.cat([norm(maps[:, :, row].mean(dim=2)) for row in (0, 1)], dim=1)
    torch.testing.assert_close(body(images), expected / (1 + 1e-5) ** 0.5)  # a fresh neck only adds its epsilon


def test_a_transformer_knows_where_a_patch_is() -> None:
    encoder = build_encoder("vit_small", input_size=(64, 32)).eval()
    top, bottom = torch.zeros(1, 3, 64, 32), torch.zeros(1, 3, 64, 32)
    top[:, :, :16, :16] = bottom[:, :, -16:, :16] = 1
    assert not torch.allclose(encoder(top), encoder(bottom), atol=1e-3)


@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_a_transformer_pools_its_class_token_or_the_mean_of_its_patches(pooling: str) -> None:
    body = build_encoder("vit_small", input_size=(64, 32), pooling=pooling).body.eval()
    tokens: list[torch.Tensor] = []
    body.get_submodule("encoder.ln").register_forward_hook(lambda module, given, made: tokens.append(made))
    found = body(torch.rand(2, 3, 64, 32))
    expected = tokens[0][:, 0] if pooling == "token" else tokens[0][:, 1:].mean(dim=1)
    torch.testing.assert_close(found, expected / (1 + 1e-5) ** 0.5)  # a fresh neck only adds its epsilon


def test_the_last_stage_of_a_resnet_keeps_its_resolution() -> None:
    body = build_encoder("resnet18").body
    maps = body.get_submodule("layer1")(torch.zeros(1, 64, 64, 32))
    for layer in ("layer2", "layer3", "layer4"):
        maps = body.get_submodule(layer)(maps)
    assert maps.shape[2:] == (16, 8)


def test_the_neck_of_a_new_encoder_stays_centred() -> None:
    for architecture in ("small", "resnet18"):
        assert not build_encoder(architecture).get_parameter("body.neck.bias").requires_grad


def test_the_table_of_the_docs_is_what_is_built() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`[^|]*\| ([\d.]+) \| (\d+) \| [\d.]+ \| ([\w, ]+) \| (yes|) ?\|$", page, re.MULTILINE)
    assert [row[0] for row in rows] == list(ARCHITECTURES)
    for name, millions, dim, poolings, imagenet in rows:
        encoder, known = build_encoder(name), ARCHITECTURES[name]
        assert f"{sum(weight.numel() for weight in encoder.parameters()) / 1e6:.2f}" == millions
        assert (str(encoder.embedding_dim), ", ".join(known.poolings)) == (dim, poolings)
        assert known.imagenet == bool(imagenet)


def test_unknown_names_are_refused_with_what_to_choose() -> None:
    with pytest.raises(InputError, match=", ".join(ARCHITECTURES)):
        build_encoder("resnet51")


@pytest.mark.parametrize(
    ("architecture", "size", "stripes", "advice"),
    [
        ("small", (120, 64), None, "multiple of 32 and a width that is one of 16"),
        ("resnet18", (128, 60), None, "multiple of 16 and a width that is one of 16"),
        ("convnext_tiny", (144, 64), None, "multiple of 32 and a width that is one of 32"),
        ("convnext_tiny", (160, 64), 2, "multiple of 64"),
        ("vit_small", (250, 128), None, "multiple of 16"),
        ("osnet_x1_0", (0, 0), None, "multiple of 16"),
        ("small", (-64, 32), None, "multiple of 32"),
        ("resnet50_ibn_a", (16, 16), None, "a height from 32"),
    ],
)
def test_sizes_that_do_not_suit_are_refused_with_what_would(
    architecture: str, size: tuple[int, int], stripes: int | None, advice: str
) -> None:
    with pytest.raises(InputError, match=rf"input size {size[0]}x{size[1]} does not suit {architecture} .*{advice}"):
        build_encoder(architecture, input_size=size, stripes=stripes)


@pytest.mark.parametrize(
    ("architecture", "pooling", "choices"),
    [
        ("small", "max", "gem or avg"),
        ("osnet_x0_25", "gem", "avg"),
        ("convnext_tiny", "gem", "avg"),
        ("vit_small", "gem", "token or avg"),
        ("resnet50", "token", "gem or avg"),
    ],
)
def test_poolings_that_do_not_suit_are_refused_with_what_would(architecture: str, pooling: str, choices: str) -> None:
    with pytest.raises(InputError, match=rf"pooling '{pooling}' does not suit {architecture}\. Choose {choices}\."):
        build_encoder(architecture, pooling=pooling)


@pytest.mark.parametrize(("architecture", "stripes"), [("osnet_x0_5", 2), ("vit_small", 2), ("small", 0)])
def test_stripes_that_cannot_be_pooled_are_refused(architecture: str, stripes: int) -> None:
    with pytest.raises(InputError, match=f"{architecture} cannot pool {stripes} stripes"):
        build_encoder(architecture, stripes=stripes)


def test_imagenet_weights_are_those_of_the_published_runs() -> None:
    assert imagenet_url("resnet50").endswith("resnet50-0676ba61.pth")


@pytest.mark.parametrize("architecture", [name for name, known in ARCHITECTURES.items() if known.imagenet])
def test_torchvision_has_the_imagenet_weights_that_are_promised(architecture: str) -> None:
    assert re.fullmatch(rf".*/{architecture}-[0-9a-f]{{8}}\.pth", imagenet_url(architecture))
