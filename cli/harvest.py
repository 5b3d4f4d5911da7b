"""`reidge harvest`: footage to a crop folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from reidge.cli.output import add_json_argument, emit
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stage's arguments."""
    parser.add_argument(
        "--footage", action="append", required=True, metavar="CAM=SOURCE", help="one camera's footage; give it again"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="crop folder to make")
    parser.add_argument(
        "--detector",
        default="motion",
        help="'motion', the path of a YOLOX ONNX file, or a folder of reidge export detector",
    )
    parser.add_argument("--crops-per-tracklet", type=int, default=12, metavar="N", help="crops kept of each tracklet")
    parser.add_argument("--min-height", type=int, default=64, metavar="PIXELS", help="smallest person")
    parser.add_argument("--max-fps", type=float, metavar="FPS", help="use at most this many frames per second")
    parser.add_argument("--since", type=float, default=0.0, metavar="SECONDS", help="skip the start of each recording")
    parser.add_argument(
        "--until", type=float, metavar="SECONDS", help="stop there in each recording; how long to watch a live stream"
    )
    parser.add_argument("--start", metavar="TIME", help="when the recordings began: ISO 8601 or seconds since 1970")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any other setting")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Do the work and return the exit status."""
    from reidge.calibration.harvest import HarvestConfig, harvest
    from reidge.edge.settings import apply_overrides, parse_time, validate

    values = {
        "detector": parse_detector(args.detector),
        "crops_per_tracklet": args.crops_per_tracklet,
        "min_height": args.min_height,
        "max_fps": args.max_fps,
        "since": args.since,
        "until": args.until,
        "start": None if args.start is None else parse_time(args.start, what="--start"),
    }
    config = validate(HarvestConfig, apply_overrides(values, args.set), where="harvest")
    summary = harvest(parse_footage(args.footage), args.output, config)
    emit(args, {"output": str(args.output), **asdict(summary)})
    return 0


def parse_detector(text: str) -> dict[str, str]:
    """Settings of the detector that a name or path stands for."""
    if text == "motion":
        return {"kind": "motion"}
    return {"kind": "bundle" if Path(text).is_dir() else "yolox", "path": text}


def parse_footage(texts: list[str]) -> dict[str, str]:
    """Split `cam1=video.mp4` at the first `=`; each camera may be named once.

    Raises:
        InputError: A text has no name, or a name comes twice.
    """
    footage: dict[str, str] = {}
    for text in texts:
        camid, _, source = text.partition("=")
        if not camid or not source:
            raise InputError(f"--footage {text} names no camera. Write it like this: --footage cam1=video.mp4")
        if camid in footage:
            raise InputError(f"--footage names {camid} twice. Each camera has one recording.")
        footage[camid] = source
    return footage
