"""`reidge train`: crop folder -> re-ID encoder, without labels."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from reidge.cli.output import add_json_argument, emit
from reidge.edge.errors import InputError

DEFAULT_RECIPE = "quick"
STUDENT_RECIPE = "student"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the stage's arguments."""
    parser.add_argument("crops", type=Path, metavar="CROPS", help="crop folder, or a benchmark folder without labels")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="run folder to make or resume")
    parser.add_argument(
        "--recipe",
        default=argparse.SUPPRESS,  # whether it was given matters on resuming
        help=f"name of a shipped recipe or a YAML file (default: {DEFAULT_RECIPE}; with --teacher {STUDENT_RECIPE}; "
        "on resuming the run's own)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe, e.g. cluster.eps=0.5"
    )
    parser.add_argument(
        "--weights", default=None, help="start from `imagenet`, a file or another run, in place of the recipe's"
    )
    parser.add_argument(
        "--teacher", default=None, metavar="RUN", help="distil this trained encoder into the recipe's, without labels"
    )
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
        if recipe_name is not None or args.set or args.weights is not None or args.teacher is not None:
            raise InputError(
                "--resume keeps the recipe of the run. Leave out --recipe, --set, --weights and --teacher."
            )
        recipe = read_recipe(args.output)
    else:
        taught = [] if args.teacher is None else [f"distil.encoder={json.dumps(args.teacher)}"]
        default = DEFAULT_RECIPE if args.teacher is None else STUDENT_RECIPE
        recipe = load_recipe(recipe_name or default, [*taught, *args.set])
    summary = train(recipe, args.crops, args.output, weights=args.weights, resume=args.resume, split=args.split)
    if os.environ.get("RANK", "0") != "0":  # of the processes of torchrun one speaks
        return 0
    figures = {
        "epochs": summary.epochs,
        "chosen_epoch": summary.chosen_epoch,
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
