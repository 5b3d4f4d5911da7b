"""Modules in the place of `tensorrt`, one per release, which offer exactly the names that the release's bindings offer.

The names come from tests/data/tensorrt_api: those of 10.3 to 11.4 were read from the real bindings, those of 8.6 are
10.3's without what came later. Whatever else is asked for is an AttributeError, as it would be on the device. An
"engine" holds its graph, which ONNX Runtime computes on the memory of the fake CUDA runtime, so that all that lies
between a crop and its embedding is real but the arithmetic of the GPU.
"""

from __future__ import annotations

import ctypes
import enum
import json
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime

API = Path(__file__).parents[1] / "data" / "tensorrt_api"
VERSIONS = ("8.6", "10.3", "10.13", "10.16", "11.4")
LAYERS = {
    "Add": "ELEMENTWISE",
    "Cast": "CAST",
    "Clip": "ACTIVATION",
    "Concat": "CONCATENATION",
    "Conv": "CONVOLUTION",
    "DequantizeLinear": "DEQUANTIZE",
    "Div": "ELEMENTWISE",
    "GlobalAveragePool": "REDUCE",
    "MatMul": "MATRIX_MULTIPLY",
    "MaxPool": "POOLING",
    "Mul": "ELEMENTWISE",
    "Pow": "ELEMENTWISE",
    "QuantizeLinear": "QUANTIZE",
    "ReduceSum": "REDUCE",
    "Relu": "ACTIVATION",
    "Softmax": "SOFTMAX",
    "Sqrt": "UNARY",
    "Sub": "ELEMENTWISE",
}
NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}
ELEMENTS: dict[int, str] = {
    onnx.TensorProto.FLOAT: "FLOAT",
    onnx.TensorProto.UINT8: "UINT8",
    onnx.TensorProto.INT8: "INT8",
}


class Surface:
    """An object of the bindings: public names that its class lacks in this release do not exist."""

    _module: FakeTensorRT
    _names: frozenset[str]

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            object.__getattribute__(self, "_require")(name)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            self._require(name)
        object.__setattr__(self, name, value)

    def _require(self, name: str) -> None:
        derived = "_names" not in type(self).__dict__  # code that derives from ILogger has attributes of its own
        if name not in self._names and not derived:
            raise AttributeError(f"TensorRT {self._module.__version__} has no {type(self).__name__}.{name}")


class HostMemory(bytes):
    """Memory of the builder; only a buffer."""


class ILogger(Surface):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        self._ready = True


class IProgressMonitor(Surface):
    def __init__(self) -> None:
        self._ready = True


class ITensor(Surface):
    def __init__(self, name: str, dtype: Any, shape: tuple[int, ...] = ()) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape


class ILayer(Surface):
    def __init__(self, node: onnx.NodeProto, kinds: dict[str, int]) -> None:
        self.name, self.num_outputs = node.name, len(node.output)
        self.type = self._module.LayerType[LAYERS.get(node.op_type, "SHUFFLE")]
        types = [ELEMENTS.get(kinds.get(name, 0), "INT32") for name in node.output]
        self._tensors = [
            self._module.ITensor(name, self._module.DataType[kind])
            for name, kind in zip(node.output, types, strict=True)
        ]

    def get_output(self, index: int) -> Any:
        return self._tensors[index]

    def set_output_type(self, index: int, dtype: Any) -> None:
        self._module.note("ILayer.set_output_type", self.name, index, dtype.name)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "precision":
            self._module.pinned.append(self.name)


class INetworkDefinition(Surface):
    def __init__(self) -> None:
        self._model: onnx.ModelProto | None = None

    def _fill(self, model: onnx.ModelProto) -> None:
        self._model = model
        inferred = onnx.shape_inference.infer_shapes(model).graph
        kinds = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
        self._layers = [self._module.ILayer(node, kinds) for node in model.graph.node]
        source = model.graph.input[0]
        shape = tuple(dim.dim_value or -1 for dim in source.type.tensor_type.shape.dim)
        self._inputs = [self._module.ITensor(source.name, self._module.DataType.UINT8, shape)]
        self.num_inputs = 1
        self.num_layers = len(self._layers)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_layer(self, index: int) -> Any:
        return self._layers[index]


class ParserError(Surface):
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class OnnxParser(Surface):
    def __init__(self, network: INetworkDefinition, logger: Any) -> None:
        assert isinstance(logger, self._module.ILogger)
        assert logger._ready
        self._network = network
        self._errors: list[str] = []

    def parse(self, data: bytes) -> bool:
        self._module.note("OnnxParser.parse")
        try:
            model = onnx.load_model_from_string(data)
            onnx.checker.check_model(model, full_check=True)
        except Exception as error:
            self._errors.append(f"In node 0:\nINVALID_GRAPH: {error}")
            self.num_errors = 1
            return False
        self._module.parsed = model
        self._network._fill(model)
        return True

    def get_error(self, index: int) -> Any:
        return self._module.ParserError(self._errors[index])


class IOptimizationProfile(Surface):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, name: str, *shapes: tuple[int, ...]) -> None:
        self._shapes[name] = shapes


class ITimingCache(Surface):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> HostMemory:
        return HostMemory(self._data)


class IBuilderConfig(Surface):
    def __init__(self) -> None:
        self._profile: dict[str, tuple[tuple[int, ...], ...]] = {}
        self._flags: set[str] = set()
        self._timing: ITimingCache | None = None

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profile = profile._shapes
        self._module.note("IBuilderConfig.add_optimization_profile", profile._shapes)
        return 0

    def set_flag(self, flag: Any) -> None:
        assert flag in self._module.BuilderFlag
        self._flags.add(flag.name)
        self._module.note("IBuilderConfig.set_flag", flag.name)

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self._module.note("IBuilderConfig.set_memory_pool_limit", pool.name, size)

    def create_timing_cache(self, data: bytes) -> Any:
        return self._module.ITimingCache(data)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._module.note("IBuilderConfig.set_timing_cache", cache._data, ignore_mismatch)
        if cache._data in self._module.refused_timings:
            return False
        self._timing = cache
        return True

    def get_timing_cache(self) -> Any:
        if self._timing is not None:
            self._timing._data += b"+timed"
        return self._timing


class Builder(Surface):
    def __init__(self, logger: Any) -> None:
        if self._module.starts_not is not None:
            logger.log(self._module.ILogger.ERROR, self._module.starts_not)
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger = logger
        self.num_DLA_cores = self._module.dla_cores

    def create_network(self, flags: int) -> Any:
        self._module.note("Builder.create_network", flags)
        return self._module.INetworkDefinition()

    def create_builder_config(self) -> Any:
        return self._module.IBuilderConfig()

    def create_optimization_profile(self) -> Any:
        return self._module.IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> HostMemory | None:
        self._module.note("Builder.build_serialized_network")
        self._module.builds += 1
        if self._module.before_build is not None:
            self._module.before_build()
        monitor = getattr(config, "progress_monitor", None) if "progress_monitor" in config._names else None
        if monitor is not None:
            monitor.phase_start("Building", None, 2)
            steps = [monitor.step_complete("Building", step) for step in range(2)]
            monitor.phase_finish("Building")
            if not all(steps):
                return None
        if self._module.refuses is not None:
            self._logger.log(self._module.ILogger.ERROR, self._module.refuses)
            return None
        assert network._model is not None
        header = json.dumps({"version": self._module.__version__, "profile": config._profile}).encode()
        return HostMemory(len(header).to_bytes(4, "little") + header + network._model.SerializeToString())


class IExecutionContext(Surface):
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._batch = engine, 0
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, 0)
        if not all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)):
            return False
        self._batch = shape[0]
        self._module.note("IExecutionContext.set_input_shape", shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._batch, *self._engine.get_tensor_shape(name)[1:])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cudart = self._module.cudart
        assert cudart.cudaStreamSynchronize(ctypes.c_void_p(stream)) == 0  # the copies queued before this
        engine = self._engine
        arrays = {name: self._on_device(name) for name in self._addresses}
        source = engine._session.get_inputs()[0].name
        found = engine._session.run(None, {source: arrays[source]})
        for output, value in zip(engine._session.get_outputs(), found, strict=True):
            arrays[output.name][:] = value
        return True

    def _on_device(self, name: str) -> Any:
        shape = self.get_tensor_shape(name)
        dtype = NUMPY[self._engine.get_tensor_dtype(name).name]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert self._module.cudart.fake_on_device(ctypes.c_void_p(self._addresses[name]), ctypes.c_size_t(size))
        block = (ctypes.c_ubyte * size).from_address(self._addresses[name])
        return np.frombuffer(memoryview(block), dtype=dtype).reshape(shape)


class ICudaEngine(Surface):
    def __init__(self, graph: bytes, profile: dict[str, Any]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._tensors = {value.name: value for value in (*self._session.get_inputs(), *self._session.get_outputs())}
        self._profile = profile
        self.num_io_tensors = len(self._tensors)

    def create_execution_context(self) -> Any:
        return self._module.IExecutionContext(self)

    def get_tensor_name(self, index: int) -> str:
        return [str(name) for name in self._tensors][index]

    def get_tensor_mode(self, name: str) -> Any:
        is_input = name == self._session.get_inputs()[0].name
        return self._module.TensorIOMode.INPUT if is_input else self._module.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kind = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT"}[self._tensors[name].type]
        return self._module.DataType[kind]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._tensors[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        fixed = self.get_tensor_shape(name)
        return [tuple(shape) for shape in self._profile.get(name, [fixed] * 3)]


class Runtime(Surface):
    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        self._module.note("Runtime.deserialize_cuda_engine")
        length = int.from_bytes(plan[:4], "little")
        header = json.loads(plan[4 : 4 + length])
        if header["version"] != self._module.__version__ or self._module.unloadable:
            self._module.unloadable = False
            self._logger.log(self._module.ILogger.ERROR, "the plan is of another version")
            return None
        return self._module.ICudaEngine(plan[4 + length :], header["profile"])


BEHAVIOUR: dict[str, type] = {
    kind.__name__: kind
    for kind in (
        *(ILogger, IProgressMonitor, ITensor, ILayer, INetworkDefinition, ParserError, OnnxParser, ITimingCache),
        *(IOptimizationProfile, IBuilderConfig, Builder, IExecutionContext, ICudaEngine, Runtime),
    )
}


class FakeTensorRT(ModuleType):
    """One release's module.

    Args:
        version: Of `VERSIONS`.
        cudart: The fake CUDA runtime that its engines compute on.
    """

    def __init__(self, version: str, cudart: Any) -> None:
        super().__init__("tensorrt")
        self.__spec__ = ModuleSpec("tensorrt", None)  # by which others see that it is installed
        api = json.loads((API / f"{version}.json").read_text())
        self.__version__ = api["version"]
        self.cudart = cudart
        self.calls: list[tuple[Any, ...]] = []
        self.pinned: list[str] = []
        """Layers that were told to stay in float32."""
        self.parsed: onnx.ModelProto | None = None
        self.builds = 0
        self.before_build: Any = None
        self.refuses: str | None = None
        """What the builder says instead of building."""
        self.starts_not: str | None = None
        """What it says of CUDA instead of starting."""
        self.unloadable = False
        """Whether the next engine does not load."""
        self.dla_cores = 0
        self.refused_timings: list[bytes] = []
        for name in api["module"]:
            if name in api["enums"]:
                members = {member: number for number, member in enumerate(api["enums"][name])}
                setattr(self, name, enum.IntEnum(name, members))
            elif name in BEHAVIOUR:
                names = frozenset(api["classes"][name])
                setattr(self, name, type(name, (BEHAVIOUR[name],), {"_module": self, "_names": names}))
        for name, kind in (("float32", "FLOAT"), ("uint8", "UINT8")):
            setattr(self, name, self.DataType[kind])

    def note(self, call: str, *arguments: Any) -> None:
        """Record a call."""
        self.calls.append((call, *arguments))

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        return True

    def of(self, call: str) -> list[tuple[Any, ...]]:
        """Arguments of the recorded calls of one kind."""
        return [arguments for name, *arguments in self.calls if name == call]  # type: ignore[misc]
