from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from reidge.edge.errors import InputError
from reidge.train.checkpoint import load_encoder
from reidge.train.encoders import ARCHITECTURES, build_encoder
from reidge.train.encoders.layers import StripePool, use_ghost_batch_norm
from reidge.train.encoders.resnet import imagenet_url
from reidge.train.extract import embed_crops, normalise

SHARED = Path(__file__).parents[2].parent / "shared" / "weights"


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


def test_the_last_stage_of_a_resnet_keeps_its_resolution() -> None:
    body = build_encoder("resnet18").body
    maps = body.get_submodule("layer1")(torch.zeros(1, 64, 64, 32))
    for layer in ("layer2", "layer3", "layer4"):
        maps = body.get_submodule(layer)(maps)
    assert maps.shape[2:] == (16, 8)


def test_the_neck_of_a_new_encoder_stays_centred() -> None:
    for architecture in ("small", "resnet18"):
        assert not build_encoder(architecture).get_parameter("body.neck.bias").requires_grad


def test_unknown_names_and_sizes_are_refused_with_what_to_choose() -> None:
    with pytest.raises(InputError, match=", ".join(ARCHITECTURES)):
        build_encoder("resnet51")
    with pytest.raises(InputError, match="multiple of 32"):
        build_encoder("small", input_size=(120, 64))
    with pytest.raises(InputError, match="gem or avg"):
        build_encoder("small", pooling="max")
    with pytest.raises(InputError, match="Leave out pooling"):
        build_encoder("osnet_x0_25", pooling="gem")


def test_imagenet_weights_are_those_of_the_published_runs() -> None:
    assert imagenet_url("resnet50").endswith("resnet50-0676ba61.pth")
