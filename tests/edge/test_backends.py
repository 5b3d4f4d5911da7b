from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from reidge.edge.backends import (
    RUNNERS,
    EdgeEncoder,
    GoldenMismatch,
    best_precision,
    installed_backends,
    load_runner,
    open_encoder,
    presence,
)
from reidge.edge.backends.choice import Choice, choice_path, recall, remember
from reidge.edge.backends.guard import GuardedRunner
from reidge.edge.backends.onnxruntime import CudaRunner, TensorrtRunner
from reidge.edge.backends.presence import BACKENDS, GPU_BACKENDS, Backend, absence, has_gpu
from reidge.edge.bundle import Bundle, BundleError, describe_file
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.site import EncoderConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

each_backend = pytest.mark.parametrize("backend", installed_backends())
LOCKED = Path("/sys/reidge")
"""Linux lets nobody make a folder here, not even root."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own for each test."""
    monkeypatch.setenv("REIDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file by which a driver shows its GPU."""
    path = tmp_path / "nvidiactl"
    path.touch()
    monkeypatch.setattr(presence, "GPU_FILES", (str(path),))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return path


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the GPU, if there is one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


def add_int8(folder: Path) -> Bundle:
    """Give a bundle an INT8 graph, which is the float one under another name."""
    graph = folder / "encoder.int8.onnx"
    graph.write_bytes((folder / "encoder.onnx").read_bytes())
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][graph.name] = describe_file(graph).model_dump()
    manifest["golden_min_cosine"]["int8"] = 0.9
    path.write_text(json.dumps(manifest))
    return Bundle.load(folder)


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


def test_auto_takes_openvino_and_float_when_there_is_no_int8(tiny_bundle: Path, no_gpu: None) -> None:
    with open_encoder(Bundle.load(tiny_bundle)) as encoder:
        assert (encoder.backend, encoder.precision) == ("openvino", "float")


def test_onnxruntime_takes_the_float_graph_of_a_bundle_that_has_both(tiny_bundle: Path) -> None:
    bundle = add_int8(tiny_bundle)
    with open_encoder(bundle, "onnxruntime", threads=1) as encoder:
        assert encoder.precision == "float"
    with open_encoder(bundle, "openvino", threads=1) as encoder:
        assert encoder.precision == "int8"
    assert [best_precision(bundle, name) for name in GPU_BACKENDS] == ["int8", "float", "int8"]


def test_looking_for_backends_imports_none_of_them() -> None:
    code = (
        "import sys; from reidge.edge.backends import installed_backends; installed_backends();"
        "print(sorted({'openvino', 'onnxruntime', 'tensorrt', 'onnx', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_gpu_that_is_hidden_is_none(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_gpu()
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert not has_gpu()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert has_gpu()
    gpu.unlink()
    assert not has_gpu()


def test_backends_of_a_gpu_are_absent_without_one(no_gpu: None) -> None:
    assert not set(installed_backends()) & set(GPU_BACKENDS)
    for name in GPU_BACKENDS:
        assert absence(name) is not None


def test_an_absent_backend_is_refused_with_the_reason_and_the_remedy(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"openvino is not installed\. See what to install with: reidge doctor$"):
        open_encoder(Bundle.load(tiny_bundle), "openvino")
    with pytest.raises(InputError, match="no encoder backend is installed"):
        open_encoder(Bundle.load(tiny_bundle))


def test_every_backend_has_a_class_and_a_place_in_the_site_file() -> None:
    assert set(RUNNERS) == set(BACKENDS)
    for name in BACKENDS:
        assert EncoderConfig(backend=name).backend == name


@pytest.mark.parametrize("runner", [CudaRunner, TensorrtRunner])
def test_a_provider_this_build_lacks_is_refused_in_one_line(
    tiny_bundle: Path, runner: type[CudaRunner], no_gpu: None
) -> None:
    with pytest.raises(ReidgeError, match=r"Provider|provider") as refused:
        runner(tiny_bundle / "encoder.onnx", threads=1)
    assert not isinstance(refused.value, InputError)  # nothing is wrong with the bundle
    assert "\n" not in str(refused.value)


def test_engines_of_the_tensorrt_provider_are_kept_apart_by_file_where_only_the_user_can_write(
    tiny_bundle: Path, cache: Path
) -> None:
    path = tiny_bundle / "encoder.onnx"
    # Of a runner that never started: what is told to a provider needs no GPU.
    options = TensorrtRunner.provider_options(object.__new__(TensorrtRunner), path)
    assert options["trt_profile_min_shapes"] == "crops:1x32x16x3"
    assert options["trt_profile_max_shapes"] == "crops:64x32x16x3"
    folder = Path(options["trt_engine_cache_path"])
    assert folder == cache / "onnxruntime" / describe_file(path).sha256[:32]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_runtime_that_does_not_start_makes_way_for_the_next_with_a_line(
    tiny_bundle: Path, no_gpu: None, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.load(tiny_bundle)
    others = [Choice(backend="onnxruntime", precision="float")]
    with EdgeEncoder(bundle, backend="onnxruntime-cuda", precision="float", threads=1, others=others) as encoder:
        assert encoder.backend == "onnxruntime"
        assert len(encoder.embed(bundle.golden.crops_NHW3)) == 16
    (line,) = caplog.messages
    assert line.startswith("onnxruntime-cuda does not start: ")
    assert line.endswith("Taking onnxruntime instead.")
    alone = EdgeEncoder(bundle, backend="onnxruntime-cuda", precision="float", threads=1)
    with pytest.raises(ReidgeError, match="ONNX Runtime"), alone:
        pass


def test_a_broken_package_makes_way_too(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # so that importing it fails
    monkeypatch.delitem(sys.modules, "reidge.edge.backends.openvino", raising=False)
    with pytest.raises(ReidgeError, match="package of openvino does not load"):
        load_runner(tiny_bundle / "encoder.onnx", "openvino")
    others = [Choice(backend="onnxruntime", precision="float")]
    bundle = Bundle.load(tiny_bundle)
    with EdgeEncoder(bundle, backend="openvino", precision="float", threads=1, others=others) as encoder:
        assert encoder.backend == "onnxruntime"
    assert caplog.messages[0].startswith("openvino does not start: ")


def test_a_choice_by_measurement_goes_before_the_usual_order(tiny_bundle: Path, no_gpu: None) -> None:
    bundle = add_int8(tiny_bundle)
    remember(bundle, Choice(backend="onnxruntime", precision="int8"))
    assert recall(bundle) == Choice(backend="onnxruntime", precision="int8")
    encoder = open_encoder(bundle)
    assert (encoder.backend, encoder.precision) == ("onnxruntime", "int8")
    for encoder in (open_encoder(bundle, "openvino"), open_encoder(bundle, precision="float")):  # the user's word first
        assert encoder.backend == "openvino"


def test_a_choice_for_other_graphs_or_a_damaged_one_does_not_count(tiny_bundle: Path, no_gpu: None) -> None:
    remember(Bundle.load(tiny_bundle), Choice(backend="onnxruntime", precision="float"))
    bundle = add_int8(tiny_bundle)
    assert recall(bundle) is None
    path = choice_path(bundle)
    for content in (b"", b"{", b'{"backend": "tensorflow", "precision": "float"}', b"\xff"):
        path.write_bytes(content)
        assert recall(bundle) is None
    assert open_encoder(bundle).backend == "openvino"


def test_a_choice_that_cannot_be_kept_is_one_line(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REIDGE_CACHE", str(LOCKED))
    with pytest.raises(ReidgeError, match=r"cannot be kept in /sys/reidge.*REIDGE_CACHE") as refused:
        remember(Bundle.load(tiny_bundle), Choice(backend="onnxruntime", precision="float"))
    assert "\n" not in str(refused.value)


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


@each_backend
def test_what_a_runtime_raises_at_work_is_one_line_that_names_it(tiny_bundle: Path, backend: Backend) -> None:
    path = tiny_bundle / "encoder.onnx"
    graph = onnx.load(path)
    shape = next(tensor for tensor in graph.graph.initializer if tensor.name == "shape")
    shape.CopyFrom(onnx.numpy_helper.from_array(np.array([16, 24]), "shape"))  # serves batches of 16 alone
    onnx.save(graph, path)
    runner = load_runner(path, backend)
    assert runner.run(np.zeros((16, 32, 16, 3), dtype=np.uint8)).shape == (16, 24)
    with pytest.raises(ReidgeError, match=f"{backend} failed on a batch of 3") as refused:
        runner.run(np.zeros((3, 32, 16, 3), dtype=np.uint8))
    assert "\n" not in str(refused.value)
    runner.close()


def test_fewer_rows_than_crops_are_a_failure_of_the_runtime() -> None:
    class Emptied:
        def run(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.empty((0, 24), dtype=np.float32)

        def close(self) -> None:
            pass

    with pytest.raises(ReidgeError, match=r"encoder on x failed on a batch of 2 \(it gave 0 rows\)"):
        GuardedRunner(Emptied(), name="encoder on x").run(np.zeros((2, 32, 16, 3), dtype=np.uint8))


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
