"""ONNX -> TensorRT engine, on the device that will run it, by any TensorRT from 8.6 to 11.

One INT8 graph with explicit Q/DQ serves them all. What differs is who chooses FP16 for the rest: up to 10 the builder
does, told by flags; 11 has neither these flags nor weak types, so there FP16 is written into the graph.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reidge.edge.bundle import MANIFEST_NAME, BundleError
from reidge.edge.cuda import open_cuda
from reidge.edge.engine_cache import EngineCache, EngineKey, EngineOptions, machine_of, say
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.half import bake_half
from reidge.edge.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OLDEST = 8, 6
MIB = 2**20
DELICATE = ("NORMALIZATION", "REDUCE", "SOFTMAX", "UNARY")
"""Sums, roots and exponentials, which overflow in FP16 wherever they stand."""
LAST_OF_A_BLOCK = ("ACTIVATION", "CONVOLUTION", "DEQUANTIZE", "ELEMENTWISE", "MATRIX_MULTIPLY", "QUANTIZE")


class EngineError(ReidgeError):
    """TensorRT is missing, too old, or refuses a graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """An engine of this machine, ready to be loaded."""

    plan: bytes
    key: EngineKey
    path: Path
    """Where it is kept."""
    built: bool
    """Whether it was built just now."""


def load_tensorrt() -> Any:
    """Import TensorRT.

    Raises:
        EngineError: It is not installed, does not load, or is older than 8.6.
    """
    try:
        tensorrt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise EngineError(
            f"TensorRT does not load here ({' '.join(str(error).split())}). On a Jetson it belongs to JetPack (make "
            "the environment with --system-site-packages); elsewhere: pip install 'reidge[cuda]'"
        ) from error
    if version_of(tensorrt) < OLDEST:
        raise EngineError(f"TensorRT {tensorrt.__version__} is too old. Install 8.6 or newer.")
    return tensorrt


def version_of(tensorrt: Any) -> tuple[int, int]:
    """Major and minor version."""
    major, minor = str(tensorrt.__version__).split(".")[:2]
    return int(major), int(minor)


def obtain_engine(
    onnx_path: Path, cache: EngineCache, options: EngineOptions | None = None, *, rebuild: bool = False
) -> Engine:
    """Take the engine of a graph from the cache, or build it, which takes minutes.

    Args:
        onnx_path: A float graph, or one with explicit Q/DQ pairs.
        cache: Where engines of this machine are kept.
        options: None takes those last chosen for this graph on this machine, else the usual ones.
        rebuild: Whether to build it although it is there.

    Raises:
        EngineError: TensorRT is missing or cannot build it.
        CudaError: There is no GPU.
        BundleError: The graph cannot be read.
        ReidgeError: The cache cannot be used.
    """
    tensorrt = load_tensorrt()
    graph = read_graph(onnx_path)
    sha256 = hashlib.sha256(graph).hexdigest()
    key = key_of(tensorrt, sha256, options or cache.options_for(sha256) or usual_options(onnx_path))
    stamp = cache.stamp(key)
    plan = None if rebuild else cache.load(key)
    built = False
    if plan is None:
        with cache.lock(key):
            if cache.stamp(key) != stamp:  # another process has built it while this one waited
                plan = cache.load(key)
            if plan is None:
                plan, built = build_into(cache, key, tensorrt, graph, onnx_path), True
    return Engine(plan=plan, key=key, path=cache.engine_path(key), built=built)


def build_into(cache: EngineCache, key: EngineKey, tensorrt: Any, graph: bytes, onnx_path: Path) -> bytes:
    """Build an engine and keep it, with the timings that make the next build shorter."""
    cache.require_room(len(graph))
    say(f"building an engine of {onnx_path} for {key.gpu}; this takes minutes, once.")
    plan, timing = build_engine(tensorrt, graph, key.options, timing=cache.load_timing(key))
    cache.store_timing(key, timing)
    cache.store(key, plan)
    return plan


def usual_options(onnx_path: Path) -> EngineOptions:
    """What an engine is built for where nobody says: many crops at a time, or one frame."""
    return EngineOptions(best_batch=1, max_batch=1) if is_detector(onnx_path.parent) else EngineOptions()


def is_detector(bundle: Path) -> bool:
    """Whether a bundle says of itself that it is a detector's."""
    try:
        content = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever loads the bundle says what is wrong with it
    return isinstance(content, dict) and content.get("kind") == "detector"


def read_graph(path: Path) -> bytes:
    """Read an ONNX file.

    Raises:
        BundleError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}. Copy the bundle again.") from error


def key_of(tensorrt: Any, onnx_sha256: str, options: EngineOptions) -> EngineKey:
    """What the engine of a graph depends on here."""
    gpu = open_cuda().gpu()
    return EngineKey(
        onnx_sha256=onnx_sha256,
        tensorrt=str(tensorrt.__version__),
        gpu=gpu.name,
        capability=gpu.capability,
        multiprocessors=gpu.multiprocessors,
        machine=machine_of(),
        options=options,
    )


def build_engine(tensorrt: Any, graph: bytes, options: EngineOptions, *, timing: bytes = b"") -> tuple[bytes, bytes]:
    """Build an engine for the GPU of this process.

    Args:
        tensorrt: The module.
        graph: Serialised ONNX.
        options: How.
        timing: Timings of tactics from earlier builds; empty for none.

    Returns:
        The serialised engine, and the timings including this build's.

    Raises:
        EngineError: TensorRT cannot parse or build the graph.
        InputError: The options ask for a DLA that is not there, or the graph has other dynamic sizes than its batch.
    """
    logger = make_logger(tensorrt)
    tensorrt.init_libnvinfer_plugins(logger, "")  # instance norm is a plugin up to 8.6
    builder = tensorrt.Builder(logger)
    weakly_typed = hasattr(tensorrt.BuilderFlag, "FP16")
    explicit = tensorrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH if version_of(tensorrt)[0] < 10 else None
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = tensorrt.OnnxParser(network, logger)
    if options.half and not weakly_typed:
        graph = bake_half(graph)
    if not parser.parse(graph):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise EngineError(f"TensorRT {tensorrt.__version__} cannot parse the graph: {one_line(reasons)}.")
    config = builder.create_builder_config()
    set_profile(builder, network, config, options)
    set_limits(tensorrt, builder, config, options)
    if weakly_typed:
        allow_small_types(tensorrt, network, config, half=options.half)
    config.set_timing_cache(config.create_timing_cache(timing), ignore_mismatch=False)
    with Progress("engine", unit="steps") as progress:
        monitor = make_monitor(tensorrt, progress)
        if monitor is not None:
            config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if monitor is not None and monitor.interrupted:
            raise KeyboardInterrupt
    if plan is None:
        raise EngineError(
            f"TensorRT {tensorrt.__version__} cannot build the engine: {one_line('; '.join(logger.errors[-2:]))}. "
            "Close other programs that use the GPU, or try --no-half or a smaller --workspace-mib."
        )
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def set_profile(builder: Any, network: Any, config: Any, options: EngineOptions) -> None:
    """Declare the batch sizes of every input whose batch is dynamic.

    Raises:
        InputError: Another dimension is dynamic.
    """
    profile = builder.create_optimization_profile()
    dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 in shape[1:]:
            raise InputError(f"the input {tensor.name} is {shape}: only its batch may be dynamic. Export it again.")
        if shape[0] == -1:
            dynamic = True
            batches = options.min_batch, options.best_batch, options.max_batch
            profile.set_shape(tensor.name, *((batch, *shape[1:]) for batch in batches))
    if dynamic:
        config.add_optimization_profile(profile)


def set_limits(tensorrt: Any, builder: Any, config: Any, options: EngineOptions) -> None:
    """Set memory, effort and the device that computes.

    Raises:
        InputError: There is no such DLA.
    """
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.dla_core is not None:
        if options.dla_core >= builder.num_DLA_cores:
            raise InputError(
                f"there is no DLA core {options.dla_core}: this device and TensorRT have {builder.num_DLA_cores}. "
                "Leave out --dla-core to build for the GPU."
            )
        config.default_device_type = tensorrt.DeviceType.DLA
        config.DLA_core = options.dla_core
        config.set_flag(tensorrt.BuilderFlag.GPU_FALLBACK)


def allow_small_types(tensorrt: Any, network: Any, config: Any, *, half: bool) -> None:
    """Let a TensorRT before 11 compute in INT8 where pairs stand, and in FP16 elsewhere but for delicate layers."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    kinds = [layer.type for layer in layers]
    if tensorrt.LayerType.QUANTIZE in kinds:
        config.set_flag(tensorrt.BuilderFlag.INT8)
    if not half:
        return
    config.set_flag(tensorrt.BuilderFlag.FP16)
    config.set_flag(tensorrt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
    delicate = {getattr(tensorrt.LayerType, name) for name in DELICATE}
    tail = tail_start(tensorrt, kinds, [layer.name for layer in layers])
    for index, layer in enumerate(layers):
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        computes = all(output.dtype == tensorrt.float32 for output in outputs)
        if computes and (index >= tail or kinds[index] in delicate):
            layer.precision = tensorrt.float32
            for number in range(layer.num_outputs):
                layer.set_output_type(number, tensorrt.float32)


def tail_start(tensorrt: Any, kinds: Sequence[Any], names: Sequence[str]) -> int:
    """Index of the first layer behind the last block: pooling, neck and normalisation, which stay in float32.

    A block ends with its last convolution or product, and the sum and activation that are fused with it.
    """
    types = tensorrt.LayerType
    heavy = [index for index, kind in enumerate(kinds) if kind in (types.CONVOLUTION, types.MATRIX_MULTIPLY)]
    index = heavy[-1] + 1 if heavy else 0
    ends = {getattr(types, name) for name in LAST_OF_A_BLOCK}
    while index < len(kinds) and kinds[index] in ends:
        operator = names[index].rpartition("/")[2]
        # Powers and clips are layers of these kinds too; they are told apart by the operator in the exporter's names.
        if kinds[index] in (types.ACTIVATION, types.ELEMENTWISE) and not operator.startswith(("Add", "Relu")):
            break
        index += 1
    return index


def make_logger(tensorrt: Any) -> Any:
    """A logger that keeps errors for our own message and says nothing itself."""

    class Logger(tensorrt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)  # the bindings ask for this very call
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (tensorrt.ILogger.INTERNAL_ERROR, tensorrt.ILogger.ERROR):
                self.errors.append(message)

    return Logger()


def make_monitor(tensorrt: Any, progress: Progress) -> Any:
    """What the builder tells its progress to; None for TensorRT 8, which tells nobody."""
    if not hasattr(tensorrt, "IProgressMonitor"):
        return None

    class Monitor(tensorrt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...

        def phase_finish(self, phase_name: str) -> None: ...

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                progress.advance(note=phase_name)
            except KeyboardInterrupt:  # must not run through the builder's own code
                self.interrupted = True
            return not self.interrupted

    return Monitor()


def one_line(text: str) -> str:
    """Words of a message on one line."""
    return " ".join(text.split()).rstrip(".") or "it gave no reason"


def write_half(onnx_path: Path) -> Path:
    """Write a graph with FP16 in it into the engine cache, for tools that take their types from there."""
    graph = read_graph(onnx_path)
    return EngineCache().write_graph(f"{hashlib.sha256(graph).hexdigest()[:32]}.half.onnx", bake_half(graph))


def trtexec_command(
    onnx_path: Path, options: EngineOptions, *, name: str, shape: Sequence[int], int8: bool, major: int
) -> list[str]:
    """The `trtexec` call that builds and times the same engine.

    Args:
        onnx_path: The graph; for TensorRT 11 with FP16 the one that `bake_half` wrote.
        options: How to build it.
        name: Of the input.
        shape: Of one image.
        int8: Whether the graph has Q/DQ pairs.
        major: Version of TensorRT.
    """
    each = "x".join(map(str, shape))
    batches = {"min": options.min_batch, "opt": options.best_batch, "max": options.max_batch}
    command = ["trtexec", f"--onnx={onnx_path}", f"--saveEngine={onnx_path.with_suffix('.engine').name}"]
    command += [f"--{which}Shapes={name}:{batch}x{each}" for which, batch in batches.items()]
    if major < 11:
        command += ["--int8"] * int8 + ["--fp16"] * options.half
    if options.workspace_mib is not None:
        command.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if options.level is not None:
        command.append(f"--builderOptimizationLevel={options.level}")
    if options.dla_core is not None:
        command += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    return command
