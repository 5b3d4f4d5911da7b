"""From crops to embeddings through engine, cache, buffers and stream; only the GPU's arithmetic is ONNX Runtime's."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reidge.edge import cuda
from reidge.edge.backends import EdgeEncoder, GoldenMismatch
from reidge.edge.backends import load_runner as load_reference
from reidge.edge.backends.tensorrt import Runner
from reidge.edge.bundle import Bundle
from reidge.edge.cuda import CudaError, open_cuda
from reidge.edge.engine_cache import EngineCache, EngineOptions
from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

VERSIONS = ("8.6", "10.3", "10.13", "10.16", "11.4")
each_version = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def onnx_path(tiny_bundle: Path) -> Path:
    return tiny_bundle / "encoder.onnx"


def some_crops(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 16, 3), dtype=np.uint8)


@each_version
def test_every_version_embeds_batches_of_any_size(
    install_tensorrt: Callable[[str], Any], onnx_path: Path, version: str
) -> None:
    install_tensorrt(version)
    crops_NHW3 = some_crops(21)
    reference = load_reference(onnx_path, "onnxruntime", threads=1)
    with Runner(onnx_path, threads=None, options=EngineOptions(max_batch=8)) as runner:
        for count in (21, 8, 1):
            expected_ND = reference.run(crops_NHW3[:count])
            # FP16 in the one convolution; the mean colours are about 1.
            np.testing.assert_allclose(runner.run(crops_NHW3[:count]), expected_ND, atol=2e-3)
        assert runner.run(crops_NHW3[:0]).shape == (0, 24)
    reference.close()


def test_the_golden_crops_are_checked_on_the_engine(install_tensorrt: Callable[[str], Any], tiny_bundle: Path) -> None:
    install_tensorrt("10.3")
    bundle = Bundle.load(tiny_bundle)
    backend: Any = "tensorrt"
    with EdgeEncoder(bundle, backend=backend, precision="float", threads=None) as encoder:
        np.testing.assert_allclose(encoder.embed(bundle.golden.crops_NHW3), bundle.golden.embeddings_ND, atol=1e-5)
    bundle.golden.embeddings_ND[:] = bundle.golden.embeddings_ND[::-1].copy()
    with (
        pytest.raises(GoldenMismatch, match="on tensorrt does not reproduce"),
        EdgeEncoder(bundle, backend=backend, precision="float", threads=None),
    ):
        pass


def test_an_engine_is_built_once_and_then_taken_from_the_cache(
    install_tensorrt: Callable[[str], Any], onnx_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt = install_tensorrt("10.16")
    Runner(onnx_path, threads=None).close()
    assert "building an engine of" in capsys.readouterr().err
    with Runner(onnx_path, threads=None) as runner:
        assert not runner.engine.built
    assert tensorrt.builds == 1
    assert capsys.readouterr().err == ""


def test_another_tensorrt_builds_an_engine_of_its_own(install_tensorrt: Callable[[str], Any], onnx_path: Path) -> None:
    install_tensorrt("10.3")
    Runner(onnx_path, threads=None).close()
    newer = install_tensorrt("10.13")
    Runner(onnx_path, threads=None).close()
    assert newer.builds == 1


def test_an_engine_that_was_changed_is_refused_and_built_anew(
    install_tensorrt: Callable[[str], Any], onnx_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt = install_tensorrt("10.3")
    with Runner(onnx_path, threads=None) as runner:
        runner.engine.path.write_bytes(b"native code of somebody else")
    loads = len(tensorrt.of("Runtime.deserialize_cuda_engine"))
    with Runner(onnx_path, threads=None) as runner:
        assert runner.engine.built
    assert capsys.readouterr().err.count("its sha256 differs from its record") == 1
    assert len(tensorrt.of("Runtime.deserialize_cuda_engine")) == loads + 1  # never the foreign one


def test_an_engine_that_does_not_load_is_built_anew(
    install_tensorrt: Callable[[str], Any], onnx_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt = install_tensorrt("10.3")
    Runner(onnx_path, threads=None).close()
    tensorrt.unloadable = True
    with Runner(onnx_path, threads=None) as runner:
        assert runner.run(some_crops(2)).shape == (2, 24)
    assert "does not load on this driver" in capsys.readouterr().err
    assert tensorrt.builds == 2


def test_two_that_need_an_engine_at_once_build_it_once(install_tensorrt: Callable[[str], Any], onnx_path: Path) -> None:
    tensorrt = install_tensorrt("10.3")
    others: list[threading.Thread] = []

    def start_another() -> None:
        if not others:
            others.append(threading.Thread(target=lambda: Runner(onnx_path, threads=None).close()))
            others[0].start()

    tensorrt.before_build = start_another
    Runner(onnx_path, threads=None).close()
    others[0].join()
    assert tensorrt.builds == 1


def test_an_engine_of_one_batch_size_computes_what_is_left_over(
    install_tensorrt: Callable[[str], Any], onnx_path: Path
) -> None:
    tensorrt = install_tensorrt("10.3")
    tensorrt.dla_cores = 1
    options = EngineOptions(min_batch=4, best_batch=4, max_batch=4, dla_core=0)
    reference = load_reference(onnx_path, "onnxruntime", threads=1)
    with Runner(onnx_path, threads=None, options=options) as runner:
        crops_NHW3 = some_crops(6)
        np.testing.assert_allclose(runner.run(crops_NHW3), reference.run(crops_NHW3), atol=1e-5)
    assert tensorrt.of("IExecutionContext.set_input_shape")[-2:] == [[(4, 32, 16, 3)]] * 2
    reference.close()


def test_later_runs_keep_to_the_options_that_were_chosen(
    install_tensorrt: Callable[[str], Any], onnx_path: Path
) -> None:
    install_tensorrt("10.3")
    cache = EngineCache()
    with Runner(onnx_path, threads=None) as runner:
        sha256 = runner.engine.key.onnx_sha256
    cache.choose_options(sha256, EngineOptions(max_batch=16))
    with Runner(onnx_path, threads=None) as runner:
        assert runner.engine.key.options.max_batch == 16


def test_too_little_memory_on_the_gpu_is_one_line_and_frees_the_rest(
    install_tensorrt: Callable[[str], Any], onnx_path: Path, cudart: Any
) -> None:
    install_tensorrt("10.3")
    cudart.fake_fail_after(3)  # both arrays of the input, and one of the output
    with pytest.raises(CudaError, match=r"could not lock 0\.0 MiB of memory: out of memory") as refused:
        Runner(onnx_path, threads=None)
    assert "\n" not in str(refused.value)
    assert cudart.fake_live() == 0


def test_a_machine_without_a_gpu_is_told_so(
    install_tensorrt: Callable[[str], Any], onnx_path: Path, cudart: Any
) -> None:
    install_tensorrt("10.3")
    cudart.fake_set_gpus(0)
    with pytest.raises(CudaError, match=r"needs CUDA and an NVIDIA GPU: .*no CUDA-capable device"):
        Runner(onnx_path, threads=None)


def test_a_library_that_is_not_cuda_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "candidates", lambda: ["libc.so.6", "libabsent.so"])
    open_cuda.cache_clear()
    with pytest.raises(CudaError, match="is no CUDA runtime"):
        open_cuda()
    open_cuda.cache_clear()


def test_the_gpu_is_described_by_all_that_an_engine_depends_on(cudart: Any) -> None:
    gpu = open_cuda().gpu()
    assert (gpu.name, gpu.capability, gpu.multiprocessors) == ("Orin", "8.7", 16)


def test_a_graph_that_cannot_be_read_is_named(install_tensorrt: Callable[[str], Any], tmp_path: Path) -> None:
    install_tensorrt("10.3")
    with pytest.raises(ReidgeError, match=r"encoder\.onnx cannot be read: No such file"):
        Runner(tmp_path / "encoder.onnx", threads=None)
