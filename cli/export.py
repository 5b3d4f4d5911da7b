"""`reidge export`: encoder + calibration crops -> bundle."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reidge.cli.gate import read_gate
from reidge.cli.output import add_json_argument, emit
from reidge.edge.errors import InputError

if TYPE_CHECKING:
    import argparse

RECIPE_NAME = "recipe.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("encoder", type=Path, help="run folder, encoder.safetensors, or a foreign .pth of weights")
    parser.add_argument("--crops", type=Path, required=True, help="crop folder to calibrate and check on")
    parser.add_argument("--output", type=Path, required=True, help="bundle folder to write")
    parser.add_argument("--architecture", help="what a foreign .pth belongs to, e.g. osnet_x0_25")
    parser.add_argument("--calibration-size", type=int, default=512, help="most crops to take activation ranges from")
    parser.add_argument(
        "--method", choices=("auto", "max", "percentile", "mse", "entropy"), default="auto", help="how ranges are taken"
    )
    parser.add_argument(
        "--false-match-rate", type=float, default=0.003, help="share of pairs of different people allowed to match"
    )
    parser.add_argument(
        "--separate-views",
        action="store_true",
        help="cameras never see the same spot, so people seen at once in two of them are different",
    )
    parser.add_argument(
        "--gate",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change what INT8 must reach: cosine_mean=0.99, cosine_p1=0.97, neighbour_overlap=0.9, and with --labels "
        "map_loss=0.005, rank1_loss=0.005",
    )
    parser.add_argument(
        "--max-float-share",
        type=float,
        default=0.25,
        help="most of the multiply-adds that may stay in float for INT8 to pass",
    )
    parser.add_argument("--labels", type=Path, metavar="SPLIT", help="labelled data set to hold mAP and rank-1 on too")
    parser.add_argument(
        "--scales", type=Path, metavar="FILE", help="scales.json of an earlier export of this encoder: no calibration"
    )
    parser.add_argument("--force", action="store_true", help="write the bundle although INT8 misses its accuracy gate")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of crops")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Export and report."""
    from reidge.export.bundle import export_bundle
    from reidge.export.parity import Gate
    from reidge.train.checkpoint import load_encoder

    encoder = load_encoder(args.encoder, args.architecture)
    report = export_bundle(
        encoder,
        args.crops,
        args.output,
        source=args.encoder.resolve().name,
        recipe=read_recipe(args.encoder),
        calibration_size=args.calibration_size,
        method=args.method,
        false_match_rate=args.false_match_rate,
        separate_views=args.separate_views,
        gate=read_gate(Gate, args.gate),
        max_float_share=args.max_float_share,
        labels=args.labels,
        scales=args.scales,
        force=args.force,
        seed=args.seed,
    )
    for warning in report.warnings:
        print(f"reidge export: warning: {warning}", file=sys.stderr)
    emit(args, report.figures)
    return 0


def read_recipe(encoder: Path) -> dict[str, Any] | None:
    """Recipe of the run folder an encoder comes from; None where there is none.

    Raises:
        InputError: The recipe is damaged.
    """
    import yaml

    path = (encoder if encoder.is_dir() else encoder.parent) / RECIPE_NAME
    if not path.is_file():
        return None
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is no YAML: the run folder is damaged. Restore or remove this file.") from error
    return content if isinstance(content, dict) else None
