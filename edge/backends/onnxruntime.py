"""ONNX Runtime: the float graph on any processor, and both graphs on GPUs by its CUDA and TensorRT providers.

A provider whose libraries do not load is left out by ONNX Runtime, which goes on many times slower on the processor.
Here that is a failure, so that nobody takes the processor's speed for the GPU's.
"""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnxruntime

from reidge.edge.bundle import BundleError, sha256_file
from reidge.edge.engine_cache import EngineCache, default_folder
from reidge.edge.errors import ReidgeError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LOG_ERRORS = 3
"""Of onnxruntime's severities; its warnings are about its own optimiser."""
FAULTS_OF_FILES = ("NoSuchFile", "InvalidProtobuf", "InvalidGraph")
"""Kinds of ONNX Runtime that a provider cannot cause."""
PROFILE = {"min": 1, "opt": 8, "max": 64}
"""Batches that one engine of the TensorRT provider serves; without them each new batch size builds another."""


class Runner:
    """One graph in a session on the processor.

    Args:
        path: The ONNX file.
        threads: Processor threads; None lets ONNX Runtime take all cores.

    Raises:
        BundleError: ONNX Runtime cannot read the file.
        ReidgeError: The provider does not start here.
    """

    provider: ClassVar[str] = "CPUExecutionProvider"

    def __init__(self, path: Path, *, threads: int | None) -> None:
        self._require_provider()
        session = open_session(path, self.provider, self.provider_options(path), threads=threads)
        started = session.get_providers()
        if self.provider not in started:
            raise ReidgeError(
                f"ONNX Runtime runs on {started[0]} although {self.provider} was asked for: its libraries do not load. "
                "See the lines above and install what they name, or choose another backend."
            )
        self._session: Any = session
        self._input = session.get_inputs()[0].name

    def provider_options(self, path: Path) -> dict[str, str]:
        """What the provider is told."""
        return {}

    def run(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one batch."""
        return np.asarray(self._session.run(None, {self._input: crops_NHW3})[0], dtype=np.float32)

    def close(self) -> None:
        """Free the graph."""
        self._session = None

    def _require_provider(self) -> None:
        known = onnxruntime.get_available_providers()
        if self.provider not in known:
            raise ReidgeError(
                f"this build of ONNX Runtime has no {self.provider}, only {', '.join(known)}. "
                "Install onnxruntime-gpu in its place, or choose another backend."
            )
        if self.provider != Runner.provider and hasattr(onnxruntime, "preload_dlls"):
            with redirect_stdout(sys.stderr):  # it prints what it misses; stdout belongs to --json
                onnxruntime.preload_dlls()  # CUDA and cuDNN where they came with Python packages


class CudaRunner(Runner):
    """One graph in a session on an NVIDIA GPU."""

    provider = "CUDAExecutionProvider"

    def provider_options(self, path: Path) -> dict[str, str]:
        """Choose convolutions by rule: trying them all starts anew, for seconds, with each new batch size."""
        return {"cudnn_conv_algo_search": "HEURISTIC"}


class TensorrtRunner(Runner):
    """One graph as an engine that ONNX Runtime builds by TensorRT, at first use, for minutes."""

    provider = "TensorrtExecutionProvider"

    def provider_options(self, path: Path) -> dict[str, str]:
        """Batches of the engine, INT8 where the graph says so, and a folder for the engine that is the user's alone.

        The provider names engines by the form of a graph, not by its weights, so each file gets a folder of its own.
        What is not INT8 stays in FP32: the provider cannot be told to keep the sums of the last layers out of FP16.
        """
        plain = open_session(path, Runner.provider, {}, threads=1).get_inputs()[0]
        size = "x".join(str(side) for side in plain.shape[1:])
        shapes = {f"trt_profile_{end}_shapes": f"{plain.name}:{batch}x{size}" for end, batch in PROFILE.items()}
        cache = EngineCache(default_folder().parent / "onnxruntime" / sha256_file(path)[:32])
        return shapes | {
            "trt_int8_enable": "1",
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(cache.folder),
        }


def open_session(path: Path, provider: str, provider_options: dict[str, str], *, threads: int | None) -> Any:
    """Read a graph into a session.

    Raises:
        BundleError: ONNX Runtime cannot read the file.
        ReidgeError: The provider finds no device or library.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=[(provider, provider_options)], enable_fallback=0
        )
    except Exception as error:  # these kinds share no public base class
        if provider == Runner.provider or type(error).__name__ in FAULTS_OF_FILES:
            raise BundleError(
                f"ONNX Runtime cannot read {path} ({one_line(error)}). Export the bundle again."
            ) from error
        raise ReidgeError(
            f"ONNX Runtime cannot start {provider} ({one_line(error)}). Update the driver or choose another backend."
        ) from error


def one_line(error: Exception) -> str:
    """The message of an exception without its line breaks."""
    return " ".join(str(error).split())
