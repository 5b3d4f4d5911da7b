"""TensorRT on an NVIDIA GPU or Jetson: engines built where they run.

Buffers are allocated once, for the largest batch; a call copies in, computes and copies out on a stream of its own and
waits once, at its end.
"""

# N = images in a batch, D = embedding

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from reidge.edge.cuda import Stream, TwinArray, open_cuda
from reidge.edge.engine import obtain_engine
from reidge.edge.engine_builder import EngineError, load_tensorrt, make_logger, one_line, start
from reidge.edge.engine_cache import EngineCache, EngineOptions, say

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import DTypeLike, NDArray

DTYPES: dict[str, DTypeLike] = {
    "BOOL": np.bool_,
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT32": np.int32,
    "INT64": np.int64,
    "INT8": np.int8,
    "UINT8": np.uint8,
}
"""By TensorRT's names; its own `nptype` fails on TensorRT 8 beside a numpy that has no `np.bool`."""


class Runner:
    """One graph as an engine on the GPU.

    The engine comes from the cache of this machine; where it is missing it is built first, which takes minutes.

    Args:
        path: The ONNX file.
        threads: Of no meaning on a GPU.
        options: How the engine is built; None takes those last chosen for this graph by `reidge engine`.
        cache: Where engines are kept; None takes the user's.

    Raises:
        EngineError: TensorRT is missing, or cannot build or load the engine.
        CudaError: There is no GPU, or too little memory on it.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None,
        options: EngineOptions | None = None,
        cache: EngineCache | None = None,
    ) -> None:
        cache = cache or EngineCache()
        self._stack = ExitStack()
        try:
            self.engine = obtain_engine(path, cache, options)
            loaded = load_plan(self.engine.plan, self.engine.key.options)
            if loaded is None:
                say(f"the engine {self.engine.path} does not load on this driver. Building it anew.")
                self.engine = obtain_engine(path, cache, self.engine.key.options, rebuild=True)
                loaded = load_plan(self.engine.plan, self.engine.key.options)
            if loaded is None:
                raise EngineError(f"TensorRT cannot load the engine it built of {path}. Check the driver: nvidia-smi")
            self._loaded: LoadedPlan | None = loaded
            self._allocate(loaded)
        except BaseException:
            self.close()
            raise

    def _allocate(self, loaded: LoadedPlan) -> None:
        stream = self._stack.enter_context(Stream(open_cuda()))
        context = loaded.context
        self._stream = stream
        self._input, self._outputs, self._fixed = loaded.input, loaded.outputs, loaded.fixed_batch
        context.set_input_shape(loaded.input, loaded.largest)
        self._smallest, self._largest = loaded.smallest[0], loaded.largest[0]
        self._arrays: dict[str, TwinArray] = {}
        for name in (loaded.input, *loaded.outputs):
            shape = loaded.largest if name == loaded.input else tuple(context.get_tensor_shape(name))
            if -1 in shape:
                raise EngineError(f"the size of {name} is known only when it is computed. Export the graph without it.")
            array = self._stack.enter_context(TwinArray(stream, shape, loaded.dtypes[name]))
            self._arrays[name] = array
            if not context.set_tensor_address(name, array.address):
                raise EngineError(f"TensorRT takes no buffer for {name}: {one_line(loaded.last_error)}.")

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the first output of a batch of any size."""
        return np.asarray(self.run_all(crops_NHW3)[0], dtype=np.float32)

    def run_all(self, images_NHW3: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        """Compute all outputs of a batch of any size, in the order of the graph.

        Raises:
            EngineError: TensorRT refuses the batch.
            CudaError: The GPU failed.
        """
        assert self._loaded is not None, "a Runner works only until it is closed"
        parts = [
            self._run_batch(self._loaded, images_NHW3[start : start + self._largest])
            for start in range(0, len(images_NHW3), self._largest)
        ]
        if not parts:
            return tuple(self._arrays[name].host[:0].copy() for name in self._outputs)
        return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))

    def _run_batch(self, loaded: LoadedPlan, images_NHW3: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        source = self._arrays[self._input]
        count = len(images_NHW3)
        rows = max(count, self._smallest)  # an engine of one batch size computes what is left over too
        source.host[:count] = images_NHW3
        source.upload(rows)
        shape = rows, *loaded.largest[1:]
        if not self._fixed and not loaded.context.set_input_shape(self._input, shape):
            raise EngineError(f"the engine takes no batch of shape {shape}: {one_line(loaded.last_error)}.")
        if not loaded.context.execute_async_v3(self._stream.handle):
            raise EngineError(f"TensorRT could not compute: {one_line(loaded.last_error)}.")
        for name in self._outputs:
            self._arrays[name].download(rows)
        self._stream.synchronize()
        return tuple(self._arrays[name].host[:count].copy() for name in self._outputs)

    def close(self) -> None:
        """Free the engine and its buffers; a second call does nothing."""
        self._loaded = None
        self._stack.close()


class LoadedPlan:
    """An engine that TensorRT has loaded, and what it says of its input and outputs."""

    def __init__(self, tensorrt: Any, runtime: Any, engine: Any, logger: Any) -> None:
        self._logger, self._runtime, self._engine = logger, runtime, engine  # the context computes with them
        self.context = engine.create_execution_context()
        if self.context is None:
            raise EngineError(f"TensorRT cannot prepare the engine: {one_line(self.last_error)}. Free GPU memory.")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT]
        if len(inputs) != 1:
            raise EngineError(f"the engine has {len(inputs)} inputs, one is expected. Export the graph again.")
        (self.input,) = inputs
        self.outputs = [name for name in names if name != self.input]
        self.dtypes = {name: DTYPES[engine.get_tensor_dtype(name).name] for name in names}
        shape = tuple(engine.get_tensor_shape(self.input))
        self.fixed_batch = shape[0] != -1
        shapes = [shape] * 3 if self.fixed_batch else engine.get_tensor_profile_shape(self.input, 0)
        self.smallest, self.largest = tuple(shapes[0]), tuple(shapes[2])

    @property
    def last_error(self) -> str:
        """What TensorRT said last."""
        return self._logger.errors[-1] if self._logger.errors else ""


def load_plan(plan: bytes, options: EngineOptions) -> LoadedPlan | None:
    """Load an engine; None where TensorRT refuses it."""
    tensorrt = load_tensorrt()
    logger = make_logger(tensorrt)
    tensorrt.init_libnvinfer_plugins(logger, "")
    runtime = start(tensorrt.Runtime, logger)
    if options.dla_core is not None:
        runtime.DLA_core = options.dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    return None if engine is None else LoadedPlan(tensorrt, runtime, engine, logger)
