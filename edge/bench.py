"""How fast a bundle runs here: each backend, precision and batch, measured through the face that `reidge run` uses."""

# N = crops or frames in a call, H, W = input height and width

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reidge.edge.backends import BACKENDS, MAX_BATCH, PRECISIONS, open_encoder
from reidge.edge.backends.choice import Choice
from reidge.edge.backends.presence import absence
from reidge.edge.bundle import Bundle
from reidge.edge.detectors.bundle import BundleConfig, BundleDetector
from reidge.edge.errors import InputError, ReidgeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from reidge.edge.backends.presence import Backend
    from reidge.edge.bundle import Precision
    from reidge.edge.detector_bundle import DetectorBundle
    from reidge.edge.progress import Progress

WARM_SHARE = 0.2
"""Of the measured time, spent before it: runtimes prepare on the first calls of a batch size, and clocks rise."""
MIN_CALLS = 5
"""Measured, and half as many before, even where they take longer than was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Calls of one batch size on one backend in one precision."""

    backend: Backend
    precision: Precision
    batch: int
    calls: int
    images_per_second: float
    """Over all measured calls."""
    median_ms: float
    """Of one call: crops in, embeddings out; frames in, people out."""
    p95_ms: float
    start_seconds: float
    """From opening the network to its passed golden check; building an engine is within it."""
    golden_cosine_mean: float | None = None
    """Of this backend's embeddings of the golden crops with the trained encoder's; None for a detector."""
    golden_cosine_min: float | None = None
    golden_f1: float | None = None
    """Of the people this backend finds in the golden frames; None for an encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchReport:
    """What was measured, and what was not."""

    speeds: tuple[Speed, ...]
    missing: dict[str, str]
    """Why there are no figures, by backend and precision, e.g. `tensorrt` or `openvino int8`."""

    def fastest(self) -> Choice:
        """The way to run with the highest throughput at any batch size that was measured."""
        best = max(self.speeds, key=lambda speed: speed.images_per_second)
        return Choice(backend=best.backend, precision=best.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A network that passed its golden check, ready to be called."""

    call: Callable[[NDArray[np.uint8]], object]
    pictures_NHW3: NDArray[np.uint8]
    """The golden ones, at the size of the input."""
    max_batch: int
    """Most pictures in one inference; a call with more would be split."""
    golden: Mapping[str, float]
    """What came of the check, by field of `Speed`."""


def bench(
    bundle: Bundle | DetectorBundle,
    *,
    backends: Sequence[Backend] = BACKENDS,
    precisions: Sequence[Precision] = PRECISIONS,
    batches: Sequence[int] = (1, 8, 32),
    seconds: float = 5.0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Measure every combination that works here, one after the other.

    Args:
        bundle: A loaded bundle; its golden crops are what is embedded, its golden frames what people are found in.
        backends: To measure; the ones that are not here are named in the report.
        precisions: Likewise.
        batches: Crops or frames in one call, 1 to `MAX_BATCH` each; those that a detector cannot take are named.
        seconds: Measured for each combination, warm-up not counted.
        threads: Processor threads; None leaves the choice to the runtime.
        progress: Advanced after each measurement.

    Raises:
        InputError: A name is unknown, or a batch, the seconds or the threads are out of range.
        ReidgeError: Nothing at all could be measured.
    """
    require_known(backends, BACKENDS, "backend")
    require_known(precisions, PRECISIONS, "precision")
    if not batches or not all(1 <= batch <= MAX_BATCH for batch in batches):
        raise InputError(f"batches are 1 to {MAX_BATCH}, got {', '.join(map(str, batches)) or 'none'}.")
    if not 0 < seconds < float("inf"):
        raise InputError(f"the seconds to measure must be more than 0, got {seconds}.")
    if threads is not None and threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}.")
    speeds: list[Speed] = []
    missing: dict[str, str] = {}
    for backend in backends:
        reason = absence(backend)
        if reason is not None:
            missing[backend] = reason
            continue
        for precision in precisions:
            try:
                began = time.perf_counter()
                with open_network(bundle, backend, precision, threads) as opened:
                    started = time.perf_counter() - began
                    if too_large := [str(batch) for batch in batches if batch > opened.max_batch]:
                        missing[f"{backend} {precision} batch {', '.join(too_large)}"] = (
                            f"the detector takes {opened.max_batch} at a time here, at most."
                        )
                    for batch in batches:
                        if batch > opened.max_batch:
                            continue
                        speed = measure(opened, backend, precision, batch, seconds=seconds, started=started)
                        speeds.append(speed)
                        if progress is not None:
                            progress.advance(note=f"{backend} {precision}: {speed.images_per_second:.0f} images/s")
            except ReidgeError as error:
                missing[f"{backend} {precision}"] = " ".join(str(error).split())
    if not speeds:
        raise ReidgeError(f"nothing could be measured: {' '.join(f'{k}: {why}' for k, why in missing.items())}")
    return BenchReport(speeds=tuple(speeds), missing=missing)


def require_known(names: Sequence[str], known: Sequence[str], what: str) -> None:
    """Refuse a name that is none of those known.

    Raises:
        InputError: There is one.
    """
    for name in names:
        if name not in known:
            raise InputError(f"the {what} {name!r} is unknown. Choose of {', '.join(known)}.")


@contextmanager
def open_network(
    bundle: Bundle | DetectorBundle, backend: Backend, precision: Precision, threads: int | None
) -> Iterator[Opened]:
    """Open an encoder or a detector as `reidge run` does.

    Raises:
        ReidgeError: It does not start here, or does not pass its golden check.
    """
    if isinstance(bundle, Bundle):
        with open_encoder(bundle, backend, precision, threads) as encoder:
            found = encoder.golden
            assert found is not None
            golden = {"golden_cosine_mean": found.cosine_mean, "golden_cosine_min": found.cosine_min}
            crops_NHW3 = bundle.golden.crops_NHW3
            yield Opened(call=encoder.embed, pictures_NHW3=crops_NHW3, max_batch=MAX_BATCH, golden=golden)
        return
    config = BundleConfig(path=bundle.path, backend=backend, precision=precision, threads=threads)
    with BundleDetector(config) as detector:
        yield Opened(
            call=lambda frames_NHW3: detector.detect_images(list(frames_NHW3)),
            pictures_NHW3=bundle.golden.frames_NHW3,
            max_batch=detector.max_batch,
            golden={"golden_f1": detector.golden_f1[precision]},
        )


def measure(
    opened: Opened, backend: Backend, precision: Precision, batch: int, *, seconds: float, started: float
) -> Speed:
    """Time calls of one batch size."""
    pictures_NHW3 = np.resize(opened.pictures_NHW3, (batch, *opened.pictures_NHW3.shape[1:]))
    time_calls(opened.call, pictures_NHW3, seconds=WARM_SHARE * seconds, least=MIN_CALLS // 2)
    took_C = time_calls(opened.call, pictures_NHW3, seconds=seconds, least=MIN_CALLS)
    return describe(took_C, backend, precision, batch, opened.golden, started)


def time_calls(
    call: Callable[[NDArray[np.uint8]], object], pictures_NHW3: NDArray[np.uint8], *, seconds: float, least: int
) -> NDArray[np.float64]:
    """Seconds of each call, called for so many seconds and at least so often."""
    took: list[float] = []
    now = began = time.perf_counter()
    while now - began < seconds or len(took) < least:
        call(pictures_NHW3)
        before, now = now, time.perf_counter()
        took.append(now - before)
    return np.array(took)


def describe(
    took_C: NDArray[np.float64],
    backend: Backend,
    precision: Precision,
    batch: int,
    golden: Mapping[str, float],
    start_seconds: float,
) -> Speed:
    """Sum up the calls of one combination, given in seconds."""
    median, p95 = np.percentile(took_C, (50, 95)) * 1e3
    return Speed(
        backend=backend,
        precision=precision,
        batch=batch,
        calls=len(took_C),
        images_per_second=float(batch * len(took_C) / took_C.sum()),
        median_ms=float(median),
        p95_ms=float(p95),
        start_seconds=start_seconds,
        **golden,
    )
