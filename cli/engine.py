"""`reidge engine`: bundle -> TensorRT engine, built and checked on the device that will run it."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from reidge.cli.output import add_json_argument, emit
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    import argparse

    from reidge.edge.bundle import Bundle, Precision
    from reidge.edge.detector_bundle import DetectorBundle
    from reidge.edge.engine_cache import EngineOptions

MAIN_RELEASE = 10
"""Of TensorRT, where `--trtexec` is asked for on a machine without one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stage's arguments."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle folder, of an encoder or a detector")
    parser.add_argument(
        "--precision", choices=("auto", "int8", "float"), default="auto", help="auto: INT8 where the bundle has it"
    )
    parser.add_argument(
        "--batch",
        nargs=3,
        type=int,
        default=None,
        metavar=("MIN", "BEST", "MAX"),
        help="batches the engine takes, and the one it is tuned for; 1 8 64 for an encoder, 1 1 1 for a detector",
    )
    parser.add_argument(
        "--no-half", action="store_true", default=False, help="compute in FP32 what is not INT8, in place of FP16"
    )
    parser.add_argument(
        "--workspace-mib", type=int, default=None, help="most scratch memory; all there is if not given"
    )
    parser.add_argument(
        "--level", type=int, default=None, help="effort of the optimiser, 0 to 5; TensorRT's own if not"
    )
    parser.add_argument(
        "--dla-core", type=int, default=None, help="build for this DLA of a Jetson, with one batch size"
    )
    parser.add_argument("--rebuild", action="store_true", default=False, help="build although the engine is there")
    parser.add_argument(
        "--trtexec",
        nargs="?",
        type=int,
        const=0,
        default=None,
        metavar="RELEASE",
        help="build nothing, print the trtexec command that times such an engine with TensorRT 8, 10 or 11",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Build, check and report."""
    from reidge.edge.engine import obtain_engine
    from reidge.edge.engine_cache import EngineCache

    bundle = load_bundle(args.bundle)
    precision = choose_precision(args.precision, bundle)
    path = bundle.onnx_path(precision)
    options = read_options(args, path)
    if args.trtexec is not None:
        command = shlex.join(describe_trtexec(path, bundle, options, precision=precision, release=args.trtexec))
        print(json.dumps({"command": command}) if args.json else command)
        return 0
    cache = EngineCache()
    started = time.perf_counter()
    engine = obtain_engine(path, cache, options, rebuild=args.rebuild)
    seconds = time.perf_counter() - started
    earlier = cache.options_for(engine.key.onnx_sha256)
    cache.choose_options(engine.key.onnx_sha256, options)
    try:
        golden = check_golden(bundle, precision)
    except BaseException:  # an engine that computes something else is worth nothing to later runs
        cache.discard(engine.key)
        cache.choose_options(engine.key.onnx_sha256, earlier)
        raise
    figures = {
        "engine": str(engine.path),
        "precision": precision,
        "built": engine.built,
        "seconds": seconds,
        "mib": len(engine.plan) / 2**20,
        "tensorrt": engine.key.tensorrt,
        "gpu": f"{engine.key.gpu}, compute capability {engine.key.capability}",
        "golden": "passed",
        **golden,
    }
    emit(args, figures)
    return 0


def load_bundle(path: Path) -> Bundle | DetectorBundle:
    """Load an encoder's or a detector's bundle, whichever it is."""
    from reidge.edge.bundle import Bundle
    from reidge.edge.engine import is_detector

    if not is_detector(path):
        return Bundle.load(path)
    from reidge.edge.detector_bundle import DetectorBundle

    return DetectorBundle.load(path)


def choose_precision(wanted: str, bundle: Bundle | DetectorBundle) -> Precision:
    """The precision asked for; INT8 where it is left open and the bundle has it."""
    from reidge.edge.bundle import Bundle

    if wanted != "auto":
        return cast("Precision", wanted)
    return "int8" if not isinstance(bundle, Bundle) or "int8" in bundle.manifest.precisions else "float"


def read_options(args: argparse.Namespace, path: Path) -> EngineOptions:
    """The options as they were given, checked.

    Raises:
        InputError: One is out of its range, or they contradict each other.
    """
    from pydantic import ValidationError

    from reidge.edge.engine import usual_options
    from reidge.edge.engine_cache import EngineOptions
    from reidge.edge.settings import describe_problem

    usual = usual_options(path)
    batches = args.batch or (usual.min_batch, usual.best_batch, usual.max_batch)
    try:
        return EngineOptions(
            half=not args.no_half,
            min_batch=batches[0],
            best_batch=batches[1],
            max_batch=batches[2],
            workspace_mib=args.workspace_mib,
            dla_core=args.dla_core,
            level=args.level,
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(str(part) for part in first["loc"])
        raise InputError(f"{where or 'options'}: {describe_problem(first)}. See: reidge engine --help") from error


def check_golden(bundle: Bundle | DetectorBundle, precision: Precision) -> dict[str, float]:
    """Start the engine as `reidge run` would, which compares it with the golden crops or frames; say how near it is.

    Raises:
        GoldenMismatch: It computes something else than the bundle's encoder or detector.
    """
    from reidge.edge.backends import EdgeEncoder
    from reidge.edge.bundle import Bundle

    if isinstance(bundle, Bundle):
        with EdgeEncoder(bundle, backend="tensorrt", precision=precision, threads=None) as encoder:
            assert encoder.golden is not None
            return {
                "golden_cosine_mean": encoder.golden.cosine_mean,
                "golden_cosine_min": encoder.golden.cosine_min,
            }
    from reidge.edge.detectors.bundle import BundleConfig, BundleDetector

    with BundleDetector(BundleConfig(path=bundle.path, backend="tensorrt", precision=precision)) as detector:
        return {"golden_f1": detector.golden_f1[precision]}


def describe_trtexec(
    path: Path, bundle: Bundle | DetectorBundle, options: EngineOptions, *, precision: Precision, release: int
) -> list[str]:
    """The `trtexec` command; for TensorRT 11 the graph with FP16 in it is written first.

    Raises:
        InputError: There is no such release.
    """
    from reidge.edge.bundle import Bundle
    from reidge.edge.engine import has_fixed_batch, trtexec_command, write_half
    from reidge.edge.engine_builder import EngineError, load_tensorrt, version_of

    if not release:
        try:
            release = version_of(load_tensorrt())[0]
        except EngineError:
            release = MAIN_RELEASE
    if release not in (8, 10, 11):
        raise InputError(f"the release of TensorRT must be 8, 10 or 11, got {release}.")
    if release == 11 and options.half:
        path = write_half(path)
        print(f"reidge engine: the graph with FP16 in it is {path}", file=sys.stderr)
    elif options.half:
        print(
            "reidge engine: this command is for timing: it pins no layer to FP32, so sums and powers may overflow in "
            "what it saves",
            file=sys.stderr,
        )
    return trtexec_command(
        path,
        options,
        name="crops" if isinstance(bundle, Bundle) else "frames",
        shape=(*bundle.manifest.input.size, 3),
        int8=precision == "int8",
        major=release,
        fixed_batch=not isinstance(bundle, Bundle) and has_fixed_batch(path),
    )
