"""Encoders of a bundle, each runtime behind the same face.

`openvino` runs both graphs on Intel and ARM processors; `onnxruntime` runs the float graph anywhere (it does not fuse
the explicit Q/DQ form, so its INT8 is slower than its float).
"""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Literal, Protocol, cast, get_args

import numpy as np

from reidge.edge.bundle import Bundle, BundleError, Precision
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

Backend = Literal["openvino", "onnxruntime"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
MAX_BATCH = 64
"""Crops in one inference; more are split, so that a burst does not grow memory for good."""


class Runner(Protocol):
    """One graph in one runtime; each module of this package has a class `Runner` of this form."""

    def __init__(self, path: Path, *, threads: int | None) -> None: ...

    def run(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one batch."""

    def close(self) -> None:
        """Free the graph."""


class GoldenMismatch(ReidgeError):
    """The device does not reproduce the bundle's golden embeddings."""


class EdgeEncoder:
    """A bundle's encoder on one backend; use it in a `with`.

    Entering it loads the graph and checks it against the golden crops, so that a wrong runtime is found before
    the first person is seen.
    """

    def __init__(self, bundle: Bundle, *, backend: Backend, precision: Precision, threads: int | None) -> None:
        self.bundle = bundle
        self.backend = backend
        self.precision = precision
        self.threads = threads
        self._runner: Runner | None = None

    def __enter__(self) -> EdgeEncoder:
        self._runner = load_runner(self.bundle.onnx_path(self.precision), self.backend, threads=self.threads)
        try:
            self._check_golden()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the graph; a second call does nothing."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def embed(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed crops that already have the bundle's input size.

        Args:
            crops_NHW3: `(N, H, W, 3)` uint8 BGR; see `reidge.edge.crops.resize_crops`.

        Returns:
            `(N, D)` float32, unit length; `(0, D)` for no crops.

        Raises:
            ValueError: Shape or type is another.
        """
        assert self._runner is not None, "an EdgeEncoder works only inside its `with`"
        expected = (*self.bundle.manifest.input.size, 3)
        if crops_NHW3.dtype != np.uint8 or crops_NHW3.ndim != 4 or crops_NHW3.shape[1:] != expected:
            raise ValueError(
                f"crops must be uint8 (N, {', '.join(map(str, expected))}), got {crops_NHW3.dtype} {crops_NHW3.shape}. "
                "Resize them with reidge.edge.crops.resize_crops."
            )
        embeddings_ND = np.empty((len(crops_NHW3), self.bundle.manifest.embedding_dim), dtype=np.float32)
        for start in range(0, len(crops_NHW3), MAX_BATCH):
            batch = slice(start, start + MAX_BATCH)
            embeddings_ND[batch] = self._runner.run(np.ascontiguousarray(crops_NHW3[batch]))
        return embeddings_ND

    def _check_golden(self) -> None:
        golden = self.bundle.golden
        assert self._runner is not None
        found_ND = self._runner.run(golden.crops_NHW3)
        where = f"{self.bundle.onnx_path(self.precision)} on {self.backend}"
        if found_ND.shape != golden.embeddings_ND.shape:
            raise BundleError(
                f"{where} gives embeddings of shape {found_ND.shape}, the golden file has "
                f"{golden.embeddings_ND.shape}. Export the bundle again."
            )
        worst = float(np.einsum("nd,nd->n", found_ND, golden.embeddings_ND).min())
        least = self.bundle.manifest.golden_min_cosine.get(self.precision, 1.0)
        if not worst >= least:  # also true for NaN
            raise GoldenMismatch(
                f"{where} does not reproduce the golden embeddings: worst cosine {worst:.4f}, at least {least:.4f} "
                "is needed. Use another backend or precision, or update the runtime."
            )


def open_encoder(
    bundle: Bundle,
    backend: Backend | Literal["auto"] = "auto",
    precision: Precision | Literal["auto"] = "auto",
    threads: int | None = None,
) -> EdgeEncoder:
    """Choose a backend and precision for this machine.

    Args:
        bundle: A loaded bundle.
        backend: `"auto"` takes OpenVINO where it is installed, else ONNX Runtime.
        precision: `"auto"` takes INT8 on OpenVINO where the bundle has it, else float.
        threads: Processor threads of the runtime; None leaves the choice to it.

    Returns:
        A context manager; entering it loads the graph and runs the golden check.

    Raises:
        InputError: The backend or precision is unknown, not installed, or not in the bundle.
    """
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"unknown backend {backend!r}. Choose one of: auto, {', '.join(BACKENDS)}.")
    if precision not in ("auto", *get_args(Precision)):
        raise InputError(f"unknown precision {precision!r}. Choose one of: auto, {', '.join(get_args(Precision))}.")
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}.")
    installed = installed_backends()
    if not installed or (backend != "auto" and backend not in installed):
        wanted = "no encoder backend" if backend == "auto" else f"the backend {backend}"
        raise InputError(f"{wanted} is installed here. Install one with: pip install 'reidge[cpu]'")
    chosen = installed[0] if backend == "auto" else backend
    if precision == "auto":
        precision = "int8" if chosen == "openvino" and "int8" in bundle.manifest.precisions else "float"
    bundle.onnx_path(precision)  # refuses a precision the bundle lacks
    return EdgeEncoder(bundle, backend=chosen, precision=precision, threads=threads)


def installed_backends() -> tuple[Backend, ...]:
    """Backends whose runtime can be imported here, the preferred one first."""
    return tuple(name for name in BACKENDS if importlib.util.find_spec(name) is not None)


def load_runner(path: Path, backend: Backend, *, threads: int | None = None) -> Runner:
    """Load a graph into a runtime, without any check of what it computes.

    Raises:
        BundleError: The runtime cannot read the file.
    """
    module = importlib.import_module(f"reidge.edge.backends.{backend}")
    return cast("Runner", module.Runner(path, threads=threads))
