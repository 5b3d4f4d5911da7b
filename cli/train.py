"""`reidge train`: crop folder -> re-ID encoder, without labels."""

from __future__ import annotations

import argparse
from pathlib import Path

from reidge.cli.output import add_json_argument, emit
from reidge.edge.errors import InputError

DEFAULT_RECIPE = "quick"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stage's arguments."""
    parser.add_argument("crops", type=Path, metavar="CROPS", help="crop folder, or a benchmark folder without labels")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="run folder to make or resume")
    parser.add_argument(
        "--recipe",
        default=argparse.SUPPRESS,  # whether it was given matters on resuming
        help=f"name of a shipped recipe or a YAML file (default: {DEFAULT_RECIPE}, or the run's own on resuming)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe, e.g. cluster.eps=0.5"
    )
    parser.add_argument("--weights", default=None, help="start from `imagenet` or a file, in place of the recipe's")
    parser.add_argument("--resume", action="store_true", help="continue the run in RUN after its last whole epoch")
    parser.add_argument(
        "--split", type=Path, default=None, metavar="DIR", help="labelled query/gallery folder, for reported figures"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Train and print how it ended."""
    from reidge.train.loop import train
    from reidge.train.recipe import load_recipe
    from reidge.train.run_folder import REPORT_NAME, read_recipe

    recipe_name = getattr(args, "recipe", None)
    if args.resume:
        if recipe_name is not None or args.set or args.weights is not None:
            raise InputError("--resume keeps the recipe of the run. Leave out --recipe, --set and --weights.")
        recipe = read_recipe(args.output)
    else:
        recipe = load_recipe(recipe_name or DEFAULT_RECIPE, args.set)
    summary = train(recipe, args.crops, args.output, weights=args.weights, resume=args.resume, split=args.split)
    figures = {
        "epochs": summary.epochs,
        "images": summary.images,
        "clusters": summary.clusters,
        "outliers": summary.outliers,
        "loss": summary.loss,
        "map": None if summary.mAP is None else 100 * summary.mAP,
        "rank1": None if summary.rank1 is None else 100 * summary.rank1,
        "seconds": summary.seconds,
        "images_per_second": summary.images_per_second,
        "run": str(summary.run_dir),
        "report": str(summary.run_dir / REPORT_NAME),
    }
    emit(args, {name: value for name, value in figures.items() if value is not None})
    return 0
