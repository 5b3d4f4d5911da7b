from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from reidge.edge.errors import InputError, ReidgeError
from reidge.train.checkpoint import load_encoder, load_weights, save_encoder
from reidge.train.encoders import build_encoder
from reidge.train.extract import embed_crops
from reidge.train.pretrained import load_pretrained

CROPS = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), dtype=np.uint8)


def test_a_saved_encoder_comes_back_the_same(tmp_path: Path) -> None:
    encoder = build_encoder("small", input_size=(64, 32), stripes=1, pooling="avg", resize="area")
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    for path in (tmp_path, tmp_path / "encoder.safetensors"):
        loaded = load_encoder(path)
        assert (loaded.spec, loaded.embedding_dim) == (encoder.spec, encoder.embedding_dim)
        np.testing.assert_array_equal(embed_crops(loaded, CROPS), embed_crops(encoder, CROPS))


def test_torchvision_and_torchreid_weights_load(tmp_path: Path) -> None:
    weights = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(weights, tmp_path / "torchvision.pth")
    wrapped = {"state_dict": {f"module.{name}": value for name, value in weights.items()}, "epoch": 60}
    torch.save(wrapped, tmp_path / "torchreid.pth.tar")
    for name in ("torchvision.pth", "torchreid.pth.tar"):
        encoder = load_encoder(tmp_path / name, "resnet18")
        assert torch.equal(encoder.get_parameter("body.layer4.1.conv2.weight"), weights["layer4.1.conv2.weight"])


def test_own_weights_start_another_run(tmp_path: Path) -> None:
    encoder = build_encoder("small", input_size=(64, 32))
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    other = build_encoder("small", input_size=(64, 32))
    assert load_weights(other, tmp_path / "encoder.safetensors") == []
    np.testing.assert_array_equal(embed_crops(other, CROPS), embed_crops(encoder, CROPS))


def test_a_foreign_file_needs_its_architecture(tmp_path: Path) -> None:
    torch.save(build_encoder("small").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(InputError, match="--architecture"):
        load_encoder(tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"does not fit resnet18.*weights are missing"):
        load_encoder(tmp_path / "weights.pth", "resnet18")


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (str(self.path),)


def test_a_file_that_would_run_code_is_refused_and_does_not(tmp_path: Path) -> None:
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    with pytest.raises(InputError, match=r"trap\.pth is not a readable file of weights"):
        load_encoder(tmp_path / "trap.pth", "small")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"hello, no weights", bytes(range(256)) * 16])
def test_a_file_of_anything_else_is_refused_in_our_own_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.pth").write_bytes(content)
    with pytest.raises(
        InputError, match=rf"some\.pth is not a readable file of weights \({len(content)} bytes\)"
    ) as caught:
        load_encoder(tmp_path / "some.pth", "small")
    assert "torch.load" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 4, 1000])
def test_a_truncated_encoder_is_named(kept: int, tmp_path: Path) -> None:
    save_encoder(build_encoder("small"), tmp_path / "encoder.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "encoder.safetensors").read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cut\.safetensors is not a whole encoder"):
        load_encoder(tmp_path / "cut.safetensors")


def test_a_missing_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"encoder\.safetensors does not exist"):
        load_encoder(tmp_path)


def test_imagenet_weights_offline_say_how_to_give_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # A port nobody listens on stands for a machine without network access.
    monkeypatch.setattr("reidge.train.encoders.resnet.imagenet_url", lambda name: "http://127.0.0.1:9/resnet18.pth")
    with pytest.raises(ReidgeError, match=r"cannot be downloaded .* --weights FILE") as raised:
        load_pretrained(build_encoder("resnet18"), "imagenet")
    assert raised.value.exit_status == 1
    assert not list(tmp_path.rglob("*.pth*"))


def test_architectures_without_imagenet_weights_say_so() -> None:
    with pytest.raises(InputError, match="no ImageNet weights for small"):
        load_pretrained(build_encoder("small"), "imagenet")
