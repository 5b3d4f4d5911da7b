"""`reidge export detector`: a foreign detector and frames of the site -> a detector bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from reidge.cli.gate import read_gate
from reidge.cli.output import add_json_argument, emit
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    import argparse

    from reidge.export.detector_graph import Preprocessing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("network", type=Path, help="YOLOX or RT-DETR as ONNX, with raw outputs and a fixed input size")
    parser.add_argument(
        "--frames", nargs="+", required=True, metavar="PATH",
        help="recordings, pictures and folders of pictures of your own cameras, with people in them",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="detector folder to write")
    parser.add_argument(
        "--family", choices=("auto", "yolox", "rtdetr"), default="auto",
        help="refuse a network of any other family; auto takes both, told apart by shape",
    )  # fmt: skip
    parser.add_argument("--person-class", type=int, default=0, metavar="N", help="column of the person among classes")
    parser.add_argument(
        "--channels", choices=("bgr", "rgb"), help="colours as the network was trained; else its family's"
    )
    for name, what in (("mean", "subtracted from values of 0 to 255"), ("std", "divided by after that")):
        parser.add_argument(
            f"--{name}", type=float, nargs=3, metavar="X", help=f"{what}, in the order of --channels; else its family's"
        )
    parser.add_argument(
        "--frame-count", type=int, default=192, metavar="N", help="most frames to use; a third is held out to check on"
    )
    parser.add_argument(
        "--method", choices=("auto", "max", "percentile", "mse", "entropy"), default="auto", help="how ranges are taken"
    )
    parser.add_argument(
        "--gate", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="what INT8 must reach; without it recall=0.95 precision=0.95 mean_iou=0.9",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="write the folder although INT8 misses its gate")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Export and report."""
    from reidge.export.detector import DetectorGate, export_detector

    report = export_detector(
        args.network,
        args.frames,
        args.output,
        family=args.family,
        person_class=args.person_class,
        preprocessing=read_preprocessing(args),
        frame_count=args.frame_count,
        method=args.method,
        gate=read_gate(DetectorGate, args.gate),
        force=args.force,
    )
    for warning in report.warnings:
        print(f"reidge export detector: warning: {warning}", file=sys.stderr)
    emit(args, report.figures)
    return 0


def read_preprocessing(args: argparse.Namespace) -> Preprocessing | None:
    """What `--channels`, `--mean` and `--std` say; None where they say nothing.

    Raises:
        InputError: Only some of them are given, or a deviation is not positive.
    """
    from reidge.export.detector_graph import Preprocessing

    given = {"--channels": args.channels, "--mean": args.mean, "--std": args.std}
    absent = [name for name, value in given.items() if value is None]
    if len(absent) == len(given):
        return None
    if absent:
        raise InputError(f"{absent[0]} is missing: give --channels, --mean and --std together, or none of them.")
    if min(args.std) <= 0:
        raise InputError(f"--std is {' '.join(map(str, args.std))}. Give three numbers above 0.")
    return Preprocessing(channels=args.channels, mean=tuple(args.mean), std=tuple(args.std))
