"""OpenVINO: the fast one on Intel and ARM processors, for both graphs."""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openvino

from reidge.edge.backends.guard import last_sentence
from reidge.edge.bundle import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class Runner:
    """One graph, compiled for the processor.

    Args:
        path: The ONNX file.
        threads: Processor threads; None lets OpenVINO take all cores.
    """

    def __init__(self, path: Path, *, threads: int | None) -> None:
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = openvino.Core().compile_model(path, "CPU", options)
        except RuntimeError as error:
            raise BundleError(
                f"OpenVINO cannot read {path} ({last_sentence(error)}). Export the bundle again."
            ) from error
        self._request: Any = compiled.create_infer_request()

    def run(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one batch."""
        self._request.infer({0: crops_NHW3}, share_inputs=True)
        return np.array(self._request.get_output_tensor(0).data, dtype=np.float32)  # a copy: the buffer is reused

    def close(self) -> None:
        """Free the graph."""
        self._request = None
