"""`reidge bench`: how fast a bundle runs on this machine, by backend, precision and batch."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidge.cli.output import add_json_argument, emit
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from reidge.edge.bench import BenchReport

ENCODER_BATCHES = (1, 8, 32)
DETECTOR_BATCHES = (1, 4, 8)
"""Cameras that have a frame at the same moment."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stage's arguments."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="bundle folder, of an encoder or a detector")
    parser.add_argument(
        "--backend",
        nargs="+",
        default=None,
        metavar="NAME",
        help="tensorrt, onnxruntime-cuda, onnxruntime-tensorrt, openvino, onnxruntime; all that are here if not given",
    )
    parser.add_argument(
        "--precision", nargs="+", default=None, metavar="NAME", help="float, int8; all in the bundle if not given"
    )
    parser.add_argument(
        "--batch",
        nargs="+",
        type=int,
        default=None,
        metavar="N",
        help="crops or frames in one call; 1 8 32 for an encoder, 1 4 8 for a detector",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="measured for each backend, precision and batch")
    parser.add_argument(
        "--threads", type=int, default=None, help="processor threads; the runtime's choice if not given"
    )
    parser.add_argument(
        "--choose",
        action="store_true",
        default=False,
        help="let backend auto take the fastest on this machine from now on; for an encoder",
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from reidge.cli.engine import load_bundle
    from reidge.edge.backends import BACKENDS, PRECISIONS
    from reidge.edge.backends.choice import remember
    from reidge.edge.bench import bench
    from reidge.edge.bundle import Bundle
    from reidge.edge.progress import Progress

    bundle = load_bundle(args.bundle)
    if isinstance(bundle, Bundle):
        batches, precisions = ENCODER_BATCHES, args.precision or bundle.manifest.precisions
        for precision in precisions:
            bundle.onnx_path(precision)  # what was asked for by name and is not there is a mistake, not a finding
    elif args.choose:
        raise InputError("--choose is for encoders. Name the detector's way in the site file: detector: {backend: ...}")
    else:
        batches, precisions = DETECTOR_BATCHES, args.precision or PRECISIONS
    with Progress("bench", unit="measurements") as progress:
        report = bench(
            bundle,
            backends=args.backend or BACKENDS,
            precisions=precisions,
            batches=args.batch or batches,
            seconds=args.seconds,
            threads=args.threads,
            progress=progress,
        )
    if args.choose and isinstance(bundle, Bundle):
        remember(bundle, report.fastest())
    if args.json:
        emit(args, figures(bundle.path, report, threads=args.threads, chosen=args.choose))
    else:
        print("\n".join(lines_of(report)))
        if args.choose:
            print(f"{report.fastest().backend}, {report.fastest().precision} is what auto takes here from now on.")
    for what, why in report.missing.items():
        print(f"not measured: {what}: {why}", file=sys.stderr)
    return 0


def figures(bundle: Path, report: BenchReport, *, threads: int | None, chosen: bool) -> dict[str, Any]:
    """The whole report as one object, with what it was measured on."""
    from dataclasses import asdict

    from reidge.cli import machine
    from reidge.edge.backends.choice import RUNTIMES, installed_version

    return {
        "bundle": str(bundle),
        "reidge": version("reidge"),
        "machine": {
            "system": machine.describe_system(),
            "cpu": machine.describe_cpu(),
            "memory": machine.describe_memory(),
            "gpus": machine.describe_gpus(),
        },
        "versions": {name: found for name in RUNTIMES if (found := installed_version(name))},
        "threads": threads,
        "speeds": [
            {name: value for name, value in asdict(speed).items() if value is not None} for speed in report.speeds
        ],
        "fastest": report.fastest().model_dump(),
        "chosen": chosen,
        "missing": report.missing,
    }


def lines_of(report: BenchReport) -> Iterator[str]:
    """Write the report as a table for people; the last column is what came of the golden check, at worst."""
    yield (
        f"{'backend':<22}{'precision':<11}{'batch':>5}{'images/s':>11}{'median ms':>11}{'p95 ms':>9}{'start s':>9}"
        f"{'golden':>9}"
    )
    for speed in report.speeds:
        golden = speed.golden_f1 if speed.golden_cosine_min is None else speed.golden_cosine_min
        yield (
            f"{speed.backend:<22}{speed.precision:<11}{speed.batch:>5}{speed.images_per_second:>11.1f}"
            f"{speed.median_ms:>11.2f}{speed.p95_ms:>9.2f}{speed.start_seconds:>9.1f}{golden:>9.4f}"
        )
