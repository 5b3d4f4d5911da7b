"""What TensorRT from 8.6 to 11 is asked to build.

One INT8 graph with explicit Q/DQ serves them all. What differs is who chooses FP16 for the rest: up to 10 the builder
does, told by flags; 11 has neither these flags nor weak types, so there FP16 is written into the graph.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from reidge.edge.backends.presence import REMEDY
from reidge.edge.errors import InputError, ReidgeError
from reidge.edge.half import bake_half
from reidge.edge.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reidge.edge.engine_cache import EngineOptions

OLDEST = 8, 6
MIB = 2**20
DELICATE = ("NORMALIZATION", "REDUCE", "SOFTMAX", "UNARY")
"""Sums, roots and exponentials, which overflow in FP16 wherever they stand."""
LAST_OF_A_BLOCK = ("ACTIVATION", "CONVOLUTION", "DEQUANTIZE", "ELEMENTWISE", "MATRIX_MULTIPLY", "QUANTIZE")


class EngineError(ReidgeError):
    """TensorRT is missing, too old, or refuses a graph."""


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
            f"the environment with --system-site-packages). {REMEDY}"
        ) from error
    if version_of(tensorrt) < OLDEST:
        raise EngineError(f"TensorRT {tensorrt.__version__} is too old. Install 8.6 or newer.")
    return tensorrt


def version_of(tensorrt: Any) -> tuple[int, int]:
    """Major and minor version."""
    major, minor = str(tensorrt.__version__).split(".")[:2]
    return int(major), int(minor)


def build_engine(tensorrt: Any, graph: bytes, options: EngineOptions, *, timing: bytes = b"") -> tuple[bytes, bytes]:
    """Build an engine for the GPU of this process.

    Args:
        tensorrt: The module.
        graph: Serialised ONNX.
        options: How.
        timing: Timings of tactics from earlier builds; empty for none. Those that TensorRT refuses are left out.

    Returns:
        The serialised engine, and the timings including this build's, empty where TensorRT keeps none.

    Raises:
        EngineError: TensorRT cannot parse or build the graph.
        InputError: The options ask for a DLA that is not there, or the graph has other dynamic sizes than its batch.
    """
    logger = make_logger(tensorrt)
    tensorrt.init_libnvinfer_plugins(logger, "")  # instance norm is a plugin up to 8.6
    builder = start(tensorrt.Builder, logger)
    weakly_typed = hasattr(tensorrt.BuilderFlag, "FP16")
    explicit = tensorrt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH if version_of(tensorrt)[0] < 10 else None
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = tensorrt.OnnxParser(network, logger)
    if options.half and not weakly_typed:
        graph = with_half(graph)
    if not parser.parse(graph):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise EngineError(f"TensorRT {tensorrt.__version__} cannot parse the graph: {one_line(reasons)}.")
    config = builder.create_builder_config()
    set_profile(builder, network, config, options)
    set_limits(tensorrt, builder, config, options)
    if weakly_typed:
        allow_small_types(tensorrt, network, config, half=options.half)
    set_timing(config, timing)
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
    timings = config.get_timing_cache()
    return bytes(plan), b"" if timings is None else bytes(timings.serialize())


def start(kind: Any, logger: Any) -> Any:
    """Make the builder or the runtime.

    Raises:
        EngineError: CUDA does not start, which the bindings report as a null pointer.
    """
    try:
        return kind(logger)
    except (TypeError, RuntimeError) as error:
        reason = one_line("; ".join(logger.errors[-2:]) or str(error))
        raise EngineError(
            f"TensorRT does not start: {reason}. Compare the driver with what it needs: nvidia-smi"
        ) from error


def with_half(graph: bytes) -> bytes:
    """Write FP16 into a graph.

    Raises:
        EngineError: The package that this takes is absent.
    """
    try:
        return bake_half(graph)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"TensorRT 11 takes FP16 from the graph, and the package {error.name} that writes it there is missing. "
            f"Install it: pip install {error.name}. Or build with --no-half, which is slower."
        ) from error


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


def set_timing(config: Any, timing: bytes) -> None:
    """Let the builder use earlier timings and keep its own; it refuses those of another device, or damaged ones."""
    for content in (timing, b""):
        timings = config.create_timing_cache(content)
        if timings is not None and config.set_timing_cache(timings, ignore_mismatch=False):
            return


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

    A block ends with its last convolution or product, and the sum and activation that are fused with it. Scales and
    other constants are layers of their own in between, as the parser of TensorRT makes them, with what broadcasts them.
    """
    types = tensorrt.LayerType
    heavy = [index for index, kind in enumerate(kinds) if kind in (types.CONVOLUTION, types.MATRIX_MULTIPLY)]
    tail = heavy[-1] + 1 if heavy else 0
    ends = {getattr(types, name) for name in LAST_OF_A_BLOCK}
    for index in range(tail, len(kinds)):
        if kinds[index] in (types.CONSTANT, types.SHUFFLE):
            continue
        operator = names[index].rpartition("/")[2]
        # Powers and clips are layers of these kinds too; they are told apart by the operator in the exporter's names.
        named = kinds[index] not in (types.ACTIVATION, types.ELEMENTWISE) or operator.startswith(("Add", "Relu"))
        if kinds[index] not in ends or not named:
            break
        tail = index + 1
    return tail


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
