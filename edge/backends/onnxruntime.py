"""ONNX Runtime on the processor: the float graph anywhere."""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from reidge.edge.bundle import BundleError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

LOG_ERRORS = 3
"""Of onnxruntime's severities; its warnings are about its own optimiser."""


class Runner:
    """One graph in a session.

    Args:
        path: The ONNX file.
        threads: Processor threads; None lets ONNX Runtime take all cores.
    """

    def __init__(self, path: Path, *, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = LOG_ERRORS
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no public base class
            reason = " ".join(str(error).split())
            raise BundleError(f"ONNX Runtime cannot read {path} ({reason}). Export the bundle again.") from error
        self._input = self._session.get_inputs()[0].name

    def run(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one batch."""
        return np.asarray(self._session.run(None, {self._input: crops_NHW3})[0], dtype=np.float32)

    def close(self) -> None:
        """Free the graph."""
        self._session = None
