"""Encoders of a bundle, each runtime behind the same face.

| backend | runs on | graph it is for |
|---|---|---|
| `tensorrt` | NVIDIA GPUs and Jetsons, by an engine built on the device | INT8, float (in FP16) |
| `onnxruntime-tensorrt` | the same, by the engine that ONNX Runtime builds | INT8, float (in FP32) |
| `onnxruntime-cuda` | NVIDIA GPUs | float |
| `openvino` | Intel and ARM processors | INT8, float |
| `onnxruntime` | any processor | float |

ONNX Runtime by itself fuses no explicit Q/DQ form: its INT8 works, and is slower than its float.
"""

# N = crops, H, W = input height and width, D = embedding

from __future__ import annotations

import importlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np

from reidge.edge.backends.choice import Choice, recall
from reidge.edge.backends.guard import GuardedRunner
from reidge.edge.backends.presence import BACKENDS, GPU_BACKENDS, REMEDY, Backend, absence
from reidge.edge.bundle import Bundle, BundleError, Precision
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

__all__ = [
    "BACKENDS",
    "GPU_BACKENDS",
    "MAX_BATCH",
    "PRECISIONS",
    "Backend",
    "EdgeEncoder",
    "GoldenMismatch",
    "GoldenParity",
    "Runner",
    "installed_backends",
    "load_runner",
    "open_encoder",
]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
RUNNERS: dict[Backend, tuple[str, str]] = {
    "tensorrt": ("tensorrt", "Runner"),
    "onnxruntime-cuda": ("onnxruntime", "CudaRunner"),
    "onnxruntime-tensorrt": ("onnxruntime", "TensorrtRunner"),
    "openvino": ("openvino", "Runner"),
    "onnxruntime": ("onnxruntime", "Runner"),
}
"""Module of this package and class in it."""
INT8_PAYS: tuple[Backend, ...] = ("tensorrt", "onnxruntime-tensorrt", "openvino")
"""Where INT8 is faster than float."""
MAX_BATCH = 64
"""Crops in one inference; more are split, so that a burst does not grow memory for good."""


class Runner(Protocol):
    """One graph in one runtime; the classes of `RUNNERS` are made by `(path, *, threads)`."""

    def run(self, crops_NHW3: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed one batch."""

    def close(self) -> None:
        """Free the graph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenParity:
    """How near a device comes to the golden embeddings, which are the trained encoder's."""

    crops: int
    cosine_mean: float
    cosine_min: float
    """Of the worst crop; the check holds this one against the manifest's `golden_min_cosine`."""


class GoldenMismatch(ReidgeError):
    """The device does not reproduce the bundle's golden embeddings."""


class EdgeEncoder:
    """A bundle's encoder on one backend; use it in a `with`.

    Entering it loads the graph and checks it against the golden crops, so that a wrong runtime is found before
    the first person is seen.

    Args:
        bundle: Where the graph and the golden crops are.
        backend: The runtime.
        precision: The graph.
        threads: Processor threads; None leaves the choice to the runtime.
        others: What to take, in this order and with a line on stderr, where the runtime itself does not start.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        backend: Backend,
        precision: Precision,
        threads: int | None,
        others: Iterable[Choice] = (),
    ) -> None:
        self.bundle = bundle
        self.backend = backend
        self.precision = precision
        self.threads = threads
        self._others = list(others)
        self.golden: GoldenParity | None = None
        """What came of the golden check; None before it."""
        self._runner: Runner | None = None

    def __enter__(self) -> EdgeEncoder:
        self._runner = self._load()
        try:
            self.golden = self._check_golden()
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

    def _load(self) -> Runner:
        try:
            return load_runner(self.bundle.onnx_path(self.precision), self.backend, threads=self.threads)
        except InputError:  # the bundle's fault, so the other runtimes would refuse it too
            raise
        except ReidgeError as error:
            if not self._others:
                raise
            left = self.backend
            following = self._others.pop(0)
            self.backend, self.precision = following.backend, following.precision
            log.warning("%s does not start: %s Taking %s instead.", left, error, self.backend)
            return self._load()

    def _check_golden(self) -> GoldenParity:
        golden = self.bundle.golden
        assert self._runner is not None
        found_ND = self._runner.run(golden.crops_NHW3)
        where = f"{self.bundle.onnx_path(self.precision)} on {self.backend}"
        if found_ND.shape != golden.embeddings_ND.shape:
            raise BundleError(
                f"{where} gives embeddings of shape {found_ND.shape}, the golden file has "
                f"{golden.embeddings_ND.shape}. Export the bundle again."
            )
        cosines_N = np.einsum("nd,nd->n", found_ND, golden.embeddings_ND)
        worst = float(cosines_N.min())
        least = self.bundle.manifest.golden_min_cosine.get(self.precision, 1.0)
        if not worst >= least:  # also true for NaN
            raise GoldenMismatch(
                f"{where} does not reproduce the golden embeddings: worst cosine {worst:.4f}, at least {least:.4f} "
                "is needed. Use another backend or precision, or update the runtime."
            )
        return GoldenParity(crops=len(cosines_N), cosine_mean=float(cosines_N.mean()), cosine_min=worst)


def open_encoder(
    bundle: Bundle,
    backend: Backend | Literal["auto"] = "auto",
    precision: Precision | Literal["auto"] = "auto",
    threads: int | None = None,
) -> EdgeEncoder:
    """Choose a backend and precision for this machine.

    Args:
        bundle: A loaded bundle.
        backend: `"auto"` takes what `reidge bench --choose` found fastest here for this bundle, else the first of
            `installed_backends()`, and the next one where the runtime itself does not start.
        precision: `"auto"` takes INT8 where it is faster (see `INT8_PAYS`) and the bundle has it, else float.
        threads: Processor threads of the runtime; None leaves the choice to it.

    Returns:
        A context manager; entering it loads the graph and runs the golden check.

    Raises:
        InputError: The backend or precision is unknown, not installed, or not in the bundle.
    """
    if backend not in ("auto", *BACKENDS):
        raise InputError(f"unknown backend {backend!r}. Choose one of: auto, {', '.join(BACKENDS)}.")
    if precision not in ("auto", *PRECISIONS):
        raise InputError(f"unknown precision {precision!r}. Choose one of: auto, {', '.join(PRECISIONS)}.")
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}.")
    if precision != "auto":
        bundle.onnx_path(precision)  # refuses a precision the bundle lacks
    first, *others = candidates(bundle, backend, precision)
    return EdgeEncoder(bundle, backend=first.backend, precision=first.precision, threads=threads, others=others)


def candidates(
    bundle: Bundle, backend: Backend | Literal["auto"], precision: Precision | Literal["auto"]
) -> list[Choice]:
    """What to try, in this order.

    Raises:
        InputError: There is none.
    """
    if backend != "auto":
        reason = absence(backend)
        if reason is not None:
            raise InputError(f"the backend {backend} cannot be used here: {reason}")
    installed = installed_backends() if backend == "auto" else (backend,)
    if not installed:
        raise InputError(f"no encoder backend is installed here. {REMEDY}")
    usual = [
        Choice(backend=name, precision=best_precision(bundle, name) if precision == "auto" else precision)
        for name in installed
    ]
    measured = recall(bundle) if backend == "auto" else None
    if measured is None or measured.backend not in installed or precision not in ("auto", measured.precision):
        return usual
    return [measured, *(choice for choice in usual if choice.backend != measured.backend)]


def best_precision(bundle: Bundle, backend: Backend) -> Precision:
    """The faster graph of a bundle on a backend."""
    return "int8" if backend in INT8_PAYS and "int8" in bundle.manifest.precisions else "float"


def installed_backends(*, gpu: bool = True) -> tuple[Backend, ...]:
    """Backends whose runtime and device are here, the preferred one first; nothing is imported to find out.

    Args:
        gpu: Whether to name those of NVIDIA GPUs; an export judges its graphs by the processor's.
    """
    return tuple(name for name in BACKENDS if (gpu or name not in GPU_BACKENDS) and absence(name) is None)


def load_runner(path: Path, backend: Backend, *, threads: int | None = None) -> Runner:
    """Load a graph into a runtime, without any check of what it computes but how many rows.

    Raises:
        BundleError: The runtime cannot read the file.
        ReidgeError: The runtime itself does not start.
    """
    module, name = RUNNERS[backend]
    try:
        runner = getattr(importlib.import_module(f"reidge.edge.backends.{module}"), name)
    except ImportError as error:  # installed, but for another system, or with a library of its own missing
        reason = " ".join(str(error).split())
        raise ReidgeError(f"the Python package of {backend} does not load ({reason}). See: reidge doctor.") from error
    return GuardedRunner(runner(path, threads=threads), name=f"{path.name} on {backend}")
