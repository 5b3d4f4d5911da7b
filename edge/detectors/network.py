"""An ONNX network of any inputs and outputs on a processor: OpenVINO where it is installed, else ONNX Runtime."""

# S = requests that run at the same time

from __future__ import annotations

import importlib.util
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from reidge.edge.backends.presence import REMEDY
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

LOG_ERRORS = 3
"""Of ONNX Runtime's severities; its warnings are about its own optimiser."""
Feed = dict[str, "NDArray[Any]"]
Found = dict[str, "NDArray[Any]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input of a network."""

    name: str
    shape: tuple[int | None, ...]
    """None where the size may vary."""
    dtype: str
    """As numpy calls it."""


class Network(Protocol):
    """A loaded graph."""

    inputs: tuple[Port, ...]

    def run(self, feeds: Sequence[Feed]) -> list[Found]:
        """Run once for each feed, several at the same time where that is faster; outputs by name, in their order."""

    def close(self) -> None:
        """Free the graph."""


class OpenvinoNetwork:
    """A graph in OpenVINO, a request for each of its streams.

    Not by its AsyncInferQueue: after a request that failed, that one fails at every later wait, and taking it down
    while a callback returns has aborted the process.
    """

    def __init__(self, path: Path, *, threads: int | None, at_once: int) -> None:
        import openvino

        streams = streams_for(threads, at_once)
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"} if streams == 1 else {"NUM_STREAMS": streams}
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        self.inputs = tuple(
            Port(
                name=port.get_any_name(),
                shape=tuple(side.get_length() if side.is_static else None for side in port.partial_shape),
                dtype=np.dtype(port.element_type.to_dtype()).name,
            )
            for port in compiled.inputs
        )
        self._names = [port.get_any_name() for port in compiled.outputs]
        self._requests: list[Any] = [compiled.create_infer_request() for _ in range(streams)]

    def run(self, feeds: Sequence[Feed]) -> list[Found]:
        """Hand the feeds out in turn; each request is waited for before it gets its next one."""
        found: list[Found] = []
        requests = [self._requests[number % len(self._requests)] for number in range(len(feeds))]
        waiting: deque[Any] = deque()
        try:
            for request, feed in zip(requests, feeds, strict=True):
                if len(waiting) == len(self._requests):
                    found.append(self._take(waiting.popleft()))
                request.start_async(feed, share_inputs=True)
                waiting.append(request)
            while waiting:
                found.append(self._take(waiting.popleft()))
        finally:
            for request in waiting:  # after a failure: their memory goes, so they must be done with it
                with suppress(Exception):
                    request.wait()
        return found

    def close(self) -> None:
        """Free the graph."""
        self._requests = []

    def _take(self, request: Any) -> Found:
        """Wait for a request and copy what it found: its next feed overwrites that."""
        request.wait()
        return {name: np.array(request.get_output_tensor(index).data) for index, name in enumerate(self._names)}


class OnnxruntimeNetwork:
    """A graph in ONNX Runtime, one session that several threads call."""

    def __init__(self, path: Path, *, threads: int | None, at_once: int) -> None:
        import onnxruntime

        streams = streams_for(threads, at_once)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = LOG_ERRORS
        options.intra_op_num_threads = threads or 0
        if streams > 1:
            options.intra_op_num_threads = max(1, processors(threads) // streams)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(
            Port(
                name=port.name,
                shape=tuple(side if isinstance(side, int) else None for side in port.shape),
                dtype=_ONNXRUNTIME_TYPES.get(port.type, port.type),
            )
            for port in session.get_inputs()
        )
        self._names = [port.name for port in session.get_outputs()]
        self._session: Any = session
        self._pool = ThreadPoolExecutor(streams, thread_name_prefix="detect") if streams > 1 else None

    def run(self, feeds: Sequence[Feed]) -> list[Found]:
        """Run the feeds on the threads of the pool, or one after the other."""
        each: Callable[..., Any] = map if self._pool is None or len(feeds) == 1 else self._pool.map
        return list(each(self._run_one, feeds))

    def close(self) -> None:
        """Free the graph."""
        if self._pool is not None:
            self._pool.shutdown()
        self._session = None

    def _run_one(self, feed: Mapping[str, NDArray[Any]]) -> Found:
        return dict(zip(self._names, map(np.asarray, self._session.run(None, feed)), strict=True))


_ONNXRUNTIME_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}
RUNTIMES: dict[str, type[OpenvinoNetwork] | type[OnnxruntimeNetwork]] = {
    "openvino": OpenvinoNetwork,
    "onnxruntime": OnnxruntimeNetwork,
}
"""By the name of the package, the preferred one first."""


def open_network(path: Path, *, what: str, threads: int | None = None, at_once: int = 1) -> Network:
    """Load an ONNX file into the first runtime that is installed.

    Args:
        path: The file.
        what: What it should be, for the error: e.g. "a YOLOX".
        threads: Processor threads; None leaves it to the runtime.
        at_once: Feeds that will come together, at most: the cameras of a site.

    Raises:
        InputError: The file is missing or damaged, or no runtime is installed.
    """
    if not path.is_file():
        state = "is not a file" if path.exists() else "does not exist"
        raise InputError(f"{path} {state}. Give the path of {what} ONNX file.")
    runtime = next((name for name in RUNTIMES if importlib.util.find_spec(name) is not None), None)
    if runtime is None:
        raise InputError(f"no runtime for detectors is installed here. {REMEDY}")
    try:
        return RUNTIMES[runtime](path, threads=threads, at_once=at_once)
    except ImportError:
        raise
    except Exception as error:  # each runtime has its own many kinds
        raise InputError(
            f"{path} is not a readable ONNX file ({path.stat().st_size} bytes). Copy or export it again."
        ) from error


def streams_for(threads: int | None, at_once: int) -> int:
    """Requests that run side by side, with two threads each or more.

    A small network gains little from a second core and nothing from a fourth, so the frames of a moment are done side
    by side; but a moment often has one frame, whose delay more threads do shorten.
    """
    return min(at_once, max(1, processors(threads) // 2))


def processors(threads: int | None) -> int:
    """The threads that were asked for, else the processors that this process may use."""
    return threads or len(os.sched_getaffinity(0))
