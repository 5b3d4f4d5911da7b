from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from reidge.edge.backends import BACKENDS, Backend, GoldenMismatch, load_runner, open_encoder
from reidge.edge.bundle import Bundle, BundleError, describe_file
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

each_backend = pytest.mark.parametrize("backend", BACKENDS)


def crops_of(*colours: tuple[int, int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.stack([np.full((32, 16, 3), colour, dtype=np.uint8) for colour in colours])


@each_backend
def test_embeddings_are_unit_length_and_tell_colours_apart(tiny_bundle: Path, backend: Backend) -> None:
    with open_encoder(Bundle.load(tiny_bundle), backend, threads=1) as encoder:
        embeddings_ND = encoder.embed(crops_of((0, 0, 255), (0, 0, 250), (255, 0, 0)))
    assert embeddings_ND.shape == (3, 24)
    assert embeddings_ND.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings_ND, axis=1), 1, atol=1e-3)
    red_red, red_blue = embeddings_ND[0] @ embeddings_ND[1:].T
    assert red_red > 0.99 > red_blue


@each_backend
def test_any_number_of_crops_is_embedded_like_one_by_one(tiny_bundle: Path, backend: Backend) -> None:
    crops_NHW3 = np.random.default_rng(1).integers(0, 256, (130, 32, 16, 3), dtype=np.uint8)
    with open_encoder(Bundle.load(tiny_bundle), backend, threads=1) as encoder:
        together_ND = encoder.embed(crops_NHW3)
        alone_ND = np.concatenate([encoder.embed(crops_NHW3[[index]]) for index in (0, 63, 64, 129)])
        assert encoder.embed(crops_NHW3[:0]).shape == (0, 24)
    np.testing.assert_allclose(together_ND[[0, 63, 64, 129]], alone_ND, atol=1e-3)


def test_auto_takes_openvino_and_float_when_there_is_no_int8(tiny_bundle: Path) -> None:
    with open_encoder(Bundle.load(tiny_bundle)) as encoder:
        assert (encoder.backend, encoder.precision) == ("openvino", "float")


def test_crops_of_another_size_are_refused_with_the_remedy(tiny_bundle: Path) -> None:
    with (
        open_encoder(Bundle.load(tiny_bundle), "onnxruntime") as encoder,
        pytest.raises(ValueError, match="resize_crops"),
    ):
        encoder.embed(np.zeros((1, 64, 32, 3), dtype=np.uint8))


@each_backend
def test_a_graph_that_disagrees_with_the_golden_crops_does_not_start(tiny_bundle: Path, backend: Backend) -> None:
    path = tiny_bundle / "golden.npz"
    with np.load(path) as archive:
        np.savez(path, crops=archive["crops"], embeddings=archive["embeddings"][::-1])
    manifest_path = tiny_bundle / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    manifest["files"]["golden.npz"] = describe_file(path).model_dump()
    manifest_path.write_text(json.dumps(manifest))
    with pytest.raises(GoldenMismatch, match="worst cosine"), open_encoder(Bundle.load(tiny_bundle), backend):
        pass


@each_backend
def test_a_truncated_graph_is_refused_in_one_line(tiny_bundle: Path, backend: Backend) -> None:
    path = tiny_bundle / "encoder.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="cannot read") as refused:
        load_runner(path, backend)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("backend", "precision", "message"),
    [
        ("tensorflow", "auto", "unknown backend 'tensorflow'"),
        ("auto", "int4", "unknown precision 'int4'"),
        ("auto", "int8", "no int8 graph"),
    ],
)
def test_a_wrong_choice_is_refused_by_name(tiny_bundle: Path, backend: str, precision: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_encoder(Bundle.load(tiny_bundle), backend, precision)  # type: ignore[arg-type]
