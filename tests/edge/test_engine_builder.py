"""What each TensorRT from 8.6 to 11 is asked to build, by modules that offer only what that release offers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reidge.edge.engine import has_fixed_batch, trtexec_command
from reidge.edge.engine_builder import build_engine, load_tensorrt
from reidge.edge.engine_cache import EngineOptions
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from collections.abc import Callable

VERSIONS = ("8.6", "10.3", "10.13", "10.16", "11.4")
EXPLICIT_BATCH = 1
each_version = pytest.mark.parametrize("version", VERSIONS)
weakly_typed = pytest.mark.parametrize("version", VERSIONS[:-1])


def block_graph(*, int8: bool, image: tuple[str | int, ...] = ("N", 8, 4, 3)) -> bytes:
    """Cast, one convolution and Relu of a block, and a tail that pools with a power, named as the exporter names."""
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    constants: dict[str, Any] = {
        "weights": weights,
        "three": np.array(3, dtype=np.float32),
        "scale": np.array(2, dtype=np.float32),
        "zero": np.array(0, dtype=np.int8),
        "weights_scale": np.full(4, 0.02, dtype=np.float32),
        "weights_zero": np.zeros(4, dtype=np.int8),
        "shape": np.array([0, 4], dtype=np.int64),
    }
    pairs = [
        helper.make_node("QuantizeLinear", ["planes", "scale", "zero"], ["planes_q"], "q"),
        helper.make_node("DequantizeLinear", ["planes_q", "scale", "zero"], ["planes_dq"], "dq"),
        helper.make_node("QuantizeLinear", ["weights", "weights_scale", "weights_zero"], ["w_q"], "wq", axis=0),
        helper.make_node("DequantizeLinear", ["w_q", "weights_scale", "weights_zero"], ["w_dq"], "wdq", axis=0),
    ]
    inputs = ["planes_dq", "w_dq"] if int8 else ["planes", "weights"]
    nodes = [
        helper.make_node("Cast", ["crops"], ["floats"], "/Cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], "/Transpose", perm=[0, 3, 1, 2]),
        *(pairs if int8 else []),
        helper.make_node("Conv", inputs, ["maps"], "/body/conv1/Conv", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["maps"], ["positive"], "/body/relu/Relu"),
        helper.make_node("Pow", ["positive", "three"], ["cubes"], "/body/pool/Pow"),
        helper.make_node("GlobalAveragePool", ["cubes"], ["pooled"], "/body/pool/GlobalAveragePool"),
        helper.make_node("Reshape", ["pooled", "shape"], ["embeddings"], "/Reshape"),
    ]
    graph = helper.make_graph(
        nodes,
        "block",
        [helper.make_tensor_value_info("crops", TensorProto.UINT8, image)],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def half_names(model: onnx.ModelProto) -> set[str]:
    """Activations that are FP16."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}


@pytest.mark.parametrize("int8", [True, False])
@each_version
def test_each_version_is_told_its_types_in_its_own_way(
    install_tensorrt: Callable[[str], Any], version: str, int8: bool
) -> None:
    tensorrt = install_tensorrt(version)
    graph = block_graph(int8=int8)
    build_engine(tensorrt, graph, EngineOptions())
    flags = [name for (name,) in tensorrt.of("IBuilderConfig.set_flag")]
    ((creation,),) = tensorrt.of("Builder.create_network")
    if version == "11.4":
        assert flags == []
        assert creation == 0
        # The convolution and what is fused with it; the cube and the mean would overflow.
        assert {"maps", "positive"} <= half_names(tensorrt.parsed)
        assert half_names(tensorrt.parsed).isdisjoint({"floats", "cubes", "pooled"})
    else:
        assert flags == ["INT8"] * int8 + ["FP16", "PREFER_PRECISION_CONSTRAINTS"]
        assert creation == (1 << 0 if version == "8.6" else 0)
        assert tensorrt.parsed == onnx.load_model_from_string(graph)
        assert tensorrt.pinned == ["/body/pool/Pow", "/body/pool/GlobalAveragePool", "/Reshape"]


@each_version
def test_without_half_nothing_is_in_fp16(install_tensorrt: Callable[[str], Any], version: str) -> None:
    tensorrt = install_tensorrt(version)
    build_engine(tensorrt, block_graph(int8=True), EngineOptions(half=False))
    assert half_names(tensorrt.parsed) == set()
    assert tensorrt.of("IBuilderConfig.set_flag") == ([] if version == "11.4" else [["INT8"]])
    assert tensorrt.pinned == []


@each_version
def test_the_profile_timings_and_limits_reach_every_version(
    install_tensorrt: Callable[[str], Any], version: str
) -> None:
    tensorrt = install_tensorrt(version)
    options = EngineOptions(min_batch=1, best_batch=4, max_batch=16, workspace_mib=512, level=2)
    _, timing = build_engine(tensorrt, block_graph(int8=True), options, timing=b"earlier")
    profile = {"crops": tuple((batch, 8, 4, 3) for batch in (1, 4, 16))}
    assert tensorrt.of("IBuilderConfig.add_optimization_profile") == [[profile]]
    assert tensorrt.of("IBuilderConfig.set_memory_pool_limit") == [["WORKSPACE", 512 << 20]]
    assert tensorrt.of("IBuilderConfig.set_timing_cache") == [[b"earlier", False]]
    assert timing == b"earlier+timed"


@each_version
def test_timings_that_are_refused_cost_time_and_not_the_engine(
    install_tensorrt: Callable[[str], Any], version: str
) -> None:
    tensorrt = install_tensorrt(version)
    tensorrt.refused_timings = [b"of another device"]
    plan, timing = build_engine(tensorrt, block_graph(int8=True), EngineOptions(), timing=b"of another device")
    assert (len(plan) > 0, timing) == (True, b"+timed")
    tensorrt.refused_timings = [b"of another device", b""]  # whatever the reason, minutes of building are not lost
    plan, timing = build_engine(tensorrt, block_graph(int8=True), EngineOptions(), timing=b"of another device")
    assert (len(plan) > 0, timing) == (True, b"")


@each_version
def test_a_dla_is_built_for_where_there_is_one(install_tensorrt: Callable[[str], Any], version: str) -> None:
    tensorrt = install_tensorrt(version)
    options = EngineOptions(min_batch=8, best_batch=8, max_batch=8, dla_core=1)
    with pytest.raises(InputError, match="no DLA core 1: this device and TensorRT have 0"):
        build_engine(tensorrt, block_graph(int8=True), options)
    tensorrt.dla_cores = 2
    build_engine(tensorrt, block_graph(int8=True), options)
    assert ["GPU_FALLBACK"] in tensorrt.of("IBuilderConfig.set_flag")


@each_version
def test_progress_is_shown_where_the_builder_tells_it(
    install_tensorrt: Callable[[str], Any], version: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build_engine(install_tensorrt(version), block_graph(int8=True), EngineOptions())
    steps = 0 if version == "8.6" else 2
    assert f"engine: {steps} steps" in capsys.readouterr().err


def test_an_interrupt_during_the_build_ends_it_and_not_the_process(
    install_tensorrt: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from reidge.edge.progress import Progress

    def interrupt(self: Progress, units: int = 1, note: str | None = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        build_engine(install_tensorrt("10.3"), block_graph(int8=True), EngineOptions())


@each_version
def test_a_graph_that_does_not_parse_is_named_in_one_line(install_tensorrt: Callable[[str], Any], version: str) -> None:
    with pytest.raises(ReidgeError, match="cannot parse the graph") as refused:
        build_engine(install_tensorrt(version), block_graph(int8=False)[:-50], EngineOptions(half=False))
    assert "\n" not in str(refused.value)


def test_a_graph_that_does_not_build_is_named_with_the_builders_reason(install_tensorrt: Callable[[str], Any]) -> None:
    tensorrt = install_tensorrt("10.13")
    tensorrt.refuses = "Error Code 10: Could not find any implementation for node\n /body/conv1/Conv."
    with pytest.raises(ReidgeError, match=r"any implementation for node /body/conv1/Conv\. Close other programs"):
        build_engine(tensorrt, block_graph(int8=True), EngineOptions())


def test_a_cuda_that_does_not_start_is_named_with_its_reason(install_tensorrt: Callable[[str], Any]) -> None:
    tensorrt = install_tensorrt("10.13")
    tensorrt.starts_not = "CUDA initialization failure with error: 35"
    with pytest.raises(ReidgeError, match=r"does not start: CUDA initialization failure with error: 35\. Compare"):
        build_engine(tensorrt, block_graph(int8=True), EngineOptions())


def test_release_11_says_what_writes_fp16_into_its_graphs(
    install_tensorrt: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorrt = install_tensorrt("11.4")
    graph = block_graph(int8=True)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ReidgeError, match=r"pip install onnx\. Or build with --no-half"):
        build_engine(tensorrt, graph, EngineOptions())


def test_only_the_batch_may_be_dynamic(install_tensorrt: Callable[[str], Any]) -> None:
    graph = block_graph(int8=False, image=("N", "H", 4, 3))
    with pytest.raises(InputError, match="only its batch may be dynamic"):
        build_engine(install_tensorrt("10.3"), graph, EngineOptions())


def test_an_absent_or_old_tensorrt_is_refused_with_the_remedy(
    install_tensorrt: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_tensorrt("8.6").__version__ = "8.5.2"
    with pytest.raises(ReidgeError, match=r"TensorRT 8\.5\.2 is too old"):
        load_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(ReidgeError, match="belongs to JetPack"):
        load_tensorrt()


@pytest.mark.parametrize("batches", [(4, 2, 8), (1, 16, 8)])
def test_batches_grow(batches: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must grow"):
        EngineOptions(min_batch=batches[0], best_batch=batches[1], max_batch=batches[2])


@pytest.mark.parametrize(("batch", "fixed"), [("N", False), (1, True)])
def test_a_graph_tells_whether_its_batch_is_fixed(tmp_path: Path, batch: str | int, fixed: bool) -> None:
    (tmp_path / "graph.onnx").write_bytes(block_graph(int8=False, image=(batch, 8, 4, 3)))
    assert has_fixed_batch(tmp_path / "graph.onnx") == fixed


def test_trtexec_is_told_the_same() -> None:
    options = EngineOptions(workspace_mib=512, level=2)
    command = trtexec_command(
        Path("b/encoder.int8.onnx"), options, name="crops", shape=(256, 128, 3), int8=True, major=10
    )
    assert command == [
        "trtexec",
        "--onnx=b/encoder.int8.onnx",
        "--saveEngine=encoder.int8.engine",
        "--minShapes=crops:1x256x128x3",
        "--optShapes=crops:8x256x128x3",
        "--maxShapes=crops:64x256x128x3",
        "--int8",
        "--fp16",
        "--memPoolSize=workspace:512",
        "--builderOptimizationLevel=2",
    ]
    fixed = trtexec_command(
        Path("d.onnx"), options, name="frames", shape=(4, 4, 3), int8=True, major=10, fixed_batch=True
    )
    assert not [word for word in fixed if "Shapes" in word]  # "Static model does not take explicit shapes"
    eleven = trtexec_command(Path("half.onnx"), EngineOptions(), name="crops", shape=(8, 4, 3), int8=True, major=11)
    assert not {"--int8", "--fp16"} & set(eleven)
